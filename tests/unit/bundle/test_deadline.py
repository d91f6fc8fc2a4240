"""The clock decides the learning rate and the last epoch; the clock here is a list of seconds."""

from collections.abc import Iterator

import pytest
import torch
from ignite.engine import Engine, Events

from bundle import deadline
from bundle.deadline import TimedSchedule


class Clock:
    """Each iteration takes a second; the first reading is at an arbitrary time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(deadline, "time", clock)
    yield clock


class Training:
    """Epochs of four iterations of an engine that only notes its learning rates and its whole epochs."""

    def __init__(self, *, max_minutes: float, max_epochs: int):
        self.max_epochs = max_epochs
        self.optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.8)
        self.schedule = TimedSchedule(self.optimizer, max_minutes=max_minutes, max_epochs=max_epochs, epoch_length=4)
        self.rates: list[float] = []
        self.last_epochs: list[bool] = []
        self.engine = Engine(self.step)
        self.schedule.attach(self.engine)
        self.engine.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda engine: self.last_epochs.append(engine.state.epoch == engine.state.max_epochs),
        )

    def step(self, engine: Engine, batch: int) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()

    def run(self) -> "Training":
        self.engine.run([0, 1, 2, 3], max_epochs=self.max_epochs)
        return self


def test_the_rate_falls_with_the_clock_and_the_running_epoch_is_the_last() -> None:
    """0.1 minutes are six iterations of a second: one epoch and a half."""
    training = Training(max_minutes=0.1, max_epochs=100).run()
    assert training.rates == pytest.approx([0.8 * (6 - used) / 6 for used in range(6)])
    assert training.last_epochs == [False, True]


def test_max_epochs_may_come_first() -> None:
    training = Training(max_minutes=60, max_epochs=2).run()
    assert training.rates == pytest.approx([0.8 * (8 - done) / 8 for done in range(8)])
    assert training.last_epochs == [False, True]


def test_the_time_of_a_validation_counts(clock: Clock) -> None:
    training = Training(max_minutes=0.1, max_epochs=100)

    def validate() -> None:
        clock.now_s += 1.0

    training.engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    assert len(training.run().rates) == 5


def test_a_resumed_training_goes_on_with_its_clock(clock: Clock) -> None:
    """The first process used four of the six seconds; the night between the two does not count."""
    first = Training(max_minutes=0.1, max_epochs=100)
    first.engine.add_event_handler(Events.EPOCH_COMPLETED, first.engine.terminate)
    state = first.run().schedule.scheduler.state_dict()
    clock.now_s += 36_000
    second = Training(max_minutes=0.1, max_epochs=100)
    second.engine.add_event_handler(Events.STARTED, lambda: second.schedule.scheduler.load_state_dict(state))
    assert len(second.run().rates) == 2
