"""Stages: what learns when, at which rate. The expected factors are written out from the definition."""

import math

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from bundle.schedule import StagedSchedule
from prsmed.errors import RequestError

ALL = {"name": "all", "share": 1.0, "trainable": ["*"]}


def network() -> nn.Module:
    return nn.ModuleDict({"encoder": nn.Linear(2, 2), "fusion": nn.Linear(2, 2)})


def schedule(stages: list[dict], *, model: nn.Module | None = None, **numbers) -> StagedSchedule:
    model = model or network()
    numbers = {"max_epochs": 4, "epoch_length": 5, "warmup": 0.2, "end_factor": 0.01, **numbers}
    return StagedSchedule(model, torch.optim.SGD(model.parameters(), lr=0.1), stages=stages, **numbers)


def test_warm_up_and_cosine_by_hand() -> None:
    """20 iterations, 4 of them warm-up in fifths, then half a cosine over 16."""
    factor = schedule([ALL]).factor
    assert [factor(iteration) for iteration in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(12) == pytest.approx(0.01 + 0.99 * 0.5)  # half way down
    assert factor(19) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 15 / 16)))
    assert factor(20) == pytest.approx(0.01)  # what the scheduler asks for after the last step


def test_each_stage_warms_up_to_its_own_rate() -> None:
    first = {"name": "join", "share": 0.25, "trainable": ["fusion.*"], "learning_rate": 2.0}
    staged = schedule([first, {**ALL, "share": 0.75, "learning_rate": 0.5}])
    assert [staged.stage_at(epoch) for epoch in range(5)] == [0, 1, 1, 1, 1]
    # first stage: 5 iterations, 1 of warm-up; second: 15, 3 of warm-up
    assert [staged.factor(iteration) for iteration in (0, 1)] == pytest.approx([2.0 * 1 / 2, 2.0])
    assert [staged.factor(iteration) for iteration in (5, 6, 7, 8)] == pytest.approx([0.125, 0.25, 0.375, 0.5])


def test_the_optimizer_follows() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    staged = StagedSchedule(model, optimizer, stages=[ALL], max_epochs=4, epoch_length=5, warmup=0.2)
    rates = []
    engine = Engine(lambda engine, batch: (rates.append(optimizer.param_groups[0]["lr"]), optimizer.step()))
    staged.attach(engine)
    engine.run([0] * 5, max_epochs=4)
    assert rates == pytest.approx([0.1 * staged.factor(iteration) for iteration in range(20)])


def test_patterns_freeze_and_thaw() -> None:
    model = network()
    stages = [{"name": "join", "share": 0.5, "trainable": ["fusion.*"]}, {**ALL, "share": 0.5}]
    learns: list[list[str]] = []
    engine = Engine(lambda engine, batch: learns.append([n for n, p in model.named_parameters() if p.requires_grad]))
    staged = schedule(stages, model=model, epoch_length=1)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: staged.scheduler.optimizer.step())
    staged.attach(engine)
    engine.run([0], max_epochs=4)
    joined = ["fusion.weight", "fusion.bias"]
    assert learns == [
        joined,
        joined,
        ["encoder.weight", "encoder.bias", *joined],
        ["encoder.weight", "encoder.bias", *joined],
    ]


def test_a_wrapper_for_several_processes_changes_no_name() -> None:
    wrapped = nn.ModuleDict({"module": network()})  # DistributedDataParallel names its content so
    schedule([{"name": "join", "share": 1.0, "trainable": ["fusion.*"]}], model=wrapped)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([{**ALL, "share": 0.5}], "must add up to 1"),
        ([{**ALL, "share": 0.6}, {**ALL, "share": 0.6}], "must add up to 1"),
        ([{**ALL, "trainable": ["fusoin.*"]}], "names start with encoder, fusion"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stages: list[dict], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        schedule(stages)
