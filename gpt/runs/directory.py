"""A run directory: everything that sampling, evaluation, export and going on with training need.

runs/NAME/config.json  tokenizer.json  metrics.jsonl  loss.png  checkpoints/step-…/
"""

import contextlib
import dataclasses
import errno
import json
import shlex
from collections.abc import Generator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import AcquireReturnProxy, FileLock, Timeout

from gpt.config_io import overlay, to_dict
from gpt.errors import InputError
from gpt.files import PARTIAL, read_json, write_whole
from gpt.terminal import command
from gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt.config import TrainConfig

CONFIG, TOKENIZER, METRICS = "config.json", "tokenizer.json", "metrics.jsonl"
CHAT_TEMPLATE = "chat_template.jinja"  # of a run that was trained on conversations
PICTURE, TRACE = "loss.png", "trace.json"
LOCK, WANDB_ID = ".lock", "wandb-id.txt"
_HEAD = (TOKENIZER, CHAT_TEMPLATE, CONFIG)  # in the order in which they are written
BEFORE_CONFIG = {LOCK, *_HEAD[:-1], *(f".{name}{PARTIAL}" for name in _HEAD)}  # left by a start that was killed
FORMAT = "gpt-run"
VERSION = 2


def is_run(path: Path | None) -> bool:
    """Tell whether a directory holds a run, finished or not; no directory holds none."""
    if path is None:
        return False
    try:
        return read_json(path / CONFIG).get("format") == FORMAT
    except InputError:
        return False


def read_config(path: Path) -> "TrainConfig":
    """Read the config of a run. Raises InputError if it is missing, damaged or of another version."""
    from gpt.config import TrainConfig  # which loads torch: not every command that finds a run needs it

    file = path / CONFIG
    remedy = "name a run directory, such as runs/python-nano"
    content = read_json(file, "a run's config", remedy, (FORMAT, VERSION))
    if "config" not in content:
        raise InputError(f"{file}: cannot be read as a run's config (it lacks 'config'); {remedy}")
    return overlay(TrainConfig(), content["config"], str(file))


def write_config(path: Path, config: "TrainConfig") -> None:
    """Write a run's config.json, or replace it."""
    write_whole(path / CONFIG, json.dumps({"format": FORMAT, "version": VERSION, "config": to_dict(config)}, indent=1))


@contextlib.contextmanager
def open_run(
    config: "TrainConfig", tokenizer: Tokenizer, resume: bool, chat_template: str | None = None
) -> Generator[Path]:
    """Open the run directory to resume, or a new one: the config's, or runs/DATA-PRESET, runs/DATA-PRESET-2 …

    It is this process's alone within the context: a lock that the system takes back when a process dies says so.
    Raises InputError if another process trains in it, or if the directory named for a new run is not empty.
    """
    before = _names(config.run_dir)
    path = _claimed(config)
    with _locked(path):
        if resume:
            yield path
            return
        require_unused(path, before)
        try:
            _write_head(path, config, tokenizer, chat_template)
            yield path
        except BaseException:  # Ctrl-C, too
            _forget_unbegun(path, before)
            raise


def _locked(path: Path) -> AcquireReturnProxy:
    """Lock a run directory. Raises InputError, which says what to do, if that cannot be done."""
    try:
        return FileLock(path / LOCK).acquire(timeout=0.5)  # gpt runs may look at that moment
    except Timeout:
        if _lacks_flock(path / LOCK):
            reason = (
                f"{path / LOCK} says that another process is training in it; one that was killed may have left that "
                "file, as its file system has no locks (flock): if none is training, on any machine, remove it"
            )
        else:
            reason = "another process is training in it; wait until it ends, or name another directory"
        raise InputError(f"`run_dir` {path}: {reason}") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"`run_dir` {path}: cannot be locked ({reason}); it must be writable, on a file system with locks (flock): "
            "name a directory on another one, or mount it with them"
        ) from None


