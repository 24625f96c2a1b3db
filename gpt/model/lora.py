"""LoRA (Hu et al. 2021): beside a frozen matrix W, a trained product of two narrow ones: y = W·x + scale · B·A·x.

A model is changed by surgery: linear layers of its blocks are replaced, and all that is not an adapter is frozen. The
names of its weights stay as they are; those of adapters come beside them, as `blocks.0.attention.qkv.lora_A`.

Letters in shapes: N rows, I inputs, O outputs, r rank.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt.errors import InputError, Limited, bounded, did_you_mean

A, B = "lora_A", "lora_B"


@dataclass(frozen=True)
class LoRAConfig(Limited):
    """Adapters beside the matrices of the blocks, which are trained in place of all weights."""

    rank: int = bounded(0, ge=0, note="0 trains all weights, without adapters")
    """Rank of the adapters (Hu et al. 2021); needs `init_from`, whose weights are then kept as they are."""
    alpha: float = bounded(32.0, gt=0)
    """An adapter is added alpha / rank times, so that the rate that suits hardly depends on the rank."""
    dropout: float = bounded(0.05, ge=0, lt=1)
    """Probability of dropping a value of what goes into an adapter."""
    targets: tuple[str, ...] = ("attention.qkv", "attention.out_proj", "mlp.fc_in", "mlp.fc_out")
    """Linear layers of each block that get an adapter, by default all: attention.qkv attention.out_proj mlp.fc_in
    mlp.fc_out."""
    base_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the matrices beside adapters are held in while training; bfloat16 takes half the memory."""

    prefix = "lora."

    @property
    def scale(self) -> float:
        """What an adapter is multiplied by."""
        return self.alpha / self.rank


class LayerAdapter(NamedTuple):
    """What is added to one linear layer: scale · B·A."""

    A: Tensor
    """(r, I)."""
    B: Tensor
    """(O, r)."""
    scale: float


@dataclass(frozen=True)
class Adapter:
    """What is put on a model: by the whole name of each linear layer, such as `blocks.0.mlp.fc_in`, what it gets."""

    layers: Mapping[str, LayerAdapter]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], scale: float) -> "Adapter":
        """Make it of tensors by their names in a model that has it. Raises InputError if these are not such names."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            found.setdefault(layer, {})[part] = tensor
        for layer, parts in found.items():
            if parts.keys() != {A, B}:
                raise InputError(f"an adapter has {' and '.join(sorted(parts))} for {layer}, where it has {A} and {B}")
        return cls({layer: LayerAdapter(parts[A], parts[B], scale) for layer, parts in found.items()})


class LoRALinear(nn.Linear):
    """A linear layer that is frozen, and an adapter beside it. It takes over weight and bias of the layer given."""

    def __init__(self, linear: nn.Linear, adapter: LayerAdapter, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)  # that of Linear would make weights
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A, self.lora_B = (nn.Parameter(part.detach().clone()) for part in (adapter.A, adapter.B))
        self.scale, self.dropout = adapter.scale, dropout

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., I) → (..., O)."""
        dropped = _Dropout.apply(input, self.dropout) if self.training and self.dropout else input
        y = F.linear(self.scale * F.linear(dropped, self.lora_A), self.lora_B, self._bias(input))  # (..., O)
        # The large product comes last, and is added in place: where activations are computed again, the backward pass
        # stops before it, of which it needs nothing; and memory for one result is taken, not for three.
        if self.weight.dtype != y.dtype or y.dtype != input.dtype:
            return y + self._frozen(input)
        return y.flatten(0, -2).addmm_(input.flatten(0, -2), self.weight.t()).view_as(y)

    def _bias(self, input: Tensor) -> Tensor | None:
        return self.bias if self.bias is None else self.bias.to(input.dtype)

    def _frozen(self, x: Tensor) -> Tensor:
        """Map by the weight as it was, (..., I) → (..., O), where it is of another dtype than is computed in."""
        if torch.is_autocast_enabled(x.device.type):
            return F.linear(x, self.weight)
        return _HeldLinear.apply(x, self.weight)

    def merged_weight(self) -> Tensor:
        """Compute W + scale · B·A, (O, I): in float32 at least, then rounded to W's dtype."""
        precise = torch.promote_types(self.weight.dtype, torch.float32)
        weight, a, b = (tensor.detach().to(precise) for tensor in (self.weight, self.lora_A, self.lora_B))
        return torch.add(weight, b @ a, alpha=self.scale).to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.lora_A.size(0)}, scale={self.scale:g}"


