"""The processes that train one model together, and all that they tell each other.

torchrun starts them, on one machine or several, and torch.distributed connects them: NCCL between GPUs, gloo between
CPUs. One process alone is a world of size 1, in which nothing is sent. Every method is called by all ranks alike.

An exchange within a step has `timeout`, so that a process that hangs is noticed soon. But in the first step of a start,
and in one that is done again in smaller parts, one rank may compile for long where another finds all in a cache: those
have INIT_TIMEOUT, as all that takes some ranks long and others not.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gpt.choices import Parallel
from gpt.errors import InputError, Reported

INIT_TIMEOUT = timedelta(minutes=30)
ALONE = 60  # seconds after which a process that failed in its passes knows that the others did not
T = TypeVar("T")


class World:
    """This process's place among those that train together."""

    def __init__(
        self, device: str, timeout: int = 300, rank: int = 0, size: int = 1, nodes: int = 1, even: bool = True
    ) -> None:
        """`device` is 'cuda', 'mps' or 'cpu'; `timeout` is in seconds, for one exchange within a step; `even` says
        whether the nodes have equally many processes."""
        self.device, self.timeout, self.rank, self.size = device, timeout, rank, size
        self.nodes, self.even = nodes, even
        self._slow_group = dist.new_group(backend="gloo", timeout=INIT_TIMEOUT) if size > 1 else None
        self._groups: list[dist.ProcessGroup | None] = [None]  # of steps: torch's default group, and those of shards
        self.hurries = False

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks for all."""
        return self.rank == 0

    # ---- small things: numbers and decisions ----

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over all ranks, the same bits everywhere."""
        return self.sum_tensor(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """A CPU tensor summed over all ranks, in place; int64 wraps."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.size == 1 else self.sum(flag)[0] > 0

    def any_at_once(self) -> bool:
        """`any` of a rank whose flag is set; False if the others do not come to it soon, held up by what it left."""
        own = self.timeout if self.hurries else INIT_TIMEOUT.total_seconds()
        _set_pg_timeout(timedelta(seconds=min(ALONE, self.timeout)), None)
        try:
            return self.any(True)
        except RuntimeError:  # torch has no exception of its own for an exchange that took too long, or was cut short
            return False
        finally:
            _set_pg_timeout(timedelta(seconds=own), None)

    def min(self, number: int) -> int:
        """The least that any rank has."""
        tensor = torch.tensor(number)
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def first(self, text: str | None) -> str | None:
        """What the lowest of the ranks that have something to tell tells; they wait for each other patiently."""
        texts = [text] * self.size
        if self.size > 1:
            dist.all_gather_object(texts, text, group=self._slow_group)
        return next((text for text in texts if text is not None), None)

    def broadcast(self, value: Any) -> Any:
        """The value that rank 0 has, for which the others wait patiently."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self._slow_group)
        return box[0]

    def from_main(self, function: Callable[[], T]) -> T:
        """What the function returns on rank 0, where alone it is called, while the others wait patiently.

        Bad input or a failing disk that it meets is raised there, and Reported on the others: one says why all end.
        """
        result = None
        if self.is_main:
            try:
                result = function()
            except (InputError, OSError) as error:
                self.broadcast((None, str(error)))
                raise
        result, failure = self.broadcast((result, None))
        if failure is not None:
            raise Reported(failure)
        return result

    def hurry(self, hurries: bool = True) -> None:
        """Let exchanges within steps have `timeout` from now on, or else INIT_TIMEOUT; at the end of a step, by all."""
        if self.size > 1 and hurries != self.hurries:
            for group in self._groups:
                _set_pg_timeout(timedelta(seconds=self.timeout) if hurries else INIT_TIMEOUT, group)
        self.hurries = hurries

    def barrier(self) -> None:
        """Until all ranks have come this far; patiently."""
        if self.size > 1:
            dist.barrier(group=self._slow_group)

    def exit(self, code: int) -> int:
        """The exit code of a process alone. One of several ends here: torch at times aborts on its orderly way out."""
        if self.size > 1:
            self.barrier()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    def require_same(self, what: str, value: object) -> None:
        """Raises InputError on a rank whose value is not rank 0's."""
        if self.broadcast(value) != value:
            raise InputError(f"{what}: differs between process 0 and process {self.rank}; give all the same")

    def local_rows(self, batch: int) -> tuple[int, int]:
        """(first, number) of this rank's part of a step's sequences. Raises InputError if they cannot be divided."""
        if batch % self.size:
            raise InputError(
                f"a step's {batch} sequences cannot be divided equally between {self.size} processes: "
                f"use `batch_tokens` with a multiple of {self.size} sequences, or another number of processes"
            )
        count = batch // self.size
        return self.rank * count, count

    # ---- the model ----

    def parallelize(self, model: nn.Module, parallel: Parallel) -> nn.Module:
        """What to call in place of the model, so that its gradients are averaged over all ranks.

        ddp returns a wrapper. fsdp and hsdp shard the model's own parameters, over all ranks or over those of a node.
        """
        if self.size == 1:
            return model
        if parallel == "ddp":
            return DistributedDataParallel(model, gradient_as_bucket_view=True)
        for parameter in model.parameters():
            dist.broadcast(parameter.detach(), src=0)
        mesh = self._mesh(parallel)
        for block in model.get_submodule("blocks").children():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def _mesh(self, parallel: Parallel) -> DeviceMesh:
        """The ranks as a line (fsdp), or as nodes × ranks of a node (hsdp: copies between nodes, shards within)."""
        if parallel == "hsdp" and not self.even:
            raise InputError(
                f"`parallel` hsdp: needs equally many processes on each node, and these {self.size} are not divided "
                f"equally between {self.nodes}; start as many on each, or use fsdp"
            )
        ranks = torch.arange(self.size)
        if parallel == "fsdp":
            return DeviceMesh.from_group(self._group(ranks.view(1, -1)), self.device, mesh_dim_names=("shard",))
        ranks = ranks.view(self.nodes, -1)
        groups = [self._group(ranks.T), self._group(ranks)]
        return DeviceMesh.from_group(groups, self.device, mesh=ranks, mesh_dim_names=("replicate", "shard"))

    def _group(self, rows: Tensor) -> dist.ProcessGroup:
        """The group of the row that this rank is in. Made here, as torch's own would not have the timeout of a step."""
        backend = "nccl" if self.device == "cuda" else "gloo"
        groups = [dist.new_group(row, INIT_TIMEOUT, backend) for row in rows.tolist()]
        own = next(group for row, group in zip(rows.tolist(), groups, strict=True) if self.rank in row)
        self._groups.append(own)
        return own

    @contextlib.contextmanager
    def gradients(self, model: nn.Module, synchronize: bool) -> Generator[None]:
        """Forward and backward passes within this context send their gradients, or only add them up."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(synchronize)
            yield
        elif isinstance(model, DistributedDataParallel) and not synchronize:
            with model.no_sync():
                yield
        else:
            yield

    def rehearses(self, parallel_model: nn.Module) -> bool:
        """Whether a step of a new parallel model must not be its first: once without sending, once with it.

        A rank that runs out of memory while gradients are sent leaves the others waiting for its part; so they are
        first not sent (fsdp cannot do without). And ddp sends its first gradients in other buckets than all later
        ones, and so adds them in another order: without a rehearsal each start's first step would have other bits.
        """
        return isinstance(parallel_model, DistributedDataParallel)

    def rebuild(self, model: nn.Module, parallel_model: nn.Module, small_pass: Callable[[], object]) -> nn.Module:
        """What to call in place of the model after passes that all ranks abandoned, with nothing of them left over.

        `small_pass` goes forward and backward once; its gradients are to be thrown away.
        """
        self.hurry(False)
        if isinstance(parallel_model, DistributedDataParallel):
            return self.parallelize(model, "ddp")  # the old one waits for gradients that it was promised
        if isinstance(parallel_model, FSDPModule):
            if hasattr(parallel_model, "reset_iter_state"):  # torch 2.13 has it, 2.11 may not
                parallel_model.reset_iter_state()
            self.reshard(model)
            small_pass()  # sends the gradients that were only added up so far, which nothing else can reach
        return parallel_model

    def is_sharded(self, model: nn.Module) -> bool:
        """Whether all ranks must go through the model together, as each has a part of it."""
        return isinstance(model, FSDPModule)

    def reshard(self, model: nn.Module) -> None:
        """To be called when no backward pass follows a forward pass: sharded weights are then still gathered."""
        if isinstance(model, FSDPModule):
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    # ---- tensors, for checkpoints that know nothing of processes ----

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors of which each rank holds its part: on the CPU of rank 0, and nothing elsewhere."""
        whole = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.is_main:
                whole[name] = full.detach().cpu()
        return whole

    def scatter(self, tensors: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
        """The way back from `gather`: rank 0's whole tensors, each divided and placed as its namesake in `like`."""
        parts = {}
        for name, example in like.items():
            whole = torch.empty(example.shape, dtype=example.dtype, device=example.device)
            if self.is_main:
                whole.copy_(tensors[name])
            if self.size > 1:
                dist.broadcast(whole, src=0)
            if isinstance(example, DTensor):
                parts[name] = distribute_tensor(whole, example.device_mesh, example.placements, src_data_rank=None)
            else:
                parts[name] = whole
        return parts