def is_locked(path: Path) -> bool:
    """Tell whether a process trains in a run at this moment; False where this one may not ask."""
    if not (path / LOCK).exists():
        return False
    try:
        with FileLock(path / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _lacks_flock(file: Path) -> bool:
    """Tell whether the system cannot lock a file where this one lies, so that the file's being there is the lock."""
    try:
        import fcntl
    except ImportError:  # Windows, which locks everywhere
        return False
    with open(file, "rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK)
    return False


def usual_name(config: "TrainConfig") -> str:
    """Name a run by its data and preset: python-nano, or code+prose-nano; of many datasets, two and how many more."""
    names = [path.resolve().name for path in config.datasets]
    more = [f"{len(names) - 2}-more"] if len(names) > 3 else names[2:]
    return f"{'+'.join([*names[:2], *more])}-{config.preset}"


def _claimed(config: "TrainConfig") -> Path:
    """Make the run's directory if it is not there. Raises InputError for a name that safetensors cannot take."""
    name = config.run_dir or usual_name(config)
    try:
        str(name).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"`run_dir` {str(name)!r}: its name is not UTF-8; name another directory by `run_dir`"
        ) from None
    if config.run_dir is None:
        return _unused_name(Path("runs"), str(name))
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"`run_dir` {config.run_dir}: cannot be made ({error.strerror}); name another directory"
        ) from None
    return config.run_dir


def _write_head(path: Path, config: "TrainConfig", tokenizer: Tokenizer, chat_template: str | None) -> None:
    """Write what of a run is there before its first step."""
    try:
        tokenizer.save(path / TOKENIZER)
        if chat_template is not None:
            write_whole(path / CHAT_TEMPLATE, chat_template)
        write_config(path, dataclasses.replace(config, run_dir=path))
    except OSError as error:
        raise OSError(f"`run_dir` {path}: cannot be written ({error.strerror}); make space, or name another") from error


def write_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Replace a run's tokenizer, if it is another one: its user was told so, and allowed other data."""
    if Tokenizer.load(path / TOKENIZER).fingerprint != tokenizer.fingerprint:
        tokenizer.save(path / TOKENIZER)


def _names(path: Path | None) -> set[str] | None:
    """List what lies in a directory; None where there is none."""
    return {file.name for file in path.iterdir()} if path is not None and path.is_dir() else None


def _forget_unbegun(path: Path, before: set[str] | None) -> None:
    """Remove what a start wrote that ended before its first step: the next one is to find an unused name."""
    if (path / METRICS).exists() or (path / "checkpoints").exists():
        return
    for name in {CONFIG, *BEFORE_CONFIG} - (before or set()):
        (path / name).unlink(missing_ok=True)
    if before is None:
        with contextlib.suppress(OSError):  # of another program's file
            path.rmdir()


def quoted(path: Path) -> str:
    """Write a path as a shell takes it, and after an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def require_unused(path: Path, names: set[str] | None = None) -> None:
    """Raise InputError if a new run cannot be written to `path`, in which lie these names, or what is there now."""
    if is_run(path):
        raise InputError(
            f"`run_dir` {path}: already holds a run; go on with it by `resume`, or choose another directory"
        )
    names = names if names is not None else _names(path) or set()
    ours = names <= BEFORE_CONFIG and (LOCK in names or not names)  # a start of ours begins by locking
    if path.exists() and not (path.is_dir() and ours):
        what = "exists and is not empty" if path.is_dir() else "is no directory"
        raise InputError(f"`run_dir` {path}: {what}; choose another directory")


def _unused_name(parent: Path, name: str) -> Path:
    parent.mkdir(exist_ok=True)
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()  # claims the name: two trainings that start at once get two
            return path
        except FileExistsError:
            number += 1


def newest_run(parent: Path = Path("runs"), with_checkpoint: bool = False) -> Path:
    """Find the run under `parent` that was last written to, if asked only of those that have something to load.

    Raises InputError if there is none.
    """
    runs = [path for path in parent.glob("*") if is_run(path)]
    if with_checkpoint:
        from gpt.runs.checkpoint import list_checkpoints

        runs = [path for path in runs if list_checkpoints(path)]
    if not runs:
        raise InputError(
            f"there is no run under {parent}/: train one first ({command('train')}), or name another directory"
        )
    return max(
        runs,
        key=lambda path: max(
            file.stat().st_mtime for file in (path, path / "checkpoints", path / CONFIG) if file.exists()
        ),
    )


def by_name(source: str | Path) -> Path:
    """Give the run below runs/ that a bare name means, unless something of that name is here; else the path itself."""
    path, below = Path(source), Path("runs") / source
    return below if path.parent == Path() and not path.exists() and is_run(below) else path


def nearest_run(path: Path, parent: Path = Path("runs")) -> Path | None:
    """Find the run beside `path`, or under `parent`, whose name is most like its name; None where none is like it."""
    runs = {run.name: run for place in (parent, path.parent) for run in place.glob("*") if is_run(run)}
    names = get_close_matches(path.name, runs, n=1)
    return runs[names[0]] if names else None


def go_on(run: Path) -> str:
    """Write the command that goes on with a run."""
    return f"{command('train')} --run-dir {quoted(run)} --resume"
