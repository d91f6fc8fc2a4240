"""Training stages from configuration: which parameters learn, for how long, at which learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bundle.distributed import set_learning
from prsmed.errors import RequestError


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: for logs.
        share: part of all epochs.
        trainable: patterns of parameter names (`fnmatch`), such as `fusion.*`; the rest is frozen.
        learning_rate: peak, as a factor of the optimiser's own.
    """

    name: str
    share: float
    trainable: tuple[str, ...]
    learning_rate: float = 1.0

    @classmethod
    def from_config(cls, entry: Mapping[str, Any]) -> Stage:
        return cls(**{**entry, "trainable": tuple(entry["trainable"])})


class StagedSchedule:
    """Freezes and thaws parameters by stage; within a stage, linear warm-up and then a cosine down to `end_factor`.

    Args:
        stages: shares add up to 1; the last stage takes what rounding leaves.
        warmup: share of a stage's iterations.

    Raises:
        RequestError: shares that do not add up, or a pattern that fits no parameter.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        stages: Sequence[Mapping[str, Any]],
        max_epochs: int,
        epoch_length: int,
        warmup: float = 0.05,
        end_factor: float = 0.01,
    ):
        self.network = network
        self.stages = [Stage.from_config(entry) for entry in stages]
        if not math.isclose(sum(stage.share for stage in self.stages), 1.0, abs_tol=1e-6):
            raise RequestError(f"stages: shares {[stage.share for stage in self.stages]} must add up to 1")
        names = _parameter_names(network)
        for pattern in (pattern for stage in self.stages for pattern in stage.trainable):
            if not any(fnmatch(name, pattern) for name in names):
                raise RequestError(
                    f"stages: no parameter is called like {pattern!r}; names start with"
                    f" {', '.join(sorted({name.partition('.')[0] for name in names}))}"
                )
        ends, done = [], 0.0
        for stage in self.stages:
            done += stage.share
            ends.append(round(done * max_epochs))
        self.epoch_ends = ends
        self.epoch_length = epoch_length
        self.warmup = warmup
        self.end_factor = end_factor
        self.scheduler = LambdaLR(optimizer, self.factor)

    def stage_at(self, epoch: int) -> int:
        """Index of the stage of an epoch, counted from 0."""
        return next((index for index, end in enumerate(self.epoch_ends) if epoch < end), len(self.stages) - 1)

    def factor(self, iteration: int) -> float:
        """Factor on the optimiser's learning rate at an iteration, counted from 0."""
        stage = self.stage_at(iteration // self.epoch_length)
        first = self.epoch_ends[stage - 1] if stage else 0
        length = max(1, (self.epoch_ends[stage] - first) * self.epoch_length)
        done = (iteration - first * self.epoch_length) / length
        if done < self.warmup:
            shape = (done * length + 1) / (self.warmup * length + 1)
        else:
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / (1 - self.warmup))))
            shape = self.end_factor + (1 - self.end_factor) * cosine
        return shape * self.stages[stage].learning_rate

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._enter_stage)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _enter_stage(self, engine: Engine) -> None:
        stage = self.stages[self.stage_at(engine.state.epoch - 1)]
        names = _parameter_names(self.network)
        set_learning(self.network, [any(fnmatch(name, pattern) for pattern in stage.trainable) for name in names])

    def _step(self, engine: Engine) -> None:
        self.scheduler.step()


def _parameter_names(network: nn.Module) -> list[str]:
    """Names of all parameters, without what a wrapper for several processes puts before them."""
    return [name.removeprefix("module.") for name, _ in network.named_parameters()]
