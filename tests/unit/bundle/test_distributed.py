"""Two processes with half the batch each take the steps of one with the whole; shards and copies can be exchanged."""

import copy
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from bundle.distributed import (
    AllProcessBatchNorm2d,
    AllProcessStandardise,
    load_optimizer_state,
    optimizer_state,
    put_together,
    set_learning,
    share,
    spread,
    whole,
)
from prsmed.losses import PRSMedLoss, mean_of_objects, recall_losses
from prsmed.models.coarse_mask import Standardise
from prsmed.models.presets import build_network

STEPS, FROZEN_STEPS = 4, 2
LOSS = {"bce": 1.0, "dice": 1.0, "ce": 2.0, "presence": 0.5, "evidence": 0.5}
VOCAB = 64


def batch_of(step: int, rows: slice) -> dict[str, torch.Tensor]:
    """Part of a batch of four; answers have different lengths, and one object is absent."""
    rng = torch.Generator().manual_seed(step)
    ids = torch.randint(3, VOCAB, (4, 30), generator=rng)
    ids[:, 1:19] = -200  # the image tokens of `tiny`
    lengths = torch.tensor([9, 4, 7, 2])
    answer = (torch.arange(30) >= 21) & (torch.arange(30) < 21 + lengths[:, None])
    label = (torch.rand(4, 1, 128, 128, generator=rng) > 0.7).float()
    label[1] = 0
    whole_batch = {
        "image": torch.rand(4, 3, 128, 128, generator=rng),
        "input_ids": ids,
        "attention_mask": torch.arange(30) < 21 + lengths[:, None],
        "prompt_mask": (torch.arange(30) < 21).expand(4, -1),
        "target_ids": torch.where(answer, ids, -100),
        "label": label,
        "valid": torch.ones_like(label),
        "present": label.amax(dim=(1, 2, 3)),
        "kind_index": torch.tensor([0, 1, 0, 1]),
        "state_index": torch.tensor([0, 1, 2, 3]),
    }
    part = {name: value[rows] for name, value in whole_batch.items()}
    return {**part, "obj_image": torch.arange(len(part["image"]))}


