"""What a block is built of beside its mixer: norms and activations, by name, and the MLP.

To add a norm or an activation, write the function and enter it in NORMS or ACTIVATIONS: a setting's choices, the
gradient, recomputing and the prepacked model follow. Name it in the setting's docstring (config.py), which is --help's
text; its test is an entry in VARIANTS of tests/helpers.py.

Letters in shapes: B sequences, T positions, C width, F inner width.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gpt.model.lora import LoRALinear


def layer_norm(n_embd: int, eps: float, bias: bool) -> nn.Module:
    """Build LayerNorm (Ba et al. 2016), (..., C) → (..., C)."""
    return nn.LayerNorm(n_embd, eps=eps, bias=bias)


def rms_norm(n_embd: int, eps: float, bias: bool) -> nn.Module:
    """Build RMSNorm (Zhang and Sennrich 2019), (..., C) → (..., C): no mean, and never a bias."""
    return nn.RMSNorm(n_embd, eps=eps)


NORMS: dict[str, Callable[[int, float, bool], nn.Module]] = {"layer": layer_norm, "rms": rms_norm}


def gelu(x: Tensor) -> Tensor:
    """Apply GELU by its approximation with tanh (Hendrycks and Gimpel 2016), as GPT-2 does."""
    return F.gelu(x, approximate="tanh")


def gelu_erf(x: Tensor) -> Tensor:
    """Apply GELU as it is defined, by the error function (Hendrycks and Gimpel 2016)."""
    return F.gelu(x)


def relu(x: Tensor) -> Tensor:
    """Apply max(0, x)."""
    return F.relu(x)


def relu_squared(x: Tensor) -> Tensor:
    """Apply max(0, x)² (So et al. 2021, "Primer", section 4.1)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "gelu-erf": gelu_erf, "relu": relu}
ACTIVATIONS |= {"relu-squared": relu_squared}


class MLP(nn.Module):
    """Two linear layers, `n_inner` wide between them, and an activation."""

    def __init__(self, n_embd: int, n_inner: int, activation: str, bias: bool, dropout: float) -> None:
        super().__init__()
        self.fc_in = nn.Linear(n_embd, n_inner, bias=bias)
        self.activation, self.activate = activation, ACTIVATIONS[activation]
        self.fc_out = nn.Linear(n_inner, n_embd, bias=bias)
        self.residual_dropout = nn.Dropout(dropout)
        self.recompute = False  # the activation, in the backward pass

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) → (B, T, C)."""
        x = self.fc_in(x)  # (B, T, F)
        adapted = isinstance(self.fc_out, LoRALinear)  # which keeps a copy of what it gets, with some of it dropped
        if (self.recompute or adapted) and torch.is_grad_enabled():
            # Keeps x alone. The backward pass activates it again, and stops before it would multiply again.
            x = checkpoint(self.activate_and_project, x, use_reentrant=False, preserve_rng_state=adapted)
        else:
            x = self.activate_and_project(x)
        return self.residual_dropout(x)

    def activate_and_project(self, x: Tensor) -> Tensor:
        """Map (B, T, F) → (B, T, C)."""
        return self.fc_out(self.activate(x))

    def muon_parameters(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Yield each weight with the rows of the matrices that it stacks."""
        for linear in (self.fc_in, self.fc_out):
            yield linear.weight, [linear.out_features]
