"""Which weights answer: those the server was started with, until a fine-tuned candidate has been accepted."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bundle.monailabel.asked import AskRequest, check_name
from prsmed.data.readers.extent import require_modest
from prsmed.errors import CheckpointError, PrsmedError, RequestError
from prsmed.models.checkpoints import model_folder, read_info
from prsmed.predictor import Predictor
from prsmed.sessions import Session, VolumeSession
from prsmed.types import Answer
from prsmed.volumes import VolumeAnswer, VolumeOptions

RUNS = "runs"
_ACCEPTED_FILE = "accepted.json"
_INITIAL = "initial"
_NAME_CHARACTERS = 80


class Served:
    """One model that answers questions.

    Args:
        home: holds what fine-tuning makes (`runs/`) and which of it was accepted.
        initial: a shipped model's name or a model folder, served until another one is accepted.
        device: of torch.

    Raises:
        CheckpointError: the weights cannot be used, or are not those that were accepted.
    """

    def __init__(self, home: Path, initial: str, *, device: str = "cpu"):
        self.home = home
        self.initial = initial
        self.device = device
        self._lock = threading.Lock()
        self.predictor = self._load()

    def ask(self, image: Path, asked: AskRequest) -> tuple[Session | VolumeSession, Answer]:
        """Open the image and ask.

        Raises:
            DataError: the image cannot be read.
            RequestError: it cannot be asked like that.
        """
        require_modest(image)
        session = self.predictor.open(
            image, modality=asked.modality, position=asked.position, volume=VolumeOptions(axis=asked.axis)
        )
        return session, session.ask(asked.question)

    def folder(self) -> Path:
        """The model folder that answers, to start fine-tuning from."""
        accepted = self._accepted()
        return self._best(accepted["run"]) if accepted else model_folder(self.initial)

    def candidates(self) -> list[dict[str, Any]]:
        """Every fine-tuned model, newest last, and whether it is the one that answers."""
        serving = (self._accepted() or {}).get("run")
        found = []
        for folder in sorted((self.home / RUNS).glob("*/best")):
            try:
                info = read_info(folder)
            except CheckpointError:
                continue
            name = folder.parent.name
            scores: dict[str, Any] = {key: info[key] for key in ("epoch", "score", "scores") if key in info}
            found.append(
                {"run": name, "weights_sha256": info["weights"]["sha256"], "serving": name == serving, **scores}
            )
        return found

    def accept(self, run: str, *, who: str = "") -> dict[str, Any]:
        """Let a candidate answer from now on; `initial` goes back to where the server began.

        Raises:
            RequestError: there is no such candidate, or it cannot be loaded; what was served goes on.
        """
        with self._lock:
            record = {"run": check_name(run), "who": who, "time": datetime.now(UTC).isoformat(timespec="seconds")}
            if run == _INITIAL:
                predictor = Predictor.load(self.initial, self.device)
            else:
                try:
                    predictor = Predictor.load(self._best(run), self.device)
                except PrsmedError as error:
                    raise RequestError(f"run {run}: cannot be served ({type(error).__name__}); train again") from error
            record["weights_sha256"] = predictor.model_record()["weights_sha256"]
            part = self.home / f".{_ACCEPTED_FILE}.tmp"
            part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            part.replace(self.home / _ACCEPTED_FILE)
            self.predictor = predictor
        return record

    def _load(self) -> Predictor:
        accepted = self._accepted()
        predictor = Predictor.load(self.folder() if accepted else self.initial, self.device)
        if accepted and predictor.model_record()["weights_sha256"] != accepted["weights_sha256"]:
            raise CheckpointError(
                f"{self.folder()}: is not what was accepted (its hash differs); remove {self.home / _ACCEPTED_FILE} to"
                " serve the initial model, and accept again"
            )
        return predictor

    def _accepted(self) -> dict[str, Any] | None:
        path = self.home / _ACCEPTED_FILE
        if not path.is_file():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        return None if record["run"] == _INITIAL else record

    def _best(self, run: str) -> Path:
        return self.home / RUNS / check_name(run) / "best"


def shown_params(answer: Answer) -> dict[str, Any]:
    """An answer as a client gets it: the record of `answer.json`, and what the stock Slicer module shows of it.

    That module prints everything to its console, and names segments after `label_names`.
    """
    thing, record = answer.objects[0], answer.to_json()
    if isinstance(answer, VolumeAnswer):  # `text` is about the key slice
        assert answer.volume_statistics is not None
        mask, sentence = answer.mask_ijk, answer.volume_statistics["summary"]
        findings = answer.volume_statistics["findings"]
    else:
        mask, sentence, findings = thing.mask, answer.text, record["objects"][0]["findings"]
    name = " ".join(sentence.split())[:_NAME_CHARACTERS]
    return {
        **record,
        "answer": sentence,
        "label_names": {name: 1} if mask.any() else {},
        "present": thing.present,
        "findings": findings,
    }
