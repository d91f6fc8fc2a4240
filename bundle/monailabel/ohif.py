"""OHIF beside a DICOMweb service: the viewer that comes with MONAI Label, and what it reads of the service through us.

Only read, only below `studies`, and only where nobody has to log in: the viewer's pages carry no token.
"""

from __future__ import annotations

from pathlib import Path

import monailabel.endpoints
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, Response
from monailabel.interfaces.utils.app import app_instance
from requests import RequestException

from prsmed.data.containment import file_inside
from prsmed.errors import DataError

router = APIRouter()
_VIEWER = Path(monailabel.endpoints.__file__).parent / "static/ohif"
_TIMEOUT_S = 30.0


@router.get("/ohif/{path:path}")
def viewer(path: str) -> FileResponse:
    """A file of the viewer; its own page for the addresses that it makes up."""
    try:
        file = file_inside(_VIEWER, path, "ohif")
    except DataError:
        file = _VIEWER
    return FileResponse(file if file.is_file() else _VIEWER / "index.html")


@router.get("/proxy/dicom/{service}/{path:path}")
def read(request: Request, path: str) -> Response:
    """What the DICOMweb service says, asked with the server's own user and password; the gate knows the paths."""
    studies = app_instance().datastore()
    try:
        reply = studies.session.get(
            f"{studies.url}/{path}",
            params=dict(request.query_params),
            headers={"Accept": request.headers.get("accept", "*/*")},
            timeout=_TIMEOUT_S,
        )
    except RequestException as error:
        raise HTTPException(502, f"the DICOMweb service does not answer ({type(error).__name__})") from error
    return Response(reply.content, reply.status_code, headers={"Content-Type": reply.headers.get("content-type", "")})
