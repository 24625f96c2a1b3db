"""One model in several processes: copied to each (ddp), or divided between them (fsdp, hsdp).

Every function is called by all ranks alike. In a world of size 1 they change nothing. Sharded models and tensors are
known by their methods: importing their classes takes half a second, which a single process need not wait.
"""

import contextlib
import warnings
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt.choices import Parallel
from gpt.distributed.world import World
from gpt.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

    from gpt.model.transformer import GPT


def parallelize(model: "GPT", parallel: Parallel, world: World, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return what to call in place of the model, so that its gradients are averaged over all ranks.

    ddp returns a wrapper. fsdp and hsdp shard the model's own parameters, over all ranks or over those of a node. Their
    blocks' matrices are gathered in `dtype`, in which autocast would multiply them: below float32 they then work under
    it only. The same numbers come out; gradients are added up in float32. With adapters, all is gathered as it is kept;
    and where blocks are recomputed, as hooks within what is computed again would keep it from being compiled.
    """
    if world.size == 1:
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for parameter in model.parameters():
        dist.broadcast(parameter.detach(), src=0)
    mesh = _mesh(parallel, world)
    short = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    adapted = not all(parameter.requires_grad for parameter in model.parameters())
    # It warns of results that nobody may add to in place, which no block does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for block in model.blocks:
        if adapted or block.recompute:
            fully_shard(block, mesh=mesh)
        else:  # its norms, in float32, go with what is left
            fully_shard([*map(block.get_submodule, ("attention", "mlp"))], mesh=mesh, mp_policy=short)
    fully_shard(model, mesh=mesh)
    return model


def _mesh(parallel: Parallel, world: World) -> "DeviceMesh":
    """Lay the ranks out as a line (fsdp), or as nodes × ranks of a node (hsdp: copies between nodes, shards within)."""
    if parallel == "hsdp" and not world.even:
        raise InputError(
            f"`parallel` hsdp: needs equally many processes on each node, and these {world.size} are not divided "
            f"equally between {world.nodes}; start as many on each, or use fsdp"
        )
    from torch.distributed.device_mesh import DeviceMesh

    ranks = torch.arange(world.size)
    if parallel == "fsdp":
        return DeviceMesh.from_group(world.new_group(ranks.view(1, -1)), world.device, mesh_dim_names=("shard",))
    ranks = ranks.view(world.nodes, -1)
    groups = [world.new_group(ranks.T), world.new_group(ranks)]
    return DeviceMesh.from_group(groups, world.device, mesh=ranks, mesh_dim_names=("replicate", "shard"))


@contextlib.contextmanager
def sync_gradients(parallel_model: nn.Module, synchronize: bool) -> Generator[None]:
    """Have the passes in this context send their gradients, or only add them up."""
    if is_sharded(parallel_model):
        parallel_model.set_requires_gradient_sync(synchronize)
        yield
    elif isinstance(parallel_model, DistributedDataParallel) and not synchronize:
        with parallel_model.no_sync():
            yield
    else:
        yield


def needs_rehearsal(parallel_model: nn.Module) -> bool:
    """Tell whether a step of a new parallel model must not be its first: once without sending, once with it.

    A rank that runs out of memory while gradients are sent leaves the others waiting for its part; so they are first
    not sent (fsdp cannot do without). And ddp sends its first gradients in other buckets than all later ones, and so
    adds them in another order: without a rehearsal each start's first step would have other bits.
    """
    return isinstance(parallel_model, DistributedDataParallel)


def rebuild(model: "GPT", parallel_model: nn.Module, world: World, small_pass: Callable[[], object]) -> nn.Module:
    """Rebuild the parallel wrapper after all ranks abandoned a pass, dropping partial gradients.

    `small_pass` goes forward and backward once; its gradients are to be thrown away.
    """
    world.hurry(False)
    if isinstance(parallel_model, DistributedDataParallel):
        return parallelize(model, "ddp", world)  # the old one waits for gradients that it was promised
    if is_sharded(parallel_model):
        if hasattr(parallel_model, "reset_iter_state"):  # torch 2.13 has it, 2.11 may not
            parallel_model.reset_iter_state()
        reshard(model)
        small_pass()  # sends the gradients that were only added up so far, which nothing else can reach
    return parallel_model


def is_sharded(model: object) -> "TypeIs[FSDPModule]":
    """Tell whether all ranks must go through the model together, as each has a part of it."""
    return hasattr(model, "set_requires_gradient_sync")


def reshard(model: nn.Module) -> None:
    """Drop gathered weights of a sharded model; call it when no backward pass follows a forward pass."""
    for module in model.modules():
        if is_sharded(module):
            module.reshard()


def _is_shard(tensor: Tensor) -> "TypeIs[DTensor]":
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor of which each rank may hold but a part."""
    return tensor.full_tensor() if _is_shard(tensor) else tensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """Undo `whole`: return of a tensor, the same on all ranks, what this rank holds of one like `like`."""
    if not _is_shard(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def share_out(tensors: list[Tensor], costs: list[int], work: Callable[[list[Tensor]], None], world: World) -> None:
    """Apply `work`, which changes tensors in place, to tensors that all ranks hold alike, each contiguous.

    Each rank does its share, and sends it to the others.
    """
    if world.size == 1:
        work(tensors)
        return
    assert all(tensor.is_contiguous() for tensor in tensors), "gloo would mix up their numbers"
    owners = divided(costs, world.size)
    work([tensor for tensor, owner in zip(tensors, owners, strict=True) if owner == world.rank])
    sent = [dist.broadcast(tensor, owner, async_op=True) for tensor, owner in zip(tensors, owners, strict=True)]
    for each in sent:
        each.wait()


def divided(costs: list[int], ranks: int) -> list[int]:
    """Choose the rank of each piece of work: the costliest first, each to the rank that has least to do so far."""
    owners, loads = [0] * len(costs), [0] * ranks
    for piece in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[piece] = loads.index(min(loads))
        loads[owners[piece]] += costs[piece]
    return owners


def gather(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Return the whole tensors of which each rank holds its part: on the CPU of rank 0, and nothing elsewhere."""
    gathered = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if world.is_main:
            gathered[name] = full.detach().cpu()
    return gathered


def scatter(tensors: dict[str, Tensor], like: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Undo `gather`: divide and place each of rank 0's whole tensors as its namesake in `like`."""
    parts = {}
    for name, example in like.items():
        full = torch.empty(example.shape, dtype=example.dtype, device=example.device)
        if world.is_main:
            full.copy_(tensors[name])
        if world.size > 1:
            dist.broadcast(full, src=0)
        parts[name] = part(full, example)
    return parts
