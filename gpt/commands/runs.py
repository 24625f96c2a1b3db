"""List runs and what became of them, or compare some.

Only what is small is read: a run's config, its metrics, and the state of its newest checkpoint. That weights are whole
is not looked at here.
"""

import csv as csv_module
import json as json_module
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from gpt.config import TrainConfig
from gpt.config_io import later, parse, to_dict
from gpt.errors import InputError
from gpt.files import read_json
from gpt.log import log
from gpt.presets import PRESETS
from gpt.runs.checkpoint import list_checkpoints, read_state
from gpt.runs.directory import CONFIG, METRICS, go_on, is_locked, is_run, nearest_run, read_config
from gpt.terminal import one_line
from gpt.tracking.jsonl import Metrics, read_metrics
from gpt.training.schedule import Cooldown
from gpt.training.state import TrainState

RUNS = Path("runs")
Names = Annotated[tuple[str, ...], Positional, arg(metavar="[RUN ...]", help_behavior_hint="")]


@dataclass(frozen=True)
class RunEntry:
    """What a run's directory says of it; None for what it does not say."""

    run: str
    state: str
    """finished, training (another process is at it), stopped (and can go on), or damaged."""
    step: int
    """Of the newest checkpoint; of a run in training, of its newest record."""
    steps: int | None
    best_loss: float | None
    """The lowest validation loss, in nats per token."""
    best_step: int | None
    changed: float
    """When the last file was written, in seconds since 1970."""
    bytes: int
    corpus_fingerprint: str | None
    """Of all that its data was made of, as the newest checkpoint and the data's report.json have it."""
    fault: str | None
    """What is wrong with a damaged run."""
    config: dict[str, Any] | None
    last: Metrics | None
    """The newest record of metrics.jsonl."""
    best: Metrics | None
    """The record of the lowest validation loss."""

    @property
    def hint(self) -> str | None:
        """Say what to do about it, where something is to be done."""
        if self.state == "damaged":
            return f"{self.run} is damaged: {self.fault}"
        if self.state == "stopped":
            return f"{self.run} stopped at step {self.step:,} of {self.steps:,}; go on with: {go_on(Path(self.run))}"
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    parse(tyro.cli, later(runs), arguments)()


def runs(
    names: Names = (),
    json: FlagCreatePairsOff[bool] = False,
    csv: FlagCreatePairsOff[bool] = False,
) -> None:
    """List the runs below runs/, or compare the settings and losses of those named.

    Args:
        names: Runs, by path or by name below runs/ (one is compared with its preset); or a directory of runs to list.
        json: Print a JSON list of all that is known of each run instead.
        csv: Print the metrics of the named runs as CSV instead, a line for each record.
    """
    paths = [_find(name) for name in names]
    if csv:
        _print_metrics(paths)
        return
    listed = not paths or (len(paths) == 1 and not _looks_like_run(paths[0]))
    if listed:
        parent = paths[0] if paths else RUNS
        paths = sorted(path for path in parent.glob("*") if _looks_like_run(path))
        if not paths:
            log.info(f"there is no run under {parent}/; train one: gpt train")
    entries = [look(path) for path in paths]
    if json:
        print(json_module.dumps([asdict(entry) for entry in entries]))
    elif entries:
        if len(entries) == 1 and not listed:
            print(one_line(f"{entries[0].run}: settings that differ from its preset's, and what it has reached") + "\n")
        print(_table(_listing(entries)) if listed else _table(_comparison(entries)))
    for entry in entries:
        if entry.hint:
            log.info(entry.hint)


# ---- finding and reading ----


def _find(name: str) -> Path:
    for path in (Path(name), RUNS / name):
        if path.is_dir():
            return path
    near = nearest_run(Path(name))
    raise InputError(f"{name}: there is no such run{f'; did you mean {near}?' if near else ''}")


def _looks_like_run(path: Path) -> bool:
    """Tell whether a directory is a run, or was one before it was damaged; a Hugging Face model is none."""
    if is_run(path) or (path / METRICS).is_file() or (path / "checkpoints").is_dir():
        return True
    try:
        return "config" in read_json(path / CONFIG)
    except InputError:
        return (path / CONFIG).is_file()


def look(path: Path) -> RunEntry:
    """Read what a run's directory says. What is damaged is told in the entry, and raises nothing."""
    config, records, saved, faults = None, [], {}, []

    def tried(read: Callable[[], Any], default: Any) -> Any:
        try:
            return read()
        except (InputError, OSError) as error:
            faults.append(str(error))
            return default

    config = tried(lambda: read_config(path), None)
    records = tried(lambda: read_metrics(path), [])
    checkpoints = tried(lambda: list_checkpoints(path), [])
    if checkpoints:
        saved = tried(lambda: read_state(checkpoints[-1]), {})
    step = saved.get("step", 0)
    if is_locked(path):
        state, step = "training", max([step, *(record["step"] for record in records[-1:])])
    elif faults:
        state = "damaged"
    else:
        state = "finished" if _is_finished(config, saved) else "stopped"
    best = _best(records, saved)
    changed, size = _written(path)
    return RunEntry(
        run=str(path),
        state=state,
        step=step,
        steps=config.steps if config else None,
        best_loss=best["val_loss"] if best else None,
        best_step=best["step"] if best else None,
        changed=changed,
        bytes=size,
        corpus_fingerprint=saved.get("corpus_fingerprint"),
        fault="; ".join(faults) or None,
        config=to_dict(config) if config else None,
        last=records[-1] if records else None,
        best=best,
    )


