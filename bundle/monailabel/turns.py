"""Bounded work: one inference at a time in a thread of its own, a queue in order, and a clear refusal for the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """No turn is free; ask again later."""


class Turns:
    """Who may infer.

    All work is done by one thread: torch keeps memory and helpers for every thread that calls it, and with the server's
    many threads both would grow.

    Args:
        waiting: how many may wait while one works.
        patience_s: how long one waits.
    """

    def __init__(self, *, waiting: int, patience_s: float):
        self.waiting = waiting
        self.patience_s = patience_s
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self._inside = 0
        self._count = threading.Lock()

    def take(self, work: Callable[[], T]) -> T:
        """Wait for a turn, and return what the work returns.

        Raises:
            BusyError: too many wait already, or it did not begin in time.
        """
        with self._place():
            future = self._worker.submit(work)
            try:
                return future.result(timeout=self.patience_s)
            except TimeoutError as error:
                if future.cancel():
                    raise BusyError(f"the server is busy: no turn within {self.patience_s:g} s; ask again") from error
                return future.result()

    @contextmanager
    def _place(self) -> Iterator[None]:
        with self._count:
            if self._inside > self.waiting:
                raise BusyError(
                    f"the server is busy: one question is being answered and {self.waiting} wait; ask again"
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._count:
                self._inside -= 1
