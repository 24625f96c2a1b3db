"""The options of `gpt train`, and the settings that they make of a preset, a run, or another model's architecture.

Every setting is a flag. Flags and a TOML file are the same kind of thing: a table that is laid over the settings that
the training begins with, the flags over the file.
"""

import dataclasses
import itertools
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from gpt.choices import Device
from gpt.commands import as_flags
from gpt.commands.other_names import CALLED
from gpt.config import TrainConfig, nearest_multiple
from gpt.config_io import differences, overlay, parse, settings_type
from gpt.device import choose_device
from gpt.errors import InputError
from gpt.files import parse_json
from gpt.interop.hub_names import hub_id
from gpt.presets import PRESETS, preset
from gpt.runs.directory import by_name, is_run, nearest_run, newest_run, read_config, require_unused
from gpt.runs.load import model_config, pinned
from gpt.suits import preset_for
from gpt.terminal import program_name
from gpt.training.budget import Asked

if TYPE_CHECKING:
    Settings = dict[str, Any]
else:
    Settings = settings_type(TrainConfig, as_flags, left_out=("preset",))

SAME_WEIGHTS = ("batch_tokens", "seed", "windows", "document_mask", "optimizer.name")  # can change in a new run only
_PRESET_HELP = f"One of {', '.join(PRESETS)}; by default what fits."


@dataclass(frozen=True)
class Options:
    """Train a GPT on a dataset: without options, a small one on Python's own library.

    Settings are the preset's, over them those of --config, over them flags.
    """

    settings: Annotated[Settings, arg(name="", help="")]
    preset: Annotated[str, Positional, arg(metavar="[PRESET]", help=_PRESET_HELP, help_behavior_hint="")] = ""
    config: Path | None = None
    """File of settings: TOML (steps = 100, and tables such as [model]), or what --dry-run prints."""
    resume: FlagCreatePairsOff[bool] = False
    """Go on with the run that --run-dir names, beginning it if it is not there yet, or with the newest."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print all settings as JSON, which --config takes; forecast memory and time; and stop."""
    profile: FlagCreatePairsOff[bool] = False
    """Trace steps 4 to 6 from here into the run's trace.json, and say which operations cost most."""
    allow_other_data: FlagCreatePairsOff[bool] = False
    """With --resume: go on although the data, or the part that is evaluated, is not what it was so far."""
    allow_rate_jump: FlagCreatePairsOff[bool] = False
    """With --resume: go on although the learning rate, which had come down, jumps up, or has a much higher peak."""
    from_step: int | None = None
    """With --resume: go on from the checkpoint of this step; what came later is kept as a run of its own."""
    epochs: float | None = None
    """Train for so many epochs, times that the text is read, instead of --steps."""
    minutes: float | None = None
    """Train for about so many minutes, by a trial of this machine's speed; with --resume, a finished run for more."""


ONLY_FLAGS = [field.name for field in dataclasses.fields(Options) if field.name not in ("settings", "preset")]
SWITCHES = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Options) if field.default is False]
YES_OR_NO = ("yes", "no", "true", "false", "on", "off", "1", "0")


@dataclass(frozen=True)
class TrainCommand:
    """What a training was asked for."""

    config: TrainConfig
    asked: Asked
    reason: str
    """Which settings it began with, and why."""
    resumes: bool
    options: Options

    @property
    def how_to_resume(self) -> dict[str, Any]:
        """The arguments of `gpt.training.checkpointing.resume` that the command line gave."""
        return {name: getattr(self.options, name) for name in ("allow_other_data", "allow_rate_jump", "from_step")}


def parse_train(arguments: Sequence[str]) -> TrainCommand:
    """Read the command line.

    Precedence: preset (or the resumed run's config, or the architecture of --init-from) < --config file < flags.
    Raises InputError; exits with a message where a flag itself is wrong.
    """
    _require_known_flags(arguments)
    options = _preset_apart(parse(tyro.cli, Options, list(arguments), prog=program_name()))
    file = {} if options.config is None else _read_settings(options.config)
    where = f"--config {options.config}"
    given = overlay(overlay(TrainConfig(), _plain(file), where), _plain(options.settings))
    name, run = options.preset or file.get("preset", ""), given.run_dir
    resumes = options.resume and not _is_to_begin(run)
    base, reason = _resumed(run, name) if resumes else _begun(name, given.init_from, given.device)
    config = overlay(overlay(base, file | {"preset": base.preset}, where), options.settings)
    over = {"steps"} if (options.epochs, options.minutes) != (None, None) else set()  # a flag's length, over the file's
    named = frozenset((_names(file) - over) | _names(options.settings))
    if options.resume and not resumes:
        assert run is not None
        reason += _begins_instead(run, bool(name) or "data" in named)
    for option in ("allow_other_data", "allow_rate_jump", "from_step"):
        if getattr(options, option) not in (False, None) and not options.resume:
            raise InputError(f"--{option.replace('_', '-')}: has a meaning with --resume only")
    if resumes:
        config = dataclasses.replace(config, init_from=_init_of_resumed(base.init_from, config.init_from))
        _require_same_training(base, config)
    elif config.init_from != "scratch":
        _require_architecture(base, config)
        config = dataclasses.replace(config, init_from=pinned(config.init_from, absolute=config.lora.rank > 0))
    asked = Asked(named, bool(name), options.epochs, options.minutes, options.allow_rate_jump)
    return TrainCommand(config, asked, reason, resumes, options)


