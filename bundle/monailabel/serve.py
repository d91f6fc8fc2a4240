"""Starting the server: MONAI Label's own application with our app in it and the gate before it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bundle.monailabel.gate import is_loopback
from prsmed.errors import PrsmedError, RequestError
from prsmed.types import NOT_A_MEDICAL_DEVICE

_APP = Path(__file__).resolve().parent
_ROOT = _APP.parents[1]


def configure(studies: str, home: Path, models: dict[str, str], *, device: str, realm: str | None) -> None:
    """Tell MONAI Label, and the processes it starts, by environment variables; it reads them when it is imported."""
    own = [str(_ROOT), str(_APP / "placeholders")]
    sys.path[:0] = own
    conf: dict[str, Any] = {"home": str(home.resolve()), "models": models, "device": device}
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MONAI_LABEL_APP_DIR": str(_APP),
        "MONAI_LABEL_STUDIES": studies if _is_url(studies) else str(Path(studies).resolve()),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
        "MONAI_LABEL_SESSION_PATH": str(home.resolve() / "sessions"),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_TASKS_SCORING": "false",
        "MONAI_LABEL_AUTH_ENABLE": "true" if realm else "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if realm:
        os.environ["MONAI_LABEL_AUTH_REALM_URI"] = realm


def build(home: Path, *, waiting: int, patience_s: float, upload_bytes: int, realm: str | None) -> Any:
    """MONAI Label's application behind the gate; after `configure`."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints origins (CORS) that do not hold here
        from monailabel.app import app
    from monailabel.interfaces.utils.app import app_instance

    from bundle.monailabel import ohif, routes
    from bundle.monailabel.audit import AuditLog
    from bundle.monailabel.dicomweb import DicomwebStudies
    from bundle.monailabel.gate import OHIF_RULES, RULES, Gate
    from bundle.monailabel.turns import BusyError, Turns

    caller_of = None
    if realm:
        from bundle.monailabel import tokens

        tokens.mend_stock_check()
        caller_of = tokens.caller_of
    audit = AuditLog(home)
    app.state.turns = Turns(waiting=waiting, patience_s=patience_s)
    app.state.audit_log = audit
    app.user_middleware.clear()  # stock lets pages of any origin in (CORS); here only its own
    app.router.routes[:0] = routes.router.routes  # the first that fits answers
    rules = RULES
    if isinstance(app_instance().datastore(), DicomwebStudies):
        app.router.routes[:0] = ohif.router.routes
        rules += OHIF_RULES
    app.add_exception_handler(PrsmedError, routes.refusal)
    app.add_exception_handler(BusyError, routes.refusal)
    type(app_instance()).gated = True
    return Gate(app, audit=audit, upload_bytes=upload_bytes, caller_of=caller_of, rules=rules)


def serve(
    studies: Annotated[
        str, typer.Option(help="Folder of images, labels are written into it; or a DICOMweb service, http://...")
    ],
    home: Annotated[Path, typer.Option(help="Where runs, sessions and the audit log are kept.")] = Path("runs/label"),
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=MODEL, a shipped model or a folder; may be given again.")
    ] = None,
    host: Annotated[str, typer.Option(help="Other than loopback only with --realm.")] = "127.0.0.1",
    port: Annotated[int, typer.Option()] = 8000,
    realm: Annotated[
        str | None, typer.Option(envvar="PRSMED_REALM", help="OpenID Connect realm; everybody has to log in there.")
    ] = None,
    waiting: Annotated[int, typer.Option(min=0, max=24, help="Questions that may wait while one is answered.")] = 16,
    patience_s: Annotated[float, typer.Option(help="How long they wait for their turn.")] = 60.0,
    upload_mb: Annotated[int, typer.Option(help="The largest file that is taken.")] = 1024,
    device: Annotated[str, typer.Option()] = "cpu",
) -> None:
    """Serve questions about a folder of images to 3D Slicer."""
    import uvicorn

    if not is_loopback(host) and not realm:
        raise RequestError(f"--host {host}: can be reached by others, so that they must log in; give --realm")
    if _is_url(studies) and "@" in studies:
        raise RequestError("--studies: the address holds a password; give it in MONAI_LABEL_DICOMWEB_PASSWORD")
    if not _is_url(studies) and not Path(studies).is_dir():
        raise RequestError(f"--studies {studies}: is no folder; name one that holds images")
    logging.getLogger("monailabel").setLevel(logging.CRITICAL)  # `main` says why
    logging.getLogger("timeloop").disabled = True  # it sets a level of its own
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    models = {"prsmed": "tiny", **dict(map(_named, model or ()))}
    configure(studies, home, models, device=device, realm=realm)
    application = build(home, waiting=waiting, patience_s=patience_s, upload_bytes=upload_mb * 1024 * 1024, realm=realm)
    typer.echo(f"Enter http://{host}:{port} in Slicer; stop with Ctrl-C. {NOT_A_MEDICAL_DEVICE}")
    # uvicorn's own access log would name images; the gate's does not
    uvicorn.run(application, host=host, port=port, access_log=False, log_level="warning", server_header=False)


def _is_url(studies: str) -> bool:
    return studies.startswith(("http://", "https://"))


def _named(text: str) -> tuple[str, str]:
    name, _, model = text.partition("=")
    if not name.isidentifier() or not model:
        raise RequestError(f"--model {text!r}: expected NAME=MODEL, for example prsmed=tiny")
    return name, model


def main() -> None:
    """Entry point; errors made for people are printed in one line."""
    try:
        typer.run(serve)
    except PrsmedError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