class _Dropout(torch.autograd.Function):
    """Dropout that keeps nothing but its result, which the adapter needs anyway.

    What is dropped becomes −0, and no other value is: so the result tells by itself what was, and no mask is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        result = (x / (1 - p)).add_(0.0)  # which makes −0 to 0
        result.masked_fill_(torch.empty_like(x, dtype=torch.bool).bernoulli_(p), -0.0)
        ctx.save_for_backward(result)
        ctx.p = p
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        (result,) = ctx.saved_tensors
        dropped = (result == 0) & result.signbit()
        return (gradient / (1 - ctx.p)).masked_fill_(dropped, 0.0), None


class _HeldLinear(torch.autograd.Function):
    """A product with a frozen weight that is held in another dtype than it is computed in: no copy of it is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        (weight,) = ctx.saved_tensors
        return gradient @ weight.to(gradient.dtype), None


# ---- surgery ----


def target_layers(model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """Find the linear layers of a model's blocks that are named as `attention.qkv`, by their whole names.

    Raises InputError for a name that no block has, or if none is given.
    """
    layers = _linear_layers(model)
    known = dict.fromkeys(name.split(".", 2)[2] for name in layers)
    for target in targets:
        if target not in known:
            hint = did_you_mean(target, known)
            raise InputError(
                f"`lora.targets` {target}: names no linear layer of a block; {hint}. There are: {', '.join(known)}"
            )
    if not targets:
        raise InputError(f"`lora.targets` names no layer; there are: {', '.join(known)}")
    return {name: layer for name, layer in layers.items() if name.split(".", 2)[2] in targets}


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }


def new_adapter(model: nn.Module, config: LoRAConfig) -> Adapter:
    """Draw an adapter's first weights, by the random numbers of torch: A uniform as Kaiming He has it, B zero.

    So it changes nothing yet. Raises InputError as `target_layers`.
    """
    layers = {}
    for name, linear in target_layers(model, config.targets).items():
        a = torch.empty(config.rank, linear.in_features, device=linear.weight.device)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        b = torch.zeros(linear.out_features, config.rank, device=linear.weight.device)
        layers[name] = LayerAdapter(a, b, config.scale)
    return Adapter(layers)


def add_adapter(
    model: nn.Module, adapter: Adapter, dropout: float = 0.0, base_dtype: torch.dtype | None = None
) -> None:
    """Put an adapter on a model in place, and freeze all else; the matrices beside it are held in `base_dtype`.

    Raises InputError, and changes nothing, if it has one already, or if a layer is not there or has another shape.
    """
    linears = _linear_layers(model)
    if any(isinstance(linear, LoRALinear) for linear in linears.values()):
        raise InputError("the model has an adapter already: merge that one first")
    for name, layer in adapter.layers.items():
        if name not in linears:
            raise InputError(f"the adapter is for the layer {name}, and the model has none of that name")
        expected, rank = (linears[name].in_features, linears[name].out_features), layer.A.size(0)
        if layer.A.shape != (rank, expected[0]) or layer.B.shape != (expected[1], rank):
            raise InputError(
                f"the adapter of {name} maps {layer.A.size(-1)} numbers to {layer.B.size(0)}, and the model's layer "
                f"{expected[0]} to {expected[1]}: it is for another model"
            )
    model.requires_grad_(False)
    for name, layer in adapter.layers.items():
        wrapped = LoRALinear(linears[name], layer, dropout).train(model.training)
        if base_dtype is not None:
            wrapped.weight.data = wrapped.weight.data.to(base_dtype)
        _replace(model, name, wrapped)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yield the layers of a model that have an adapter, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def adapter_of(model: nn.Module) -> Adapter | None:
    """Give the adapter that is on a model, whose tensors it shares; None where there is none."""
    layers = {name: LayerAdapter(m.lora_A.detach(), m.lora_B.detach(), m.scale) for name, m in lora_layers(model)}
    return Adapter(layers) if layers else None


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Fold a model's adapter into its weights, in place: its layers are plain again, and nothing is frozen.

    A model without an adapter stays as it is.
    """
    layers = list(lora_layers(model))
    for name, layer in layers:
        _replace(model, name, _plain(layer, layer.merged_weight()))
    if layers:
        model.requires_grad_(True)


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights by name that a model has once its adapter is merged, and leave it as it is."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith((f".{A}", f".{B}"))}
    return weights | {f"{name}.weight": layer.merged_weight() for name, layer in lora_layers(model)}


def remove_adapter(model: nn.Module) -> None:
    """Take a model's adapter off, in place; all else stays frozen."""
    for name, layer in list(lora_layers(model)):
        _replace(model, name, _plain(layer, layer.weight.detach()))


def _plain(layer: LoRALinear, weight: Tensor) -> nn.Linear:
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)  # that of Linear would make weights
    linear.in_features, linear.out_features = layer.in_features, layer.out_features
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    return linear.train(layer.training)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
