"""Write a model as one GGUF file, for llama.cpp and all that builds on it.

1. The architecture of llama.cpp that computes what the model does, its shape and its tensors: gguf_architecture.py.
   The vocabulary: gguf_vocabulary.py.
2. Tensors are stored in float32, float16, or q8_0: 32 numbers of a row as 8-bit integers and one scale.
3. The file is read back and compared with what was meant, before it gets its name.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from gpt.errors import InputError
from gpt.files import write_aside
from gpt.interop.gguf_architecture import POSITIONS, architecture_of, named_tensors, shape_keys
from gpt.interop.gguf_vocabulary import vocabulary_keys
from gpt.log import log
from gpt.model.transformer import GPT
from gpt.text.chat_template import ChatTemplate
from gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

Dtype = Literal["float32", "float16", "q8_0"]
INSTALL = "pip install 'gpt[gguf]'"
TYPES = {"float32": "F32", "float16": "F16", "q8_0": "Q8_0"}  # GGUF's own names
FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7}  # llama.cpp's numbers: all in float32, mostly the other
BLOCK = 32  # numbers that share a scale in q8_0
LARGEST_HALF = 65520.0  # from here on a number is infinite in float16
LARGEST = {"F32": math.inf, "F16": LARGEST_HALF, "Q8_0": 127 * LARGEST_HALF}


class Stored(NamedTuple):
    """A tensor as it is to be stored."""

    name: str
    values: np.ndarray
    """In float32."""
    type: str
    """F32, F16 or Q8_0."""


def write_gguf(
    model: GPT,
    tokenizer: Tokenizer,
    to: Path,
    dtype: Dtype = "float32",
    about: Mapping[str, Any] | None = None,
    template: ChatTemplate | None = None,
) -> None:
    """Write a file that llama.cpp loads. An adapter is merged; biases that the model lacks become zeros.

    `about` are further keys, such as general.name and general.license. Norms, biases and learned positions stay in
    float32; in q8_0, matrices whose rows are no multiples of 32 numbers are in float16. Raises InputError if `to`
    exists, if llama.cpp cannot compute what the model does, read its tokenizer or hold its weights, if gguf is not
    installed, or if what is read back is not what was written.
    """
    if to.exists():
        raise InputError(f"`to` {to}: exists; choose a new file, or remove it")
    architecture = architecture_of(model.config)
    keys = shape_keys(model.config, architecture)
    keys |= {"general.type": "model", "general.file_type": FILE_TYPES[dtype], **(about or {})}
    keys |= vocabulary_keys(tokenizer, model.config.vocab_size, template)
    gguf = _library()
    if dtype == "q8_0":
        keys["general.quantization_version"] = gguf.GGML_QUANT_VERSION
    tensors = [_stored(name, values, TYPES[dtype]) for name, values in named_tensors(model, architecture)]
    _say_exceptions(tensors, dtype)
    to.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(to) as partial:
        _write(gguf.GGUFWriter(partial, architecture), keys, tensors)
        _require_written(partial, to, keys, tensors)


def gguf_file(to: Path, dtype: Dtype) -> Path:
    """Name the file: `to` if it is a file's name, else one in that directory."""
    return to if to.suffix == ".gguf" else to / f"model-{TYPES[dtype].lower()}.gguf"


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise InputError(f"`format` gguf: needs a library that is not installed: {INSTALL} ({error})") from None
    return gguf


# ---- storing ----


def _stored(name: str, tensor: Tensor, wanted: str) -> Stored:
    """Choose how a tensor is stored. Raises InputError for numbers that do not fit."""
    values = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
    kind = wanted
    if values.ndim == 1 or name == POSITIONS:
        kind = "F32"
    elif wanted == "Q8_0" and values.shape[-1] % BLOCK:
        kind = "F16"
    largest = max(values.max(), -values.min())
    if not largest < LARGEST[kind]:  # also for what is no number
        raise InputError(
            f"`dtype`: {name} has a value of {largest:g}, which {kind} cannot hold; write it in float32, or, if it is "
            "no number, choose another `checkpoint`"
        )
    return Stored(name, values, kind)


def _say_exceptions(tensors: Sequence[Stored], dtype: Dtype) -> None:
    names = [tensor.name for tensor in tensors if dtype == "q8_0" and tensor.type == "F16"]
    if names:
        kinds = dict.fromkeys("blk.*." + name.split(".", 2)[2] if name.startswith("blk.") else name for name in names)
        log.warning(f"q8_0 takes rows of a multiple of {BLOCK} numbers; these are in float16: {', '.join(kinds)}")


def _write(writer: "GGUFWriter", keys: dict[str, Any], tensors: Sequence[Stored]) -> None:
    import gguf

    try:
        for key, value in keys.items():
            _add_key(writer, key, value)
        kinds = [gguf.GGMLQuantizationType[tensor.type] for tensor in tensors]
        for tensor, kind in zip(tensors, kinds, strict=True):
            numbers, size = gguf.GGML_QUANT_SIZES[kind]
            length = tensor.values.size // numbers * size
            writer.add_tensor_info(tensor.name, tensor.values.shape, tensor.values.dtype, length, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(tensors, kinds, strict=True):  # one after the other, as each needs memory
            writer.write_tensor_data(gguf.quants.quantize(tensor.values, kind))
    finally:
        writer.close()


def _add_key(writer: "GGUFWriter", key: str, value: Any) -> None:
    if key == "general.architecture":  # which the writer has already
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


# ---- reading back ----


def _require_written(file: Path, to: Path, keys: dict[str, Any], tensors: Sequence[Stored]) -> None:
    """Raise InputError if a file does not hold these keys and tensors, as exactly as their types can."""
    import gguf

    reader = gguf.GGUFReader(file)
    found = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    meant = {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in keys.items()}
    wrong = [key for key in {**meant, **found} if key not in meant or found.get(key) != meant[key]]
    if [tensor.name for tensor in reader.tensors] != [tensor.name for tensor in tensors]:
        wrong.append("the names of its tensors")
    for tensor, read in zip(tensors, reader.tensors, strict=False):
        if read.tensor_type.name != tensor.type or [*reversed(read.shape.tolist())] != [*tensor.values.shape]:
            wrong.append(tensor.name)
            continue
        values = gguf.quants.dequantize(read.data, read.tensor_type)
        if not (np.abs(values - tensor.values) <= allowed_error(tensor.values, tensor.type)).all():
            wrong.append(tensor.name)
    if wrong:
        raise InputError(
            f"`to` {to}: read back, it differs from what was written, first in {wrong[0]}; nothing was kept: try again,"
            " or on another disk"
        )


def allowed_error(values: np.ndarray, kind: str) -> np.ndarray:
    """Give how far stored numbers may be from these, (..., N) → (..., N): by rounding, to float16 or within a block."""
    if kind == "F32":
        return np.zeros_like(values)
    if kind == "F16":
        return np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)
    blocks = np.abs(values).reshape(-1, BLOCK)
    scale = blocks.max(axis=1, keepdims=True) / 127
    bound = scale * 0.501 + 127 * np.maximum(scale * 2.0**-11, 2.0**-25)  # to an integer; and the scale to float16
    return np.broadcast_to(bound, blocks.shape).reshape(values.shape)
