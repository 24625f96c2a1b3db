"""The processes that train one model together, and what they tell each other: numbers, decisions and objects.

torchrun starts them, on one machine or several, and torch.distributed connects them: NCCL between GPUs, gloo between
CPUs. One process alone is a world of size 1, in which nothing is sent. Every method is called by all ranks alike. How a
model is divided between them is `parallel.py`'s business.

An exchange within a step has `timeout`, so that a process that hangs is noticed soon. But in the first step of a start,
and in one that is done again in smaller parts, one rank may compile for long where another finds all in a cache: those
have INIT_TIMEOUT, as all that takes some ranks long and others not.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from gpt.errors import InputError, Reported

INIT_TIMEOUT = timedelta(minutes=30)
ALONE = 60  # seconds after which a process that failed in its passes knows that the others did not
T = TypeVar("T")


class World:
    """This process's place among those that train together."""

    def __init__(
        self, device: str, timeout: int = 300, rank: int = 0, size: int = 1, nodes: int = 1, even: bool = True
    ) -> None:
        """Describe this process. `device` is 'cuda', 'mps' or 'cpu'; `timeout` is in seconds, for one exchange within
        a step; `even` says whether all nodes have the same number of processes."""
        self.device, self.timeout, self.rank, self.size = device, timeout, rank, size
        self.nodes, self.even = nodes, even
        self._slow_group = dist.new_group(backend="gloo", timeout=INIT_TIMEOUT) if size > 1 else None
        self._groups: list[dist.ProcessGroup | None] = [None]  # of steps: torch's default group, and those of shards
        self.hurries = False

    @property
    def is_main(self) -> bool:
        """Tell whether this process is the one that writes and logs for all."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Sum each number over all ranks; the same bits everywhere."""
        return self.sum_tensor(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Sum a CPU tensor over all ranks, in place; int64 wraps."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set on any rank."""
        return flag if self.size == 1 else self.sum(flag)[0] > 0

    def any_at_once(self) -> bool:
        """Call `any` where the flag is set; False if the others do not reach it soon, held up by what this one left."""
        own = self.timeout if self.hurries else INIT_TIMEOUT.total_seconds()
        _set_pg_timeout(timedelta(seconds=min(ALONE, self.timeout)), None)
        try:
            return self.any(True)
        except RuntimeError:  # torch has no exception of its own for an exchange that took too long, or was cut short
            return False
        finally:
            _set_pg_timeout(timedelta(seconds=own), None)

    def min(self, number: int) -> int:
        """Find the smallest number of any rank."""
        tensor = torch.tensor(number)
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def first(self, text: str | None) -> str | None:
        """Return the text of the lowest rank that has one, None if none has; waits up to INIT_TIMEOUT."""
        texts = [text] * self.size
        if self.size > 1:
            dist.all_gather_object(texts, text, group=self._slow_group)
        return next((text for text in texts if text is not None), None)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on all ranks; waits up to INIT_TIMEOUT."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self._slow_group)
        return box[0]

    def from_main(self, function: Callable[[], T]) -> T:
        """Call the function on rank 0 alone, and return its result on all ranks; waits up to INIT_TIMEOUT.

        Raises the InputError or OSError that it raises on rank 0, and Reported on the others: one says why all end.
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
        """Give exchanges within steps `timeout` from now on, or else INIT_TIMEOUT. Called between steps."""
        if self.size > 1 and hurries != self.hurries:
            for group in self._groups:
                _set_pg_timeout(timedelta(seconds=self.timeout) if hurries else INIT_TIMEOUT, group)
        self.hurries = hurries

    def barrier(self) -> None:
        """Wait until all ranks have come this far, up to INIT_TIMEOUT."""
        if self.size > 1:
            dist.barrier(group=self._slow_group)

    def exit(self, code: int) -> int:
        """Return the code of a process alone. One of several ends here: torch at times aborts on its way out."""
        if self.size > 1:
            self.barrier()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    def require_same(self, what: str, value: object) -> None:
        """Raise InputError on a rank whose value is not rank 0's."""
        if self.broadcast(value) != value:
            raise InputError(f"{what}: differs between process 0 and process {self.rank}; give all the same")

    def local_rows(self, batch: int) -> tuple[int, int]:
        """Return (first, number) of this rank's sequences. Raises InputError if they cannot be divided equally."""
        if batch % self.size:
            raise InputError(
                f"a step's {batch} sequences cannot be divided equally between {self.size} processes: "
                f"use `batch_tokens` with a multiple of {self.size} sequences, or another number of processes"
            )
        count = batch // self.size
        return self.rank * count, count

    def new_group(self, rows: Tensor) -> dist.ProcessGroup:
        """Make a group of each row of ranks, and return the one that this rank is in.

        Made here, as torch's own would not have the timeout of a step.
        """
        backend = "nccl" if self.device == "cuda" else "gloo"
        groups = [dist.new_group(row, INIT_TIMEOUT, backend) for row in rows.tolist()]
        own = next(group for row, group in zip(rows.tolist(), groups, strict=True) if self.rank in row)
        self._groups.append(own)
        return own
