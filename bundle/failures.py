"""What a person reads when a run fails for a reason we know: one line, not MONAI's tracebacks around it."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from prsmed.errors import PrsmedError

logger = logging.getLogger(__name__)


def known_cause(error: BaseException | None) -> PrsmedError | None:
    """The error of ours that lies behind an error; None where there is none. MONAI wraps what a config raises."""
    while error is not None and not isinstance(error, PrsmedError):
        error = error.__cause__ or error.__context__
    return error


def explain_failures() -> None:
    """From now on a run that ends by an error of ours says what to do in one line; any other error is left as it is."""
    sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    known = known_cause(error)
    if known is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.error("%s", known)
