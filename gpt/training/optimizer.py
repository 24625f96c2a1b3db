"""AdamW (Loshchilov and Hutter 2019) over a model's parameters, and its state by parameter name."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gpt.config import OptimizerConfig
from gpt.errors import InputError

Tensors = dict[str, Tensor]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and embeddings only, in one fused kernel where torch has one."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


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


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """Every tensor of the optimizer's state as 'PARAMETER/KEY'."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def state_like(model: nn.Module, shapes: dict[str, tuple[list[int], torch.dtype]]) -> Tensors:
    """Tensors of these shapes and types, named as in `optimizer_state`, each placed as its parameter is.

    Raises InputError unless they belong to this model.
    """
    parameters = dict(model.named_parameters())
    if shapes and {entry.rpartition("/")[0] for entry in shapes} != parameters.keys():
        raise InputError("the optimizer's state belongs to another model; it cannot be resumed from")
    tensors = {}
    for entry, (shape, dtype) in shapes.items():
        parameter = parameters[entry.rpartition("/")[0]].detach()
        whole = list(parameter.shape) == shape
        # AdamW keeps its step count where the fused kernel reads it: on the parameter's device.
        tensors[entry] = (
            torch.empty_like(parameter, dtype=dtype)
            if whole
            else torch.empty(shape, dtype=dtype, device=parameter.device)
        )
    return tensors


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: Tensors) -> None:
    """The way back from `optimizer_state`, of tensors that are in their places."""
    parameters = dict(model.named_parameters())
    for entry, tensor in state.items():
        name, _, key = entry.rpartition("/")
        optimizer.state[parameters[name]][key] = tensor
