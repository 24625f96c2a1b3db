"""AdamW, and optionally Muon, behind one interface; gradient norm and clipping."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from gpt.config import OptimizerConfig
from gpt.distributed.parallel import whole
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.model.transformer import GPT
from gpt.training.muon import Muon

Tensors = dict[str, Tensor]
Groups = Mapping[tuple[float, float], Sequence[Tensor]]
KEYS, EPSILON = ("step", "exp_avg", "exp_avg_sq"), 1e-8  # of AdamW: its state, as torch.optim names it
FUSED: Any = {"fused": True, "amsgrad": False, "maximize": False, "eps": EPSILON}
KINDS = {  # of parameters, by the component that they are of, which have rates of their own
    "token_embedding": "embedding",
    "position_embedding": "embedding",
    "ngram_embedding": "ngram",
    "value_embedding": "embedding",
    "lm_head": "head",
}
HUGE = 2.0**64  # float32 can no longer hold the square of such a norm


class Optimizer:
    """Moves each weight by the method that is meant for it, at a rate that is a fraction of the method's peak."""

    def __init__(self, model: GPT, config: OptimizerConfig, world: World | None = None) -> None:
        """Set up fused AdamW, with weight decay on matrices and embeddings only, and rates by kind; Muon for blocks'
        matrices if the config says so. What is frozen has no part in it.

        Without a `world`, whose processes step together, it is this process's alone.
        """
        self.model = model
        matrices = dict(model.muon_parameters()) if config.name == "muon" else {}
        groups = defaultdict[tuple[float, float], list[Tensor]](list)  # by decay and multiple of the rate
        for name, p in model.named_parameters():
            if p.requires_grad and p not in matrices:
                groups[config.weight_decay * (p.dim() >= 2), lr_scale(name, p, config)].append(p)
        self.adamw, self.muons = AdamW(groups, config.learning_rate, (config.beta1, config.beta2)), list[Muon]()
        if matrices:
            rate, iterations = config.muon_learning_rate, config.newton_schulz_iterations
            decay, cautious = config.weight_decay, config.muon_cautious_decay
            self.muons = [Muon(matrices, rate, config.muon_momentum, decay, iterations, cautious, world)]
        self.optimizers: list[AdamW | Muon] = [self.adamw, *self.muons]

    def set_lr_factor(self, factor: float) -> None:
        """Let every weight move at this fraction of its peak rate."""
        for optimizer in self.optimizers:
            optimizer.lr = factor * optimizer.peak

    @property
    def has_state(self) -> bool:
        """Tell whether its state was allocated or loaded."""
        return not any(_without_state(optimizer) for optimizer in self.optimizers)

    def forget(self) -> None:
        """Give the memory of all state back, before another one is loaded."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def allocate(self) -> None:
        """Allocate all state now, or none of it if memory runs out; torch.optim would during the first step."""
        fresh = [{p: _zeros(p, self._keys(each)) for p in _without_state(each)} for each in self.optimizers]
        for optimizer, states in zip(self.optimizers, fresh, strict=True):
            optimizer.state.update(states)

    def step(self) -> None:
        """Move all weights; or none, if memory runs out: all that allocates comes before the first of them moves."""
        self.allocate()
        updates = [muon.updates() for muon in self.muons]
        self.adamw.step()
        for muon, own in zip(self.muons, updates, strict=True):
            muon.move(own)

    # ---- its state, for checkpoints ----

    def state_dict(self) -> Tensors:
        """Return every tensor of the state as 'PARAMETER/KEY'."""
        states = {parameter: own for each in self.optimizers for parameter, own in each.state.items()}
        named = self.model.named_parameters()
        return {f"{name}/{key}": value for name, p in named for key, value in states.get(p, {}).items()}

    def empty_state(self, shapes: dict[str, tuple[list[int], torch.dtype]]) -> Tensors:
        """Make empty tensors of these shapes and types, named as in `state_dict`, each placed as its parameter is.

        Raises InputError unless they belong to this model and these optimizers.
        """
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        keys = {name: self._keys(self._optimizer_of(parameter)) for name, parameter in parameters.items()}
        if shapes and shapes.keys() != {f"{name}/{key}" for name in parameters for key in keys[name]}:
            raise InputError("the saved state is another model's, or another `optimizer.name`'s; it cannot go on")
        tensors = {}
        for entry, (shape, dtype) in shapes.items():
            parameter = parameters[entry.rpartition("/")[0]].detach()
            # AdamW keeps its step count where the fused kernel reads it: on the parameter's device.
            example = parameter if list(parameter.shape) == shape else torch.empty(shape, device=parameter.device)
            tensors[entry] = torch.empty_like(example, dtype=dtype)
        return tensors

    def load_state_dict(self, state: Tensors) -> None:
        """Restore what `state_dict` returned, of tensors that are in their places."""
        parameters = dict(self.model.named_parameters())
        for entry, tensor in state.items():
            name, _, key = entry.rpartition("/")
            self._optimizer_of(parameters[name]).state.setdefault(parameters[name], {})[key] = tensor

    def _optimizer_of(self, parameter: nn.Parameter) -> "AdamW | Muon":
        return next(each for each in self.optimizers if any(parameter is p for p in each.parameters))

    def _keys(self, optimizer: "AdamW | Muon") -> tuple[str, ...]:
        return ("momentum",) if isinstance(optimizer, Muon) else KEYS


class AdamW:
    """AdamW (Loshchilov and Hutter 2019) by torch's fused kernel, over groups of parameters that decay and move alike.

    torch.optim.AdamW makes the same calls, and when it is made loads torch's compiler: a second in every training.
    """

    def __init__(self, groups: Groups, lr: float, betas: tuple[float, float]) -> None:
        """Take groups by (weight decay, multiple of the rate). The state of each parameter is to be put there before
        the first step."""
        self.groups, self.peak, self.lr, self.state = groups, lr, lr, dict[Tensor, Tensors]()
        self.settings: dict[str, Any] = {"beta1": betas[0], "beta2": betas[1], **FUSED}
        self.parameters = [parameter for group in groups.values() for parameter in group]

    @torch.no_grad()
    def step(self) -> None:
        """Move all parameters that have a gradient."""
        for (decay, scale), group in self.groups.items():
            moving = [parameter for parameter in group if parameter.grad is not None]
            gradients: list[Any] = [parameter.grad for parameter in moving]
            steps, first, second = ([self.state[parameter][key] for parameter in moving] for key in KEYS)
            adamw(moving, gradients, first, second, [], steps, lr=scale * self.lr, weight_decay=decay, **self.settings)


def lr_scale(name: str, parameter: Tensor, config: OptimizerConfig) -> float:
    """Give the multiple of AdamW's rate that a parameter of this name moves at."""
    kind = "vector" if parameter.dim() < 2 else KINDS.get(name.partition(".")[0])
    return getattr(config, f"{kind}_lr_scale") if kind else 1.0


def _without_state(optimizer: AdamW | Muon) -> list[Tensor]:
    return [parameter for parameter in optimizer.parameters if not optimizer.state.get(parameter)]


def _zeros(parameter: Tensor, keys: tuple[str, ...]) -> Tensors:
    """Make the state from before the first step: a number of steps where AdamW's fused kernel reads it, and moments."""
    like = parameter.detach()
    steps = torch.zeros((), dtype=torch.float32, device=like.device)
    return {key: steps if key == "step" else torch.zeros_like(like) for key in keys}


def unscale_gradients(model: nn.Module, scale: float) -> float:
    """Divide the gradients by the scale that the loss had, and return their global norm, over all shards."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if scale != 1:
        torch._foreach_mul_(gradients, 1 / scale)
    norm = float(whole(nn.utils.get_total_norm(gradients)))
    if math.isfinite(norm):
        return norm
    largest = float(whole(nn.utils.get_total_norm(gradients, math.inf)))
    if not math.isfinite(largest):
        return norm  # not its squares alone
    return largest * float(whole(nn.utils.get_total_norm([gradient / largest for gradient in gradients])))


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
