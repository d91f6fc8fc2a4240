"""A training that lasts a stated time: the learning rate follows the clock, and the last epoch ends when time is up."""

from __future__ import annotations

import time

from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class ClockDecay(LRScheduler):
    """Learning rate on a straight line down to zero, by the share `done` of a training and not by counting steps.

    `used_s` and `done` belong to the scheduler's state, so that a resumed run does not get its time twice.
    """

    def __init__(self, optimizer: Optimizer):
        self.used_s = 0.0
        self.done = 0.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Of each parameter group, now."""
        return [rate * (1 - self.done) for rate in self.base_lrs]


class TimedSchedule:
    """Trains for `max_minutes` or `max_epochs`, whichever ends first, and decays the learning rate towards that end.

    Validations between epochs count; the one after the last epoch does not. When time is up the running epoch becomes
    the last one, so that it is validated and saved like any last epoch.
    """

    def __init__(self, optimizer: Optimizer, *, max_minutes: float, max_epochs: int, epoch_length: int):
        self.limit_s = max_minutes * 60
        self.iterations = max_epochs * epoch_length
        self.scheduler = ClockDecay(optimizer)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _start(self, engine: Engine) -> None:
        self._seen_s = time.monotonic()

    def _step(self, engine: Engine) -> None:
        clock, now_s = self.scheduler, time.monotonic()
        clock.used_s += now_s - self._seen_s
        self._seen_s = now_s
        clock.done = min(1.0, max(clock.used_s / self.limit_s, engine.state.iteration / self.iterations))
        clock.step()
        if clock.done == 1.0:
            engine.state.max_epochs = engine.state.epoch
            engine.terminate_epoch()
