"""The options of train.py, and what they begin with: a preset, a run to resume, or the weights of another model."""

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, Suppress, arg

from gpt.choices import Device
from gpt.commands import program_name
from gpt.config import TrainConfig, nearest_multiple
from gpt.dataset.dataset import Dataset
from gpt.device import choose_device
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.log import log
from gpt.presets import PRESETS, preset, preset_for
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.runs.directory import is_run, nearest_run, newest_run, read_config, require_unused
from gpt.runs.load import load_tokenizer, model_config, pinned
from gpt.settings import overlay, to_dict
from gpt.training.budget import Asked, budgeted, suited
from gpt.training.exact import is_exact
from gpt.training.forecast import forecast_lines


@dataclass(frozen=True)
class TrainCommand:
    """Train a GPT on a dataset. Settings: the preset's, then those of --config, then flags."""

    settings: Annotated[TrainConfig, arg(name="")] = field(default_factory=TrainConfig)
    preset: Annotated[str, Positional, arg(metavar="[PRESET]")] = ""
    """nano, shakespeare-char-modern, gpt2-modern; exactly GPT-2: shakespeare-char-cpu, finetune, gpt2, gpt2-medium,
    gpt2-large, gpt2-xl. By default what fits the device."""
    config: Path | None = None
    """TOML file of settings: steps = 100, and tables such as [model]."""
    resume: FlagCreatePairsOff[bool] = False
    """Go on with the run that --run-dir names, beginning it if it is not there yet, or with the newest."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the resolved settings, a forecast of memory and time, and stop."""
    profile: FlagCreatePairsOff[bool] = False
    """Trace steps 4 to 6 from here into the run's trace.json, and print the operations that cost most."""
    allow_other_data: FlagCreatePairsOff[bool] = False
    """With --resume: go on although the data, its tokenizer, or the part of it that is evaluated (--evaluation.tokens),
    is not what the run was trained on so far."""
    allow_rate_jump: FlagCreatePairsOff[bool] = False
    """With --resume: go on although the learning rate, which had come down, jumps up, or has a much higher peak."""
    from_step: int | None = None
    """With --resume: go on from the checkpoint of this step; what came later is kept as a run of its own."""
    epochs: float | None = None
    """Train for so many epochs, times that the text is read, instead of --steps."""
    minutes: float | None = None
    """Train for about so many minutes, by a trial of this machine's speed, instead of --steps. With --resume: so many
    more for a finished run; an unfinished one goes on to the steps it has."""
    asked: Annotated[Asked, Suppress] = field(default_factory=Asked)


@dataclass(frozen=True)
class _FirstLook:
    """The settings that decide which others they are laid over: from flags, else from the file."""

    config: Path | None = None
    run_dir: Path | None = None
    init_from: str | None = None
    device: Device | None = None
    resume: FlagCreatePairsOff[bool] = False


def parse_train(arguments: Sequence[str]) -> tuple[TrainCommand, str]:
    """The command, and a line that says which settings it began with and why.

    Precedence: preset (or the resumed run's config, or the architecture of --init-from) < --config file < flags.
    Raises InputError; exits with a message where a flag itself is wrong.
    """
    named = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    visible = [argument for argument in arguments if argument not in ("-h", "--help")]
    first, _ = tyro.cli(_FirstLook, args=visible, return_unknown_args=True, add_help=False)
    file = {} if first.config is None else _read_toml(first.config)
    chosen = overlay(
        TrainConfig(),
        {key: file[key] for key in ("preset", "run_dir", "init_from", "device") if key in file},
        str(first.config),
    )
    name = named or file.get("preset", "")
    run = first.run_dir or chosen.run_dir
    resumes = first.resume and not _is_to_begin(run)
    if resumes:
        base, reason = _resumed(run, name)
    else:
        base, reason = _begun(name, first.init_from or chosen.init_from, first.device or chosen.device)
    given = overlay(base, file | {"preset": base.preset}, str(first.config))
    named_settings = _named(arguments, file)
    if first.resume and not resumes:
        assert run is not None
        reason += _begins_instead(run, bool(name) or "data" in named_settings)
    command = tyro.cli(TrainCommand, args=list(arguments), default=TrainCommand(settings=given), prog=program_name())
    if command.preset != named or command.settings.preset != base.preset:
        wrong = command.preset if command.preset != named else command.settings.preset
        raise InputError(f"the preset comes first, and without a flag: train.py {wrong} …")
    for option in ("allow_other_data", "allow_rate_jump", "from_step"):
        if getattr(command, option) not in (False, None) and not command.resume:
            raise InputError(f"--{option.replace('_', '-')}: has a meaning with --resume only")
    if resumes:
        command = _with_init(command, _init_of_resumed(base.init_from, command.settings.init_from))
        _require_same_training(base, command.settings)
    elif command.settings.init_from != "scratch":
        _require_architecture(base, command.settings)
        command = _with_init(command, pinned(command.settings.init_from))
    asked = Asked(named_settings, bool(name), command.epochs, command.minutes, command.allow_rate_jump)
    return dataclasses.replace(command, asked=asked), reason


def _with_init(command: TrainCommand, init_from: str) -> TrainCommand:
    return dataclasses.replace(command, settings=dataclasses.replace(command.settings, init_from=init_from))


def _init_of_resumed(before: str, now: str) -> str:
    """What --init-from names now, as a run keeps it: a hub id without a revision is the commit that it began with."""
    if before.startswith(f"{now}@"):
        return before
    return pinned(now) if "@" in now and now != before else now


