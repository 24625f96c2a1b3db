"""Write a run as a Hugging Face model, its adapters merged into it or beside it, or for llama.cpp."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

from gpt.commands.export_card import Stated, adapter_card, base_card, card_of, model_name, upload_command
from gpt.commands.export_prompts import prompts_for
from gpt.commands.export_proof import LEFT_OUT, NOT_OVER, NotProved, Proof, prove
from gpt.config_io import later, parse
from gpt.errors import InputError
from gpt.interop import huggingface_export
from gpt.interop.card import write_card
from gpt.interop.gguf import Dtype, gguf_file, write_gguf
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.runs.directory import by_name, is_run, read_config
from gpt.runs.load import LoadedRun, load_run

if TYPE_CHECKING:
    from gpt.interop.peft import Base

FAILED = 1  # exit code: it was written, and is not the run's model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `gpt export`; return the exit code."""
    with Interruptible():
        return parse(tyro.cli, later(export), arguments, config=(DisallowNone,))()


def export(
    to: Path,
    run: Path | None = None,
    checkpoint: str = "best",
    format: Literal["huggingface", "gguf"] = "huggingface",
    dtype: Dtype | None = None,
    adapter: FlagCreatePairsOff[bool] = False,
    with_code: FlagCreatePairsOff[bool] = False,
    proof: FlagCreatePairsOff[bool] = True,
    license: str | None = None,
    language: str | None = None,
) -> int:
    """Write a checkpoint for Hugging Face transformers, or in GGUF for llama.cpp.

    Where transformers is installed, it loads its files again for comparison. README.md has what came of it, and what is
    known of data and training. A file for llama.cpp is read back.

    Args:
        to: New directory to write. For gguf it may exist, and NAME.gguf names the file itself.
        run: Run, by path or by name below runs/; by default the newest run.
        checkpoint: Of the run: best, last, or the number of a step.
        format: huggingface: config.json, weights and tokenizer, for transformers; gguf: one file, for llama.cpp.
        dtype: Of the weights in a GGUF file: float32, which is exact (the default), float16, or q8_0, of 8.5 bits each.
        adapter: Write adapters, not merged, as PEFT reads them, and their base: TO/adapter and TO/base.
        with_code: Write the model's own code beside it, for what no class computes; who loads it must trust it.
        proof: Leave out that transformers loads it again; README.md then says so.
        license: License of the model, as the hub names it, such as mit; by default none is stated.
        language: Language of its text, such as en; by default what is known of the data.
    """
    stated = Stated(license, language)
    _require_of_one_kind(format, dtype, adapter, with_code, proof)
    loaded = load_run(run, checkpoint=checkpoint)
    if format == "gguf":
        return _export_gguf(loaded, to, dtype or "float32", stated)
    if adapter:
        return _export_adapter(loaded, to, stated, proof)
    kind = huggingface_export.export(loaded.model, loaded.tokenizer, to, loaded.template, with_code)
    found = _proved(loaded, proof, lambda found: write_card(to, card_of(loaded, found, stated)), to)
    trust = ", trust_remote_code=True" if with_code else ""
    print(f'{to}: {loaded.source}, as {kind.name}; load it with AutoModelForCausalLM.from_pretrained("{to}"{trust})')
    return _told(found, loaded, to)


def _require_of_one_kind(format: str, dtype: Dtype | None, adapter: bool, with_code: bool, proof: bool) -> None:
    """Raise InputError for options that do not go together."""
    if adapter and with_code:
        raise InputError("`adapter`: goes with a class of transformers, not `with_code`; leave it out to merge them")
    if format == "gguf":
        if adapter:
            raise InputError("`adapter`: adapters are written for PEFT, not in GGUF; leave it out, which merges them")
        if with_code:
            raise InputError("`with_code`: llama.cpp runs no code of a model's own; leave it out, or `format` gguf")
        if not proof:
            raise InputError("`proof`: is of transformers; a GGUF file is always read back, within seconds")
    elif dtype is not None:
        raise InputError(f"`dtype` {dtype}: is for `format` gguf; transformers chooses a dtype when it loads the model")


def _export_gguf(loaded: LoadedRun, to: Path, dtype: Dtype, stated: Stated) -> int:
    file = gguf_file(to, dtype)
    about: dict[str, Any] = {"general.name": model_name(loaded)}
    if stated.license is not None:
        about["general.license"] = stated.license
    if stated.language is not None:
        about["general.languages"] = [stated.language]
    write_gguf(loaded.model, loaded.tokenizer, file, dtype, about, loaded.template)
    print(f"{file}: {loaded.source}, in {dtype}, and the same when it is read back; run it with llama-server -m {file}")
    return 0


def _proved(
    loaded: LoadedRun,
    asked: bool,
    write: Callable[[Proof | NotProved], None],
    to: Path,
    adapter: Path | None = None,
) -> Proof | NotProved:
    """Compare what was written with the run, if that was asked for, and have the cards written by what came of it."""
    found = NOT_OVER if asked else LEFT_OUT
    write(found)
    if asked:
        config = read_config(loaded.path) if is_run(loaded.path) else None
        log.info(f"{to}: loading it again, to compare it with {loaded.source}")
        found = prove(loaded.model, loaded.tokenizer, prompts_for(config, loaded.tokenizer), to, adapter)
        write(found)
    return found


def _told(found: Proof | NotProved, loaded: LoadedRun, to: Path) -> int:
    """Print what came of the proof, and say how to go on; return the exit code."""
    print(f"{to}: {found.in_words}")
    if found.passed is False:
        log.warning(f"{to}: is not what it should be, as its README.md says: remove it, and do not upload it")
        return FAILED
    log.info(f"upload it: {upload_command(model_name(loaded), to)}")
    return 0


def _export_adapter(loaded: LoadedRun, to: Path, stated: Stated, proof: bool) -> int:
    from gpt.interop.peft_export import write_adapter
    from gpt.model.lora import adapter_of, add_adapter, remove_adapter

    adapter = adapter_of(loaded.model)
    if adapter is None or not is_run(loaded.path):
        raise InputError(f"{loaded.path}: has no adapters; leave `adapter` out, or name a run trained by `lora.rank`")
    huggingface_export.require_new(to)
    config = read_config(loaded.path)
    remove_adapter(loaded.model)
    huggingface_export.export(loaded.model, loaded.tokenizer, to / "base")
    base = named_base(config.init_from, to / "base")
    write_adapter(adapter, loaded.config, base, to / "adapter", config.lora.dropout)
    add_adapter(loaded.model, adapter)

    def write(found: Proof | NotProved) -> None:
        write_card(to / "base", base_card(loaded, found, stated))
        write_card(to / "adapter", adapter_card(loaded, found, stated))

    found = _proved(loaded, proof, write, to / "base", to / "adapter")
    print(f'{to}: {loaded.source}; load it with AutoPeftModelForCausalLM.from_pretrained("{to / "adapter"}")')
    return _told(found, loaded, to / "adapter")


def named_base(init_from: str, exported: Path) -> "Base":
    """Name a base so that PEFT opens it: as it is on the hub, from where all have it, else where it was exported to."""
    from gpt.interop.peft import Base

    if by_name(init_from).is_dir():
        return Base(str(exported.absolute()), None)
    name, _, revision = init_from.partition("@")
    return Base(name, revision or None)
