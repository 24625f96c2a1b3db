"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalized.

A matrix moves by the nearest semi-orthogonal matrix to its momentum, so that all directions move alike. Five
Newton-Schulz iterations find it nearly; matrices of equal shape go through them together.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from gpt.distributed.parallel import part, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the published ones: steepest at 0, and within 0.7 … 1.2 near 1
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices within blocks. Of several processes each computes the same step; sharded matrices are gathered."""

    def __init__(
        self,
        matrices: dict[Tensor, list[int]],
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        """Set up. `matrices`: for each parameter the rows of its matrices, which lie one below the other."""
        self.rows = matrices
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # ty: ignore[incompatible-method-override]
        """Update all parameters by the gradients that they hold."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("momentum", torch.zeros_like(parameter.detach()))
        self.move(self.updates())

    @torch.no_grad()
    def updates(self) -> list[list[Tensor]]:
        """Yield for each group and parameter what its step subtracts, as a fraction of the rate; change nothing yet.

        The momentum must be there.
        """
        result = []
        for group in self.param_groups:
            updates = [whole(self._nesterov(parameter, group["momentum"])) for parameter in group["params"]]
            pieces = [update.split(self.rows[p]) for p, update in zip(group["params"], updates, strict=True)]
            orthogonalize_([piece for split in pieces for piece in split])
            result.append([part(update, p) for p, update in zip(group["params"], updates, strict=True)])
        return result

    @torch.no_grad()
    def move(self, updates: list[list[Tensor]]) -> None:
        """Make the step of these updates, in place: nothing of it takes memory."""
        for group, own in zip(self.param_groups, updates, strict=True):
            for parameter, update in zip(group["params"], own, strict=True):
                self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        """Look ahead to the momentum after another step like this one (Nesterov 1983)."""
        gradient = parameter.grad
        assert gradient is not None
        return gradient.lerp(self.state[parameter]["momentum"].lerp(gradient, 1 - momentum), momentum)


def orthogonalize_(matrices: list[Tensor]) -> None:
    """Replace each (rows, columns) by about U·Vᵀ of its singular value decomposition, times √max(1, rows / columns)."""
    groups = defaultdict(list)
    for matrix in matrices:
        groups[tuple(sorted(matrix.shape))].append(matrix)
    for group in groups.values():
        wide = torch.stack([matrix if matrix.size(0) <= matrix.size(1) else matrix.t() for matrix in group])
        for matrix, result in zip(group, newton_schulz(wide), strict=True):
            rows, columns = matrix.shape
            tall = rows > columns
            matrix.copy_(result.t() if tall else result)
            if tall:
                matrix.mul_((rows / columns) ** 0.5)


def newton_schulz(x: Tensor) -> Tensor:
    """Orthogonalize matrices (N, rows, columns), rows ≤ columns: their singular values come near 1.

    Iterate X ← a·X + (b·A + c·A²)·X, where A = X·Xᵀ; in bfloat16 on CUDA devices that have it, which is fast there
    and precise enough, and in float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    dtype = x.dtype
    fast = x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = x.to(torch.bfloat16 if fast else torch.float32)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(dtype)
