"""Training in several processes: whole copies (DDP) or shards (FSDP), with the numbers of one process.

Batch norm sees the batch of all processes, and losses are divided by what all of them hold, so that two processes with
half the batch each take the steps of one with the whole.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ignite.distributed import sync
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.nn.functional import all_reduce
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from prsmed.models.checkpoints import base_of
from prsmed.models.coarse_mask import Standardise


def join_processes() -> None:
    """Join the process group that `torchrun` describes: NCCL where there is CUDA, gloo on the CPU."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    # Ignite makes a group of its own at first use; do it here, on every rank, or rank 0 waits for the others later.
    sync()


def local_device() -> torch.device:
    """This rank's device: its own GPU, which becomes the current one (bitsandbytes loads onto that), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


class AllProcessBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any device; torch's own `SyncBatchNorm` needs a GPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        normal = _normal_over_all_processes(self, input.float())
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class AllProcessStandardise(Standardise):
    """The same of states; the objects of all processes are one batch."""

    def forward(self, states_KD: torch.Tensor) -> torch.Tensor:
        if not self.training or all_reduce(states_KD.new_tensor(len(states_KD))) < 2:
            return self.by_running_values(states_KD)
        return _normal_over_all_processes(self, states_KD)


def _normal_over_all_processes(norm: _BatchNorm, values: torch.Tensor) -> torch.Tensor:
    """Channels with mean 0 and variance 1 over the values of all processes, of which the running ones are kept."""
    others = [axis for axis in range(values.ndim) if axis != 1]
    count = all_reduce(values.new_tensor(values.numel() / values.shape[1]))
    mean = all_reduce(values.sum(dim=others, keepdim=True)) / count
    centered = values - mean
    var = all_reduce(centered.square().sum(dim=others, keepdim=True)) / count
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.running_mean.lerp_(mean.flatten(), norm.momentum)
        norm.running_var.lerp_((var * count / (count - 1)).flatten(), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return centered / (var + norm.eps).sqrt()


def share(network: nn.Module, *, sharded: bool) -> nn.Module:
    """A network on this rank's device, made ready to train beside the other ranks'.

    Args:
        sharded: False: every rank holds the whole network (DDP). True: each holds its part of every weight, gradient
            and optimiser state, and layers are put together as they are needed (FSDP); each process then keeps a copy
            in main memory, into which checkpoints are gathered.
    """
    _norm_over_all_processes(network)
    if not sharded:
        return DistributedDataParallel(network, find_unused_parameters=True)
    plain = copy.deepcopy(network).cpu()
    mesh = init_device_mesh(next(network.parameters()).device.type, (dist.get_world_size(),))
    for layer in network.language.model.model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network.plain = [plain]  # type: ignore[assignment]  # in a list: its parameters are not the network's
    return network


def whole(network: nn.Module) -> nn.Module:
    """The network as one process has it, to be saved or loaded. All ranks must call this: shards are gathered."""
    if isinstance(network, DistributedDataParallel):
        return network.module
    if not isinstance(network, FSDPModule):
        return network
    plain: nn.Module = network.plain[0]  # type: ignore[index, assignment]
    for copied, parameter in zip(plain.parameters(), network.parameters(), strict=True):
        copied.requires_grad_(parameter.requires_grad)
    learning = {name.rpartition(".")[0] for name, parameter in plain.named_parameters() if parameter.requires_grad}
    base = base_of(plain)
    targets = plain.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in base.names or name in base.trained or name.rpartition(".")[0] in learning:
            targets[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
    return plain


def spread(network: nn.Module) -> None:
    """Hand what was loaded into `whole(network)` back to the shards; nothing to do without any."""
    if not isinstance(network, FSDPModule):
        return
    sources = network.plain[0].state_dict()  # type: ignore[index, union-attr]
    with torch.no_grad():
        for name, target in network.state_dict().items():
            target.copy_(_like(sources[name].to(target.device), target))


@contextmanager
def put_together(network: nn.Module) -> Iterator[None]:
    """Within, each rank holds the whole network and may use it alone: generated sentences differ in length."""
    shards = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.set_reshard_after_forward(False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.set_reshard_after_forward(module is not network)
            module.reshard()


def set_learning(network: nn.Module, learning: Sequence[bool]) -> None:
    """`requires_grad` of every parameter, in order; of shards, and of what they are put together to."""
    for parameter, learns in zip(network.parameters(), learning, strict=True):
        parameter.requires_grad_(learns)
    if isinstance(network, FSDPModule):
        with put_together(network):
            for parameter, learns in zip(network.parameters(), learning, strict=True):
                parameter.requires_grad_(learns)


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state as one process has it; all ranks must call this."""
    return tree_map_only(DTensor, lambda tensor: tensor.full_tensor(), optimizer.state_dict())


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser of any kind of network the state of another."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread_state = {
        index: {name: _like(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": spread_state})


def _like(value: Any, target: torch.Tensor) -> Any:
    """A whole tensor cut as `target` is; anything that is not of its shape stays what it is."""
    if isinstance(target, DTensor) and isinstance(value, torch.Tensor) and value.shape == target.shape:
        # Every rank has read the same file: each cuts its own part, nothing is sent.
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    return value


def _norm_over_all_processes(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            _take_over(module, name, child, AllProcessBatchNorm2d(child.num_features, child.eps, child.momentum))
        elif type(child) is Standardise:
            _take_over(module, name, child, AllProcessStandardise(child.num_features))
        else:
            _norm_over_all_processes(child)


def _take_over(module: nn.Module, name: str, child: _BatchNorm, synced: _BatchNorm) -> None:
    synced.weight, synced.bias = child.weight, child.bias
    synced.running_mean, synced.running_var = child.running_mean, child.running_var
    synced.num_batches_tracked = child.num_batches_tracked
    setattr(module, name, synced.train(child.training))
