"""Batch-invariant functions: a row has the same bits in any company, as far as this processor can.

Libraries choose how to multiply by the number of rows: oneDNN adds up a lone row's products in another order than those
of two, and with AVX alone those of 400 in another than those of 256; torch's GELU takes other instructions where a
thread's share ends. Which, depends on processor, shape and number of threads, so nothing of it is assumed. Each number
of rows is tried when it is first met: if its rows come out as those of a small block do, it is computed as it is,
else in numbers of rows that were tried.

Letters in shapes: N rows, I inputs, O outputs.
"""

from collections.abc import Hashable
from typing import ClassVar

import torch
from torch import Tensor, nn

BLOCKS = (16, 4, 1)  # rows; the first whose rows come out the same is what all others are compared with
LARGEST = 128  # rows of a part, where many cannot be computed together
ALIGNMENT = 64  # bytes: where torch lets new memory begin, so that rows are tried as they are used

Plan = tuple[int, ...]


class BatchInvariant(nn.Module):
    """Compute rows by the subclass's `compute`, in numbers that leave a row's bits alone.

    What was found out serves all functions with the same `key`, for the number of threads it was found with. It costs
    as much as computing that many rows, once in a process. Without a key it serves this one only.
    """

    found: ClassVar[dict[Hashable, dict[tuple[int, int], Plan]]] = {}

    def __init__(self, trial: Tensor, key: Hashable = None) -> None:
        """Try with the row `trial`, (I,)."""
        super().__init__()
        self.trial = trial
        self.expected: dict[tuple[int, int], Tensor] = {}  # what came out in blocks, (O,), by rows and threads
        self.plans: dict[tuple[int, int], Plan] = {} if key is None else self.found.setdefault((type(self), key), {})

    def compute(self, rows: Tensor) -> Tensor:
        """Map (N, I) → (N, O), each row by itself up to rounding."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) → (..., O)."""
        rows = x.reshape(-1, x.size(-1)).contiguous()
        if rows.data_ptr() % ALIGNMENT:
            rows = rows.clone()
        N = rows.size(0)
        plan = self.plans.get((N, torch.get_num_threads())) or self._plan(N)
        y = self.compute(rows) if plan == (N,) else self._in_parts(rows, plan)
        return y.view(*x.shape[:-1], y.size(-1))

    @property
    def keeps_bits(self) -> bool:
        """Tell whether a row has the same bits in any company, with as many threads as torch has now."""
        return self._block() > 0

    def _in_parts(self, rows: Tensor, plan: Plan) -> Tensor:
        """Compute so many rows after so many; the last part is filled up with zeros."""
        missing = sum(plan) - rows.size(0)
        parts = nn.functional.pad(rows, (0, 0, 0, missing)).split(plan)
        return torch.cat([self.compute(part.clone()) for part in parts])[: rows.size(0)]

    def _plan(self, N: int) -> Plan:
        """Choose the numbers in which N rows are computed."""
        at = N, torch.get_num_threads()
        if at not in self.plans:
            self.plans[at] = self._found_plan(N, self._block())
        return self.plans[at]

    def _found_plan(self, N: int, block: int) -> Plan:
        if N == 0 or block == 0 or self._agrees(N, block):
            return (N,)
        if block >= N:
            return next((size,) for size in (N + 1, block) if size == block or self._agrees(size, block))
        size = next(size for size in (LARGEST, block) if size == block or (size < N and self._plan(size) == (size,)))
        rest = self._plan(N % size) if N % size else ()
        return (size,) * (N // size) + rest

    def _block(self) -> int:
        """Choose the number of rows whose bits count; 0 if not even a lone row has the same twice."""
        at = -1, torch.get_num_threads()
        if at not in self.plans:
            self.plans[at] = (next((size for size in BLOCKS if self._agrees(size, size)), 0),)
        return self.plans[at][0]

    def _agrees(self, N: int, block: int) -> bool:
        """Tell whether each of N rows comes out as in a block, bit for bit."""
        at = block, torch.get_num_threads()
        if at not in self.expected:
            self.expected[at] = self._tried(block)[0].clone()
        return bool((self._tried(N) == self.expected[at]).all())

    def _tried(self, N: int) -> Tensor:
        """Compute N rows that are all the trial, (N, O), as the integers that their bits are."""
        return self.compute(self.trial.repeat(N, 1)).view(torch.int32)
