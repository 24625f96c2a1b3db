"""Commands and their options: dataclass fields become flags (tyro), and bad input becomes a sentence."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from gpt.config import Config, Device, SamplingConfig, nearest_multiple
from gpt.device import choose_device
from gpt.errors import InputError, ProcessLost
from gpt.presets import PRESETS, preset, preset_for
from gpt.run import is_run, load_tokenizer, model_config, newest_run, read_config, require_unused
from gpt.settings import overlay, to_dict
from gpt.tokens.dataset import Dataset
from gpt.training.forecast import forecast_lines
from gpt.training.world import World


def run(main: Callable[..., Any], arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Call `main` with options from the command line, and end the process with its exit code (None is 0)."""
    with sentences():
        code = tyro.cli(main, args=arguments, prog=prog)
    sys.exit(code)


LOST = 3  # exit code of a process whose fellow died or hangs
BROKEN_PIPE = 128 + 13  # as a shell reports a program that SIGPIPE ended


class sentences:
    """A context in which bad input and a failing disk end the program with one sentence and exit code 2."""

    def __enter__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a console that lacks a character shows "?" instead of failing

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the flush at exit fail
            sys.exit(BROKEN_PIPE)
        if isinstance(error, InputError | OSError | ProcessLost):
            print(f"error: {error}", file=sys.stderr, flush=True)
            if isinstance(error, ProcessLost):
                os._exit(LOST)  # an orderly end would wait for the lost one
            sys.exit(2)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            sys.exit(130)


# ---- train ----


@dataclass(frozen=True)
class TrainCommand:
    """Train a GPT on a dataset. Settings: the preset's, then those of --config, then flags."""

    settings: Annotated[Config, arg(name="")] = field(default_factory=Config)
    preset: Annotated[str, Positional, arg(metavar="[PRESET]")] = ""
    """nano, shakespeare-char-modern, gpt2-modern; exactly GPT-2: shakespeare-char-cpu, finetune, gpt2, gpt2-medium,
    gpt2-large, gpt2-xl. By default what fits the device."""
    config: Path | None = None
    """TOML file of settings: steps = 100, and tables such as [model]."""
    resume: FlagCreatePairsOff[bool] = False
    """Go on with the run that --run names, beginning it if it is not there yet, or with the newest."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the resolved settings, a forecast of memory and time, and stop."""
    profile: FlagCreatePairsOff[bool] = False
    """Trace steps 4 to 6 from here into the run's trace.json, and print the operations that cost most."""
    allow_other_data: FlagCreatePairsOff[bool] = False
    """With --resume: go on although the data, or its tokenizer, is not what the run was trained on so far."""


@dataclass(frozen=True)
class _FirstLook:
    """The settings that decide which others they are laid over: from flags, else from the file."""

    config: Path | None = None
    run: Path | None = None
    init: str | None = None
    device: Device | None = None
    resume: FlagCreatePairsOff[bool] = False


def parse_train(arguments: Sequence[str]) -> tuple[TrainCommand, str]:
    """The command, and a line that says which settings it began with and why.

    Precedence: preset (or the resumed run's config, or the architecture of --init) < --config file < flags.
    Raises InputError; exits with a message where a flag itself is wrong.
    """
    arguments = [re.sub("^--run-dir(?=$|=)", "--run", argument) for argument in arguments]
    named = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    visible = [argument for argument in arguments if argument not in ("-h", "--help")]
    first, _ = tyro.cli(_FirstLook, args=visible, return_unknown_args=True, add_help=False)
    file = {} if first.config is None else _read_toml(first.config)
    chosen = overlay(
        Config(), {key: file[key] for key in ("preset", "run", "init", "device") if key in file}, str(first.config)
    )
    name = named or file.get("preset", "")
    run = first.run or chosen.run
    resumes = first.resume and not _is_to_begin(run)
    if resumes:
        base, reason = _resumed(run, name)
    else:
        base, reason = _begun(name, first.init or chosen.init, first.device or chosen.device)
    given = overlay(base, file | {"preset": base.preset}, str(first.config))
    command = tyro.cli(TrainCommand, args=list(arguments), default=TrainCommand(settings=given), prog=program_name())
    if command.preset != named or command.settings.preset != base.preset:
        wrong = command.preset if command.preset != named else command.settings.preset
        raise InputError(f"the preset comes first, and without a flag: train.py {wrong} …")
    if command.allow_other_data and not command.resume:
        raise InputError("--allow-other-data: has a meaning with --resume only")
    if resumes:
        _require_same_training(base, command.settings)
    elif command.settings.init != "scratch":
        _require_architecture(base, command.settings)
    return command, reason


def program_name() -> str:
    """train.py, or `gpt train`: as the program was called."""
    return Path(sys.argv[0]).name


def _begun(named: str, init: str, device: Device) -> tuple[Config, str]:
    if named:
        base, reason = preset(named), f"preset {named}: asked for"
    else:
        base, why = preset_for(choose_device(device), init)
        reason = f"preset {base.preset}: {why}"
    if init != "scratch":  # the architecture comes from the weights
        model = dataclasses.replace(model_config(init), dropout=base.model.dropout)
        base = dataclasses.replace(base, model=model, batch_tokens=nearest_multiple(base.batch_tokens, model.context))
    return base, reason


def _is_to_begin(run: Path | None) -> bool:
    """Whether --resume names a run that is not there yet: what starts it again and again may start it like this."""
    if run is None or is_run(run):
        return False
    try:
        require_unused(run)
    except InputError:
        return False
    return True


