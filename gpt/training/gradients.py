"""The norm of a model's gradients, and the limit that is set to it; also where float32 cannot hold their squares."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

HUGE = 2.0**64  # float32 can no longer hold the square of such a norm


def gradient_norm(model: nn.Module, scale: float) -> float:
    """Divide the gradients by the scale that the loss had; returns their global norm, over all shards."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if scale != 1:
        torch._foreach_mul_(gradients, 1 / scale)
    norm = _whole(nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        return norm
    largest = _whole(nn.utils.get_total_norm(gradients, math.inf))
    if not math.isfinite(largest):
        return norm  # not its squares alone
    return largest * _whole(nn.utils.get_total_norm([gradient / largest for gradient in gradients]))


def _whole(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def clip_gradients(model: nn.Module, limit: float, norm: float) -> None:
    """Scale the gradients, whose global norm is given, down to the limit; 0 leaves them as they are."""
    if not limit:
        return
    if norm > max(limit, HUGE):
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / HUGE)
        torch._foreach_mul_(gradients, limit / (norm / HUGE))
    else:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, torch.tensor(norm))
