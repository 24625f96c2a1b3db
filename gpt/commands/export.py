"""Write a run as a Hugging Face model, its adapters merged into it or beside it, or as a GGUF file for llama.cpp."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from gpt.config_io import later, parse
from gpt.errors import InputError
from gpt.interop import huggingface_export
from gpt.interop.gguf import Dtype, gguf_file, write_gguf
from gpt.interrupts import Interruptible
from gpt.runs.directory import by_name, is_run, read_config
from gpt.runs.load import LoadedRun, load_run

if TYPE_CHECKING:
    from gpt.interop.peft import Base


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(export), arguments, config=(DisallowNone,))()


def export(
    to: Path,
    run: Path | None = None,
    checkpoint: str = "best",
    adapter: FlagCreatePairsOff[bool] = False,
    with_code: FlagCreatePairsOff[bool] = False,
    format: Literal["huggingface", "gguf"] = "huggingface",
    dtype: Dtype | None = None,
) -> None:
    """Write a checkpoint as a directory that Hugging Face transformers loads, or as a file that llama.cpp loads.

    Args:
        to: New directory to write. A file in GGUF may be given by its name, NAME.gguf.
        run: Run, by path or by name below runs/; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
        adapter: Write adapters, not merged, as PEFT reads them, and their base: TO/adapter and TO/base.
        with_code: Write the model's own code beside it, for what no class computes; who loads it must trust it.
        format: huggingface: config.json, weights and tokenizer, for transformers; gguf: one file, for llama.cpp.
        dtype: Of the weights in a GGUF file: float32, which is exact (the default), float16, or q8_0, of 8.5 bits each.
    """
    _require_of_one_kind(adapter, with_code, format, dtype)
    loaded = load_run(run, checkpoint=checkpoint)
    if adapter:
        _export_adapter(loaded, to)
        return
    if format == "gguf":
        _export_gguf(loaded, to, dtype or "float32")
        return
    kind = huggingface_export.export(loaded.model, loaded.tokenizer, to, loaded.template, with_code)
    trust = ", trust_remote_code=True" if with_code else ""
    print(f'{to}: {loaded.source}, as {kind.name}; load it with AutoModelForCausalLM.from_pretrained("{to}"{trust})')


def _require_of_one_kind(adapter: bool, with_code: bool, format: str, dtype: Dtype | None) -> None:
    """Raise InputError for options that do not go together."""
    if adapter and with_code:
        raise InputError(
            "`adapter`: goes with a class of transformers, not `with_code`; without it, adapters are merged"
        )
    if format == "gguf" and adapter:
        raise InputError("`adapter`: adapters are written for PEFT, not in GGUF; leave it out, which merges them")
    if format == "gguf" and with_code:
        raise InputError("`with_code`: llama.cpp runs no code of a model's own; leave it out, or `format` gguf")
    if format != "gguf" and dtype is not None:
        raise InputError(f"`dtype` {dtype}: is for `format` gguf; transformers chooses a dtype when it loads the model")


def _export_gguf(loaded: LoadedRun, to: Path, dtype: Dtype) -> None:
    file = gguf_file(to, dtype)
    name = loaded.path.name if is_run(loaded.path) else Path(loaded.source.partition("@")[0]).name
    write_gguf(loaded.model, loaded.tokenizer, file, dtype, name, loaded.template)
    print(f"{file}: {loaded.source}; run it with llama-server -m {file}")


def _export_adapter(loaded: LoadedRun, to: Path) -> None:
    from gpt.interop.peft_export import write_adapter, write_readme
    from gpt.model.lora import adapter_of, remove_adapter

    adapter = adapter_of(loaded.model)
    if adapter is None or not is_run(loaded.path):
        raise InputError(f"{loaded.path}: has no adapters; leave `adapter` out, or name a run trained by `lora.rank`")
    huggingface_export.require_new(to)
    config = read_config(loaded.path)
    remove_adapter(loaded.model)
    huggingface_export.export(loaded.model, loaded.tokenizer, to / "base")
    base = named_base(config.init_from, to / "base")
    write_adapter(adapter, loaded.config, base, to / "adapter", config.lora.dropout)
    write_readme(to / "adapter", str(base.name), config.init_sha256, loaded.source)
    print(f'{to}: {loaded.source}; load it with AutoPeftModelForCausalLM.from_pretrained("{to / "adapter"}")')


def named_base(init_from: str, exported: Path) -> "Base":
    """Name a base so that PEFT opens it: as it is on the hub, from where all have it, else where it was exported to."""
    from gpt.interop.peft import Base

    if by_name(init_from).is_dir():
        return Base(str(exported.absolute()), None)
    name, _, revision = init_from.partition("@")
    return Base(name, revision or None)