def _resumed(run: Path | None, named: str) -> tuple[Config, str]:
    path = run or newest_run()
    if not is_run(path):
        raise InputError(f"--resume: {path} holds no run, but something else; name another directory")
    base = dataclasses.replace(read_config(path), run=path, stop_at=None)
    if named and named != base.preset:
        raise InputError(f"--resume: {path} began with the preset {base.preset}, not {named}")
    return base, f"settings: those of {path}"


def _require_same_training(before: Config, now: Config) -> None:
    """What the steps done so far were made with cannot change; the rest can."""
    for name in ("model", "batch_tokens", "seed", "init"):
        if getattr(now, name) != getattr(before, name):
            raise InputError(
                f"--resume: {name} was {getattr(before, name)} and cannot become {getattr(now, name)} midway; "
                "begin a new run from these weights with --init"
            )


def _require_architecture(base: Config, config: Config) -> None:
    """The model of --init can only be given less context, and another dropout."""
    source = dataclasses.replace(base.model, context=config.model.context, dropout=config.model.dropout)
    if source != config.model or config.model.context > base.model.context:
        raise InputError(
            f"--init {config.init}: is {base.model}; only its dropout can be changed, and its context made smaller"
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--config {path}: is not TOML ({error})") from None


def fit_to_dataset(
    config: Config, dataset: Dataset, say: Callable[[str], None] = print, resumes: bool = False
) -> Config:
    """The config with the vocabulary of the dataset, unless a run is resumed, which has one.

    Raises InputError if the two cannot go together.
    """
    dataset.require_window(config.model.context)
    vocab_size = dataset.tokenizer.vocab_size
    if config.model.vocab_size == vocab_size:
        return config
    fixed = resumes or config.init != "scratch"
    if not resumes and fixed and vocab_size < config.model.vocab_size and _is_padded(config, dataset):
        say(f"vocabulary: {vocab_size:,} ids; those that pad it to {config.model.vocab_size:,} are left out")
        return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))
    unset = config.preset in PRESETS and config.model.vocab_size == PRESETS[config.preset]().model.vocab_size
    if fixed or not unset:
        raise InputError(
            f"model.vocab_size is {config.model.vocab_size:,}; the tokenizer of {dataset.path} has {vocab_size:,} ids: "
            "prepare the data with the model's tokenizer (--tokenizer gpt2, or --tokenizer RUN for a run of yours), "
            "or leave --model.vocab-size out"
        )
    say(f"vocabulary: {vocab_size:,} ids, those of {dataset.path}")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


def _is_padded(config: Config, dataset: Dataset) -> bool:
    """Whether the weights of --init have more ids than their own tokenizer, which is also the dataset's."""
    try:
        return load_tokenizer(config.init).fingerprint == dataset.tokenizer.fingerprint
    except InputError:
        return False


def dry_run_text(config: Config, dataset: Dataset | None, world: World) -> str:
    return json.dumps(to_dict(config), indent=2) + "\n\n" + "\n".join(forecast_lines(config, dataset, world))


def run_recipe(recipe: Path, out: Path) -> None:
    """Prepare a dataset by its recipe, as a person would. Raises InputError if it fails."""
    print(f"preparing {out}: python data/{recipe.name} --out {out}", flush=True)
    if subprocess.run([sys.executable, str(recipe), "--out", str(out)], check=False).returncode:
        raise InputError(f"{recipe}: could not prepare {out}; see above")


# ---- sample ----


@dataclass(frozen=True)
class SampleCommand:
    """Continue a prompt: from --prompt, --prompt-file or standard input; in a terminal without one, interactively."""

    run: str | None = None
    """Run directory, or Hugging Face GPT-2 (directory or hub id); by default the newest run."""
    prompt: str | None = None
    """Text to continue."""
    prompt_file: Path | None = None
    """File whose text is continued (UTF-8)."""
    sampling: Annotated[SamplingConfig, arg(name="")] = field(default_factory=SamplingConfig)
    samples: int = 1
    """Number of continuations."""
    stop: UseAppendAction[tuple[str, ...]] = ()
    """End before this text; may be given several times."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA, else MPS, else the CPU."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object per sample."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"--samples is {self.samples}; it must be at least 1")
        if "" in self.stop:
            raise InputError("--stop is empty; it must have at least one character")
        if self.prompt is not None and self.prompt_file is not None:
            raise InputError("--prompt and --prompt-file: give one of them")

    def read_prompt(self) -> str | None:
        """The prompt, or None if a person at a terminal is to give it."""
        if self.prompt is not None:
            return self.prompt
        if self.prompt_file is not None:
            return self._read(f"--prompt-file {self.prompt_file}", self.prompt_file.read_text)
        if sys.stdin is None or sys.stdin.isatty():
            return None
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")
        return self._read("standard input", lambda encoding: sys.stdin.read())

    def _read(self, name: str, read: Callable[[str], str]) -> str:
        try:
            return read("utf-8")
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: is not UTF-8 ({error.reason} at byte {error.start})") from None

    def require_interactive(self) -> None:
        """Raises InputError for options that an interactive session has no use for."""
        if self.json or self.samples > 1:
            raise InputError(f"{'--json' if self.json else '--samples'}: needs a prompt; give one by --prompt")


# ---- recipes ----


def describe(dataset: Dataset) -> None:
    """Say what a recipe wrote."""
    for split in (dataset.train, dataset.validation):
        print(f"{dataset.path}: {split.tokens:>13,} {split.name} tokens in {len(split.shards)} shard(s)")
    print(f"{dataset.path}: tokenizer {dataset.tokenizer.kind}, vocabulary {dataset.tokenizer.vocab_size:,}")
