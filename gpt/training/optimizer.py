"""AdamW (Loshchilov and Hutter 2019) over a model's parameters, and its state by parameter name."""

import torch
from torch import Tensor, nn

from gpt.config import OptimizerConfig
from gpt.errors import InputError


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and embeddings only, in one fused kernel where torch has one."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state as 'PARAMETER/KEY', on the CPU."""
    return {
        f"{name}/{key}": value.detach().cpu()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """The way back from `optimizer_state`. Raises InputError unless it belongs to this model."""
    parameters = dict(model.named_parameters())
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for entry, tensor in state.items():
        name, _, key = entry.rpartition("/")
        by_parameter.setdefault(name, {})[key] = tensor
    if by_parameter and by_parameter.keys() != parameters.keys():
        raise InputError("the optimizer's state belongs to another model; it cannot be resumed from")
    for name, tensors in by_parameter.items():
        # AdamW keeps its step count where the fused kernel reads it: on the parameter's device.
        optimizer.state[parameters[name]] = {
            key: tensor.to(parameters[name].device, copy=True) for key, tensor in tensors.items()
        }