def _is_finished(config: TrainConfig, saved: dict[str, Any]) -> bool:
    """Tell whether no step is left to be done, nor an evaluation that was cut short."""
    cooldown = saved.get("cooldown")
    state = TrainState(
        step=saved.get("step", 0),
        evaluations_since_best=saved.get("evaluations_since_best") or 0,
        best_step=saved.get("best_step"),
        cooldown=Cooldown(**cooldown) if cooldown else None,
    )
    return state.is_over(config) and not saved.get("unevaluated")


def _best(records: list[Metrics], saved: dict[str, Any]) -> Metrics | None:
    """Find the record of the best evaluation: by the newest checkpoint, which has forgotten those on other data."""
    rated = [record for record in records if _has_loss(record) and not record.get("within_error")]
    if "best_step" in saved:
        rated = [record for record in rated if record["step"] == saved["best_step"]]
    return min(rated, key=lambda record: record["val_loss"], default=None)


def _has_loss(record: Metrics) -> bool:
    return isinstance(loss := record.get("val_loss"), int | float) and math.isfinite(loss)


def _written(path: Path) -> tuple[float, int]:
    """Find when the newest file was written, and the size of all; one may be removed meanwhile."""
    changed, size = path.stat().st_mtime, 0
    for file in path.rglob("*"):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        if file.is_file():
            changed, size = max(changed, status.st_mtime), size + status.st_size
    return changed, size


# ---- printing ----


def _listing(entries: list[RunEntry]) -> list[list[str]]:
    rows = [["run", "data", "preset", "step", "best loss", "state", "changed", "size"]]
    for entry in entries:
        config = entry.config or {}
        best = "" if entry.best_loss is None else f"{entry.best_loss:.4f} at {entry.best_step:,}"
        rows.append(
            [
                entry.run,
                _words(config.get("data", "")),
                config.get("preset", ""),
                f"{entry.step:,}/{entry.steps:,}" if entry.steps else "",
                best,
                entry.state,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed)),
                f"{entry.bytes / 1e6:,.0f} MB",
            ]
        )
    return rows


def _comparison(entries: list[RunEntry]) -> list[list[str]]:
    """Make a row for each setting that differs, then one for each figure; a column for each run."""
    columns = {entry.run: _flat(entry.config or {}) for entry in entries}
    if len(entries) == 1:
        name = str((entries[0].config or {}).get("preset", "custom"))
        columns = {f"preset {name}": _flat(to_dict(PRESETS.get(name, TrainConfig)())), **columns}
    rows = [["", *columns]]
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        values = [_shown(column.get(name)) for column in columns.values()]
        if len(set(values)) > 1 and name != "run_dir":
            rows.append([name, *values])
    empty = [""] * (len(columns) - len(entries))
    figures: dict[str, Callable[[RunEntry], object]] = {
        "state": lambda entry: entry.state,
        "step": lambda entry: f"{entry.step:,}",
        "best validation loss": lambda entry: entry.best_loss,
        "at step": lambda entry: entry.best_step,
        "bits per byte": lambda entry: (entry.best or {}).get("val_bits_per_byte"),
        "newest training loss": lambda entry: (entry.last or {}).get("train_loss"),
        "tokens": lambda entry: (entry.last or {}).get("tokens"),
        "seconds": lambda entry: (entry.last or {}).get("elapsed_s"),
    }
    if any(entry.corpus_fingerprint for entry in entries):
        figures["corpus fingerprint"] = lambda entry: entry.corpus_fingerprint and entry.corpus_fingerprint[:12]
    return [*rows, *([name, *empty, *(_shown(figure(entry)) for entry in entries)] for name, figure in figures.items())]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Name nested settings as 'model.n_layer'."""
    found: dict[str, object] = {}
    for name, value in config.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _words(data: str | tuple[str, ...]) -> str:
    """Give a dataset's path, or those of several with their weights."""
    return data if isinstance(data, str) else " ".join(data)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return _words(value)
    return f"{value:.4f}" if isinstance(value, float) and abs(value) >= 0.1 else str(value)


def _table(rows: list[list[str]]) -> str:
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _print_metrics(paths: list[Path]) -> None:
    """Print every record of some runs as CSV, a line each, with a column for each figure that one of them has.

    Samples, which are texts of many lines, are left out.
    """
    if not paths:
        raise InputError("`csv`: name the runs whose metrics are wanted, such as: gpt runs NAME --csv")
    records = [{"run": str(path)} | record for path in paths for record in read_metrics(path)]
    for record in records:
        record.pop("sample", None)
    writer = csv_module.DictWriter(sys.stdout, dict.fromkeys(["run", *(name for r in records for name in r)]))
    writer.writeheader()
    writer.writerows(records)
