"""Bounded work: one inference at a time, a few that wait, and a clear refusal for the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(Exception):
    """No turn is free; ask again later."""


class Turns:
    """Who may infer.

    Args:
        waiting: how many may wait while one works.
        patience_s: how long one waits.
    """

    def __init__(self, *, waiting: int, patience_s: float):
        self.waiting = waiting
        self.patience_s = patience_s
        self._inside = 0
        self._count = threading.Lock()
        self._turn = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn and hold it.

        Raises:
            BusyError: too many wait already, or it took too long.
        """
        with self._count:
            if self._inside > self.waiting:
                raise BusyError(
                    f"the server is busy: one question is being answered and {self.waiting} wait; ask again"
                )
            self._inside += 1
        try:
            if not self._turn.acquire(timeout=self.patience_s):
                raise BusyError(f"the server is busy: no turn within {self.patience_s:g} s; ask again")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            with self._count:
                self._inside -= 1