def _named(arguments: Sequence[str], file: dict[str, Any]) -> frozenset[str]:
    """The settings that flags and the file name, as 'model.dropout'."""
    flags = (re.match(r"--([\w.-]+)", argument) for argument in arguments)
    names = {flag[1].replace("-", "_") for flag in flags if flag}
    for key, value in file.items():
        names |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    return frozenset(names)


def _begun(named: str, init_from: str, device: Device) -> tuple[TrainConfig, str]:
    if named:
        base, reason = preset(named), f"preset {named}: asked for"
    else:
        base, why = preset_for(choose_device(device), init_from)
        reason = f"preset {base.preset}: {why}"
    if init_from != "scratch":  # the architecture comes from the weights
        model = dataclasses.replace(model_config(init_from), dropout=base.model.dropout)
        base = dataclasses.replace(
            base, model=model, batch_tokens=nearest_multiple(base.batch_tokens, model.context_length)
        )
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


def _begins_instead(run: Path, told_on_what: bool) -> str:
    """What to add to the first line where --resume names a run that is not there.

    Raises InputError where it looks like a slip: nothing says on what to train, and torchrun did not start this.
    """
    near = nearest_run(run)
    meant = f"; did you mean {near}?" if near else ""
    if not told_on_what and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise InputError(f"--resume: {run} is not there{meant or '.'} To begin it, name --data or a preset")
    return f"; {run} is not there: a new run begins{meant}"


def _resumed(run: Path | None, named: str) -> tuple[TrainConfig, str]:
    path = run or newest_run()
    if not is_run(path) and (path / "checkpoints").is_dir():
        read_config(path)  # which says what is wrong with it
    if not is_run(path):
        raise InputError(f"--resume: {path} holds no run, but something else; name another directory")
    base = dataclasses.replace(read_config(path), run_dir=path, stop_at=None)
    if named and named != base.preset:
        raise InputError(f"--resume: {path} began with the preset {base.preset}, not {named}")
    return base, f"settings: those of {path}"


def _require_same_training(before: TrainConfig, now: TrainConfig) -> None:
    """What the steps done so far were made with cannot change; the rest can."""
    for name in ("model", "batch_tokens", "seed", "init_from"):
        if getattr(now, name) != getattr(before, name):
            raise InputError(
                f"--resume: {name} was {getattr(before, name)} and cannot become {getattr(now, name)} midway; "
                "begin a new run from these weights with --init-from"
            )


def _require_architecture(base: TrainConfig, config: TrainConfig) -> None:
    """The model of --init-from can only be given less context, and another dropout."""
    source = dataclasses.replace(base.model, context_length=config.model.context_length, dropout=config.model.dropout)
    if source != config.model or config.model.context_length > base.model.context_length:
        raise InputError(
            f"--init-from {config.init_from}: is {base.model}; only its dropout can be changed, "
            "and its context made smaller"
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: is not TOML ({error})") from None


def settle(command: TrainCommand, dataset: Dataset, world: World, resumes: bool) -> TrainConfig:
    """The settings once the dataset is known: shape, vocabulary and length; what was chosen is said."""
    config, done = command.settings, None
    if resumes:
        done = command.from_step or world.broadcast(_last_step(config.run_dir) if world.is_main else None)
    else:
        config = suited(config, command.asked, dataset, world.device)
    config = fit_to_dataset(config, dataset, resumes)
    return budgeted(config, command.asked, dataset, world, done)


def _last_step(run: Path | None) -> int:
    """The step of a run's newest checkpoint; 0 where there is none."""
    saved = list_checkpoints(run) if run else []
    return step_of(saved[-1]) if saved else 0


def fit_to_dataset(config: TrainConfig, dataset: Dataset, resumes: bool = False) -> TrainConfig:
    """The config with the vocabulary of the dataset, unless a run is resumed, which has one.

    Raises InputError if the two cannot go together.
    """
    dataset.require_window(config.model.context_length)
    vocab_size = dataset.tokenizer.vocab_size
    if config.model.vocab_size == vocab_size:
        return config
    fixed = resumes or config.init_from != "scratch"
    if not resumes and fixed and vocab_size < config.model.vocab_size and _is_padded(config, dataset):
        log.info(f"vocabulary: {vocab_size:,} ids; those that pad it to {config.model.vocab_size:,} are left out")
        return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))
    unset = config.preset in PRESETS and config.model.vocab_size == PRESETS[config.preset]().model.vocab_size
    if fixed or not unset:
        raise InputError(
            f"model.vocab_size is {config.model.vocab_size:,}; the tokenizer of {dataset.path} has {vocab_size:,} ids: "
            "prepare the data with the model's tokenizer (--tokenizer gpt2, or --tokenizer RUN for a run of yours), "
            "or leave --model.vocab-size out"
        )
    log.info(f"vocabulary: {vocab_size:,} ids, those of {dataset.path}")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


def _is_padded(config: TrainConfig, dataset: Dataset) -> bool:
    """Whether the weights of --init-from have more ids than their own tokenizer, which is also the dataset's."""
    try:
        return load_tokenizer(config.init_from).fingerprint == dataset.tokenizer.fingerprint
    except InputError:
        return False


def described(config: TrainConfig, world: World) -> str:
    """Where a training computes, and what it promises of a resume."""
    exact = "exact" if is_exact(config.exact, world.device) else "not exact"
    return f"device: {world.device}, {exact}" + (f", {world.size} processes" if world.size > 1 else "")


def dry_run_text(config: TrainConfig, dataset: Dataset | None, world: World) -> str:
    return json.dumps(to_dict(config), indent=2) + "\n\n" + "\n".join(forecast_lines(config, dataset, world))
