"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalized.

A matrix moves by the nearest semi-orthogonal matrix to its momentum, so that all directions move alike. Five
Newton-Schulz iterations find it nearly, and fewer in those directions alone that the momentum has most of; matrices of
equal shape go through them together.
"""

from collections import defaultdict

import torch
from torch import Tensor

from gpt.device import choose_products
from gpt.distributed.parallel import part, share_out, whole
from gpt.distributed.world import World

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the published ones: steepest at 0, and within 0.7 … 1.2 near 1
ITERATIONS = 5  # as published


class Muon:
    """For matrices within blocks. Each process of a world orthogonalizes some; sharded matrices are gathered."""

    def __init__(
        self,
        matrices: dict[Tensor, list[int]],
        lr: float,
        momentum: float,
        weight_decay: float,
        iterations: int = ITERATIONS,
        cautious: bool = False,
        world: World | None = None,
    ) -> None:
        """Set up; without a `world`, for this process alone.

        `matrices`: for each parameter the rows of its matrices, which lie one below the other.
        A `cautious` decay is of weights alone that the step brings nearer to 0 (Chen et al. 2025, arXiv 2510.12402).
        The momentum of each, `state[parameter]["momentum"]`, is to be put there before the first step.
        """
        self.rows, self.parameters, self.state = matrices, list(matrices), dict[Tensor, dict[str, Tensor]]()
        self.peak, self.lr, self.momentum, self.weight_decay = lr, lr, momentum, weight_decay
        self.iterations, self.cautious, self.world = iterations, cautious, world or World("cpu")

    @torch.no_grad()
    def updates(self) -> list[Tensor]:
        """Return the direction of each parameter's step, to be multiplied by the rate; change no parameter yet."""
        updates = [whole(self._nesterov(parameter)) for parameter in self.parameters]
        splits = [update.split(self.rows[p]) for p, update in zip(self.parameters, updates, strict=True)]
        pieces = [piece for split in splits for piece in split]
        share_out(pieces, [*map(multiplications, pieces)], lambda own: orthogonalize_(own, self.iterations), self.world)
        updates = [part(update, p) for p, update in zip(self.parameters, updates, strict=True)]
        if self.cautious:  # decays by the update, as what decays is known before the move alone
            for parameter, update in zip(self.parameters, updates, strict=True):
                update.addcmul_(parameter, update * parameter > 0, value=self.weight_decay)
        return updates

    @torch.no_grad()
    def move(self, updates: list[Tensor]) -> None:
        """Make the step of these updates, in place: nothing of it takes memory."""
        for parameter, update in zip(self.parameters, updates, strict=True):
            assert parameter.grad is not None
            self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - self.momentum)
            if not self.cautious:
                parameter.mul_(1 - self.lr * self.weight_decay)
            parameter.add_(update, alpha=-self.lr)

    def _nesterov(self, parameter: Tensor) -> Tensor:
        """Look ahead to the momentum after another step like this one (Nesterov 1983)."""
        gradient = parameter.grad
        assert gradient is not None
        ahead = self.state[parameter]["momentum"].lerp(gradient, 1 - self.momentum)
        return gradient.lerp(ahead, self.momentum)


def multiplications(matrix: Tensor) -> int:
    """Count those of an iteration."""
    rows, columns = sorted(matrix.shape)
    return rows * rows * (2 * columns + rows)


def orthogonalize_(matrices: list[Tensor], iterations: int = ITERATIONS) -> None:
    """Replace each (rows, columns) by about U·Vᵀ of its singular value decomposition, times √max(1, rows / columns)."""
    groups = defaultdict(list)
    for matrix in matrices:
        groups[tuple(sorted(matrix.shape))].append(matrix)
    for group in groups.values():
        wide = torch.stack([matrix if matrix.size(0) <= matrix.size(1) else matrix.t() for matrix in group])
        for matrix, result in zip(group, newton_schulz(wide, iterations), strict=True):
            rows, columns = matrix.shape
            tall = rows > columns
            matrix.copy_(result.t() if tall else result)
            if tall:
                matrix.mul_((rows / columns) ** 0.5)


def newton_schulz(x: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Orthogonalize matrices (N, rows, columns), rows ≤ columns: their singular values come near 1.

    Iterate X ← a·X + (b·A + c·A²)·X, where A = X·Xᵀ; in bfloat16 on CUDA devices that have it, which is fast there
    and precise enough, and in float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    dtype = x.dtype
    fast = x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = x.to(torch.bfloat16 if fast else torch.float32)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    with choose_products("highest", x.device.type)():
        for _ in range(iterations):
            gram = x @ x.mT  # (N, rows, rows)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(dtype)
