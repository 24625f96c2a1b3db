"""Write a run as a Hugging Face model, its adapters merged into it or beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from gpt.config_io import later, parse
from gpt.errors import InputError
from gpt.interop import huggingface_export
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
) -> None:
    """Write a checkpoint as a directory that Hugging Face transformers loads.

    Args:
        to: New directory to write.
        run: Run, by path or by name below runs/; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
        adapter: Write adapters, not merged, as PEFT reads them, and their base: TO/adapter and TO/base.
        with_code: Write the model's own code beside it, for what no class computes; who loads it must trust it.
    """
    if adapter and with_code:
        raise InputError(
            "`adapter`: goes with a class of transformers, not `with_code`; without it, adapters are merged"
        )
    loaded = load_run(run, checkpoint=checkpoint)
    if adapter:
        _export_adapter(loaded, to)
        return
    kind = huggingface_export.export(loaded.model, loaded.tokenizer, to, loaded.template, with_code)
    trust = ", trust_remote_code=True" if with_code else ""
    print(f'{to}: {loaded.source}, as {kind.name}; load it with AutoModelForCausalLM.from_pretrained("{to}"{trust})')


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
