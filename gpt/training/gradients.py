"""The gradients of a model as a whole: their norm, and its limit."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def gradient_norm(model: nn.Module, scale: float) -> float:
    """Divide the gradients by the scale that the loss had; returns their global norm, over all shards."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if scale != 1:
        torch._foreach_mul_(gradients, 1 / scale)
    norm = nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def clip_gradients(model: nn.Module, limit: float, norm: float) -> None:
    """Scale the gradients, whose global norm is given, down to the limit; 0 leaves them as they are."""
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, torch.tensor(norm))