def steps(network: torch.nn.Module, rows: slice) -> tuple[list[float], AdamW]:
    """Train, at first with a frozen encoder as the stages of a training do; the loss of each step."""
    optimizer, loss_function, losses = AdamW(network.parameters(), lr=1e-3), PRSMedLoss(LOSS), []
    names = [name.removeprefix("module.") for name, _ in network.named_parameters()]
    for step in range(STEPS):
        set_learning(network, [step >= FROZEN_STEPS or not name.startswith("encoder.") for name in names])
        network.train()
        batch = batch_of(step, rows)
        hw_px = [(128, 128)] * len(batch["image"])
        output = network(
            batch["image"],
            hw_px,
            batch["input_ids"],
            batch["attention_mask"],
            batch["prompt_mask"],
            obj_image=batch["obj_image"],
            target_ids=batch["target_ids"],
        )
        loss = loss_function(output, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    if torch.distributed.is_initialized():
        for loss in losses:
            torch.distributed.all_reduce(loss)
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return [float(loss) / processes for loss in losses], optimizer


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network("prs_med", "tiny", vocab_size=VOCAB)


def mask_of(network: torch.nn.Module) -> torch.Tensor:
    batch = batch_of(9, slice(0, 2))
    with torch.no_grad():
        return network(
            batch["image"], [(128, 128)] * 2, batch["input_ids"], batch["attention_mask"], batch["prompt_mask"]
        ).mask_logits


def train_as_rank(rank: int, port: int, sharded: bool, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo")
    network = share(fresh(), sharded=sharded)
    losses, optimizer = steps(network, slice(2 * rank, 2 * rank + 2))
    state = optimizer_state(optimizer)
    plain = whole(network)
    kept = copy.deepcopy(plain.state_dict())
    network.eval()
    with put_together(network):
        if rank == 0:  # alone: nothing may wait for the other rank
            mask = mask_of(network if sharded else plain)
    if rank == 0:
        torch.save({"weights": kept, "optimizer": state, "losses": losses, "mask": mask}, out)
    # And back: shards take what one process would load.
    for parameter in plain.parameters():
        parameter.data.zero_()
    plain.load_state_dict(kept)
    spread(network)
    load_optimizer_state(optimizer, state)
    again = whole(network).state_dict()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def recall_as_rank(rank: int, port: int, out: Path) -> None:
    """One step of standardised states with three objects on one rank and one on the other, then none on the other."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), Standardise(5))
    shared, (states, names) = share(network, sharded=False), states_and_names()
    assert isinstance(network[1], AllProcessStandardise)
    rows = slice(0, 3) if rank == 0 else slice(3, 4)
    losses_K = recall_losses(shared(states[rows]), names[rows])
    loss = mean_of_objects(losses_K, torch.ones_like(losses_K))
    loss.backward()
    kept = {"gradient": network[0].weight.grad.clone(), "statistics": network[1].running_var.clone()}
    few = states[:1] if rank == 0 else states[:0]
    alone = recall_losses(shared(few), names[: len(few)])
    assert len(alone) == len(few) and torch.equal(network[1].running_var, kept["statistics"])
    if rank == 0:
        torch.save(kept, out)


def states_and_names() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    names = torch.randn(3, 5, generator=rng)
    return torch.randn(4, 6, generator=rng), names[[0, 1, 2, 1]]


def test_names_and_states_of_two_processes_are_one_batch(tmp_path):
    run_two(recall_as_rank, tmp_path / "recall.pt")
    pair = torch.load(tmp_path / "recall.pt", weights_only=True)
    torch.manual_seed(0)
    network, (states, names) = torch.nn.Sequential(torch.nn.Linear(6, 5), Standardise(5)), states_and_names()
    recall_losses(network(states), names).mean().backward()
    torch.testing.assert_close(pair["gradient"], network[0].weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pair["statistics"], network[1].running_var)


def to_the_end(together: Any, as_rank: Callable[..., None], *arguments: Any) -> None:
    as_rank(*arguments)
    together.wait()  # a rank that leaves early takes its last message with it, that of a barrier of its own, too
    torch.distributed.destroy_process_group()


def run_two(as_rank: Callable[..., None], *arguments: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(2, timeout=120)
    ranks = [fork.Process(target=to_the_end, args=(together, as_rank, rank, port, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=300)
        process.kill()  # where it hangs
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], dict[str, torch.Tensor]]:
    network = fresh()
    losses, _ = steps(network, slice(0, 4))
    return losses, network.state_dict()


@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP"])
def test_two_processes_train_as_one(alone, tmp_path, sharded):
    run_two(train_as_rank, sharded, tmp_path / "pair.pt")
    pair = torch.load(tmp_path / "pair.pt", weights_only=True)
    losses, weights = alone
    assert pair["losses"] == pytest.approx(losses, abs=1e-4)
    statistics = "encoder.net.patch_embed.seq.0.bn.running_var"
    torch.testing.assert_close(pair["weights"][statistics], weights[statistics], atol=1e-4, rtol=1e-4)
    network = fresh()
    thawed = "encoder.net.neck.0.weight"
    assert not torch.equal(pair["weights"][thawed], network.state_dict()[thawed]), "frozen at first, it learned later"
    optimizer = AdamW(network.parameters(), lr=1e-3)
    network.load_state_dict(pair["weights"])
    load_optimizer_state(optimizer, pair["optimizer"])
    torch.testing.assert_close(mask_of(network.eval()), pair["mask"], atol=1e-4, rtol=1e-4)


def test_batch_norm_alone_is_batch_norm():
    ours, theirs = AllProcessBatchNorm2d(3), torch.nn.BatchNorm2d(3)
    image = torch.randn(2, 3, 4, 5)
    for network in (ours, theirs):
        network.load_state_dict({**theirs.state_dict(), "running_mean": torch.tensor([1.0, 2.0, 3.0])})
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image))
