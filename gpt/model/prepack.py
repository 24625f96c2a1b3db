"""Matrices in the order in which a processor multiplies them fastest, as float32, float16 or 8-bit integers.

Decoding reads all weights for each token: it is as fast as their bytes stream in, if all cores read. A row's result is
the same, bit for bit, whatever rows are multiplied beside it, in ways that are found out on the processor at hand
(batch_invariant.py); `keeps_bits` says where it cannot be had. A prepacked model can no longer be trained or saved.

Letters in shapes: N rows, I inputs, O outputs.
"""

import contextlib
import functools
import warnings
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from gpt.errors import InputError
from gpt.model.attention import Segment, attend
from gpt.model.batch_invariant import BLOCKS, BatchInvariant
from gpt.model.cache import ALIGNMENT
from gpt.model.layers import ACTIVATIONS, MLP
from gpt.model.lora import LoRALinear
from gpt.model.transformer import GPT

PREPACKED_FOR = 16  # rows; other numbers are multiplied as well
LEVELS = 63  # steps to either side of 0 in two rows of activations: with more, the sum of two products overflows
LOWEST, LARGEST_FLOAT16 = torch.finfo(torch.float32).tiny, torch.finfo(torch.float16).max
# As the dispatcher has them: calls through Python first look through their arguments for what a compiler put there.
FLOAT16_LINEAR = torch.ops.quantized.linear_dynamic_fp16.default._op
INT8_LINEAR = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default._op


class _Linear(BatchInvariant):
    """Have in common how both kinds are tried."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        some = weight.detach().flatten()[:: max(1, weight.numel() // 4096)]
        tells = 2 * (some.isfinite() & (some != 0)).sum() > len(some)  # a matrix of zeros has the same bits anyway
        super().__init__(_normal(weight.size(1)), (*weight.shape, bias is None) if tells else None)
        self.bias = None if bias is None else bias.detach()


class PrepackedLinear(_Linear):
    """A linear layer in float32, by oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PREPACKED_FOR)

    def compute(self, rows: Tensor) -> Tensor:
        """Map (N, I) → (N, O)."""
        return torch.ops.mkldnn._linear_pointwise.default(rows, self.weight, self.bias, "none", [], "")


class Float16Linear(_Linear):
    """A linear layer with weights of 16 bits, by FBGEMM, which multiplies and adds up in float32.

    Rounding changes a weight by at most 2⁻¹¹ of it, or 2⁻²⁵ where it is tiny. Raises InputError if one is beyond range.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        largest = torch.linalg.vector_norm(weight.detach(), torch.inf).item()
        if not largest <= LARGEST_FLOAT16:  # which FBGEMM would make of it, and of what is no number
            raise InputError(
                f"`dtype` float16: the weights go up to {largest:,.0f}, and its numbers to {LARGEST_FLOAT16:,.0f}; "
                "choose float32"
            )
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight.detach(), self.bias)

    def compute(self, rows: Tensor) -> Tensor:
        """Map (N, I) → (N, O)."""
        return FLOAT16_LINEAR(rows, self.weight)


class Int8Linear(_Linear):
    """A linear layer with weights of 8 bits, by FBGEMM: w ≈ s·q with an integer |q| ≤ 127 and one s for each output.

    Activations are rounded to 8 bits, too: to 256 levels from the lowest number of a row to its highest. Levels evenly
    about 0 would waste those of a sign that a row hardly has, as after an activation function. Where sums of two
    products overflow, a row goes in as two rows of fewer levels: the multiple of a step, and what remains as a multiple
    of its 126th. That is as good as 14 bits.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        scale = weight.detach().abs().amax(1).clamp_(min=LOWEST).div_(127)  # (O,)
        integers = torch.div(weight.detach(), scale.unsqueeze(1)).round_().to(torch.int8)
        self.weight = _packed_integers(integers, scale)
        self.of_ones = integers.sum(dim=1) * scale  # what a row of ones gives, (O,)
        self.levels, self.finer = torch.tensor(float(LEVELS)), torch.tensor(2.0 * LEVELS)

    def compute(self, rows: Tensor) -> Tensor:
        """Map (N, I) → (N, O)."""
        return self._in_two_rows(rows) if overflows() else self._in_one_row(rows)

    def _in_one_row(self, rows: Tensor) -> Tensor:
        lowest = rows.amin(-1, True)  # (N, 1); aminmax takes 1.5 to 20 times as long, without vectors
        span = rows.amax(-1, True).sub_(lowest).clamp_(min=LOWEST)
        y = INT8_LINEAR((rows - lowest).div_(span), 1 / 255, 0, self.weight)
        if self.bias is None:
            return y.mul_(span).addcmul_(lowest, self.of_ones)
        return torch.addcmul(self.bias, lowest, self.of_ones).addcmul_(y, span)

    def _in_two_rows(self, rows: Tensor) -> Tensor:
        step = rows.abs().amax(-1, True).clamp_(min=LOWEST).div_(self.levels)  # (N, 1)
        exact = rows / step
        high = exact.round()
        low = (exact - high) * self.finer
        y = INT8_LINEAR(torch.cat((high, low)), 1.0, LEVELS + 1, self.weight)  # (2N, O)
        N = rows.size(0)
        y = torch.addcdiv(y[:N], y[N:], self.finer)
        return y * step if self.bias is None else torch.addcmul(self.bias, y, step)