def _require_known_flags(arguments: Sequence[str]) -> None:
    """Raise InputError for a flag of other programs, and for a switch with a value, which would be the preset."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, with_value, _ = argument.partition("=")
        if name in CALLED:
            raise InputError(f"{name}: is called {CALLED[name]} here")
        if name.replace("_", "-") in SWITCHES and (with_value or following.lower() in YES_OR_NO):
            raise InputError(f"{name}: takes no value; write {name} alone, or leave it out")


def _preset_apart(options: Options) -> Options:
    """Take a preset that follows --data, which several words may follow, as the preset and not as a dataset.

    A mistyped one, too: a bare word that is neither a path nor has a weight.
    """
    data = options.settings.get("data")
    if options.preset or not isinstance(data, tuple) or not _looks_like_preset(data[-1]):
        return options
    paths = Path(data[0]) if len(data) == 2 else data[:-1]
    return dataclasses.replace(options, settings=options.settings | {"data": paths}, preset=data[-1])


def _looks_like_preset(word: str) -> bool:
    return word in PRESETS or (word.replace("-", "").isalnum() and not Path(word).exists())


def _read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings: TOML, or JSON as --dry-run prints it."""
    kind = "TOML"
    try:
        text = path.read_text(encoding="utf-8")
        kind = "JSON" if text.lstrip().startswith("{") else kind
        settings = parse_json(text) if kind == "JSON" else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: is not {kind} ({error})") from None
    for name in ONLY_FLAGS:
        if name in settings:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"--config {path}: {name!r} is no setting but a flag; give {flag} on the command line")
    return settings


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Give the settings that decide which others all are laid over."""
    return {name: settings[name] for name in ("preset", "run_dir", "init_from", "device") if name in settings}


def _names(settings: dict[str, Any]) -> set[str]:
    """Give the names of settings in a table, as 'model.dropout'."""
    names = set()
    for key, value in settings.items():
        names |= {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}
    return names


# ---- what a training begins with ----


def _begun(named: str, init_from: str, device: Device) -> tuple[TrainConfig, str]:
    if named:
        base, reason = preset(named), f"preset {named}: asked for"
    else:
        base, why = preset_for(choose_device(device), init_from)
        reason = f"preset {base.preset}: {why}"
    if init_from != "scratch":  # the architecture comes from the weights
        model = dataclasses.replace(model_config(init_from), dropout=base.model.dropout)
        batch_tokens = nearest_multiple(base.batch_tokens, model.context_length)
        base = dataclasses.replace(base, model=model, batch_tokens=batch_tokens, init_from=init_from)
    return base, reason


def _is_to_begin(run: Path | None) -> bool:
    """Tell whether --resume names a run that is not there yet: a restarting launcher may start it like this."""
    if run is None or is_run(run):
        return False
    try:
        require_unused(run)
    except InputError:
        return False
    return True


def _begins_instead(run: Path, told_on_what: bool) -> str:
    """Give what to add to the first line where --resume names a run that is not there.

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
        preset(named)  # which says so if there is none
        raise InputError(f"--resume: {path} began with the preset {base.preset}, not {named}")
    return base, f"settings: those of {path}"


# ---- what must stay ----


def _init_of_resumed(before: str, now: str) -> str:
    """Give what --init-from names now, as a run keeps it: with the commit of a hub id, and the path of a run's name."""
    if before.startswith(f"{hub_id(str(by_name(now)))}@") or Path(before) in (
        Path(now),
        Path("runs") / now,
        by_name(now).absolute(),
    ):
        return before
    return pinned(now) if "@" in now and now != before else now


def _require_same_training(before: TrainConfig, now: TrainConfig) -> None:
    """Raise InputError where what the steps done so far were made with changes; the rest can."""
    for name, was, is_now in differences(before, now):
        if name.startswith(("model.", "lora.")) or name in (*SAME_WEIGHTS, "init_from", "init_sha256"):
            same_weights = name in (*SAME_WEIGHTS, "model.dropout") or (name == "model.context_length" and is_now < was)
            with_them = " from these weights with --init-from" if same_weights else ""
            raise InputError(
                f"--resume: {name} was {was} and cannot become {is_now} midway; begin a new run{with_them}"
            )


def _require_architecture(base: TrainConfig, config: TrainConfig) -> None:
    """Raise InputError where the model of --init-from is given more than less context, and another dropout."""
    for name, was, is_now in differences(base.model, config.model, "model."):
        if name == "model.dropout" or (name == "model.context_length" and is_now < was):
            continue
        raise InputError(
            f"--init-from {config.init_from}: {name} is {was} and cannot become {is_now}: only its dropout can be "
            "changed, and its context made smaller"
        )