def _packed_integers(integers: Tensor, scale: Tensor) -> object:
    """Pack weights for FBGEMM: integers of 8 bits, (O, I), and each output's scale, (O,)."""
    zeros = torch.zeros_like(scale, dtype=torch.int64)
    quantized = torch._make_per_channel_quantized_tensor(integers, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


@functools.cache
def overflows() -> bool:
    """Tell, by a trial product, whether FBGEMM adds 8-bit products by twos in 16 bits here, which overflows.

    With AVX-512 VNNI it adds in 32.
    """
    with _fbgemm():
        weight = _packed_integers(torch.full((64, 64), 127, dtype=torch.int8), torch.ones(64))
    product = INT8_LINEAR(torch.full((1, 64), 255.0), 1.0, 0, weight)
    return not bool((product == 64 * 255 * 127).all())


LINEAR: dict[torch.dtype, type[_Linear]] = {
    torch.float32: PrepackedLinear,
    torch.float16: Float16Linear,
    torch.int8: Int8Linear,
}


class PrepackedActivation(BatchInvariant):
    """An MLP's activation of rows of F, tried with numbers that their neighbors change, if there are any."""

    def __init__(self, name: str, F: int) -> None:
        self.activate, some = ACTIVATIONS[name], _normal(512)
        differs = self.activate(some) != torch.cat([self.activate(one) for one in some.split(1)])
        telling = some[differs] if differs.any() else some
        super().__init__(telling.repeat(-(-F // len(telling)))[:F], (name, F))

    def compute(self, rows: Tensor) -> Tensor:
        """Map (N, F) → (N, F)."""
        return self.activate(rows)


def _normal(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


def can_prepack(model: GPT) -> bool:
    """Tell whether a model is in float32 on a CPU for which this torch has oneDNN."""
    return model.device.type == "cpu" and model.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def prepack(model: GPT, dtype: torch.dtype = torch.float32) -> None:
    """Pack a model's linear layers in place, and the matrix that embeds tokens once more as the head that it is.

    Adapters are merged first, in float32. Raises InputError for float16 and int8 if this torch has no FBGEMM, or if
    weights are beyond their range.
    """
    if dtype != torch.float32 and "fbgemm" not in torch.backends.quantized.supported_engines:
        name = str(dtype).removeprefix("torch.")
        raise InputError(f"`dtype` {name}: needs an x86 processor (this torch has no FBGEMM); choose float32")
    linear = LINEAR[dtype]
    layers: list[tuple[nn.Module, str, Tensor, Tensor | None]] = [
        (module, name, child.merged_weight() if isinstance(child, LoRALinear) else child.weight, child.bias)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.Linear)
    ]
    if model.lm_head is None:
        layers.insert(0, (model, "lm_head", model.token_embedding.weight, None))
    with _fbgemm(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (module, name, *_), prepacked in zip(
            layers, pool.map(lambda layer: linear(*layer[2:]), layers), strict=True
        ):
            setattr(module, name, prepacked)
    activation = PrepackedActivation(model.config.activation, model.config.inner_dim)
    for module in model.modules():
        if isinstance(module, MLP):
            module.activate = activation


def keeps_bits(model: GPT) -> bool:
    """Tell whether a prepacked model's rows have the same bits in any company, with as many threads as torch has now.

    Nothing is promised of one that is not prepacked.
    """
    parts, config = [module for module in model.modules() if isinstance(module, BatchInvariant)], model.config
    attention = config.n_head, config.n_kv_head or config.n_head, config.head_dim, torch.get_num_threads()
    return bool(parts) and all(part.keeps_bits for part in parts) and _attention_keeps_bits(*attention)


@functools.cache
def _attention_keeps_bits(H: int, K: int, D: int, threads: int) -> bool:
    """Tell whether one query's attention is the same for a sequence alone and among others, as caches have them."""
    numbers = torch.Generator().manual_seed(0)
    for S in (ALIGNMENT, 20 * ALIGNMENT):
        row = [torch.randn(1, *shape, D, generator=numbers) for shape in ((H, 1), (K, S), (K, S))]
        outputs = []
        for B in (1, 2, 3, max(BLOCKS)):
            query, keys, values = (x.repeat(B, 1, 1, 1) for x in row)
            outputs.append(attend(query, [Segment(keys, values, torch.zeros(S))]))
        if not all((output == outputs[0]).all() for output in outputs):
            return False
    return True


@contextlib.contextmanager
def _fbgemm() -> Generator[None]:
    """Use FBGEMM, and silence torch's deprecation warning about quantized tensors."""
    engine = torch.backends.quantized.engine
    if "fbgemm" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")
            yield
    finally:
        torch.backends.quantized.engine = engine
