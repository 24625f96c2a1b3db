"""Draw the curves of several runs into one picture, and as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import DisallowNone, Positional, arg

from gpt.config_io import later, parse
from gpt.errors import InputError, did_you_mean, require
from gpt.files import parse_json
from gpt.log import log
from gpt.runs.directory import by_name, is_run, read_config
from gpt.runs.load import load_tokenizer
from gpt.terminal import one_line
from gpt.tracking.curves import MARKS, Curve, draw_curves, text_curves
from gpt.tracking.jsonl import Metrics, read_metrics

Axis = Literal["step", "tokens", "time", "epoch"]
UNITS = {"val_loss": "validation loss (nats per token)", "val_bits_per_byte": "validation, bits per byte"}
UNITS |= {"train_loss": "loss of the training batch (nats per token)", "time": "seconds"}
HIGHEST = 1e300  # beyond that, the distance of two can be no number
KINDS = (".png", ".svg", ".pdf")


def main(arguments: Sequence[str] | None = None) -> None:
    parse(tyro.cli, later(plot), arguments, config=(DisallowNone,))()


def plot(
    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]")],
    metric: str | None = None,
    x: Axis = "step",
    to: Path = Path("curves.png"),
) -> None:
    """Draw a figure of several runs over their steps into one picture, and as text.

    Args:
        runs: Runs, by path or by name below runs/; or files of records, such as metrics.jsonl and docs/curves/.
        metric: Which figure of metrics.jsonl. By default val_loss, or val_bits_per_byte where vocabularies differ.
        x: What it is drawn over; time is in seconds.
        to: Picture to write, .png, .svg or .pdf; one that is there is replaced.
    """
    require(to.suffix.lower() in KINDS, "`to`", to, f"a file that ends in {' or '.join(KINDS)}")
    if not 1 <= len(runs) <= len(MARKS):
        raise InputError(f"name from 1 to {len(MARKS)} runs to draw")
    paths = [_found(path) for path in runs]
    metric = metric or _usual_metric(paths)
    curves = [_curve(path, metric, x) for path in paths]
    labels = UNITS.get(x, x), UNITS.get(metric, metric)
    try:
        draw_curves(curves, labels, to)
    except OSError as error:
        raise InputError(f"`to` {to}: cannot be written ({error.strerror})") from None
    print(text_curves(curves, labels), flush=True)
    log.info(f"picture: {to}")


def _found(path: Path) -> Path:
    found = path if path.is_file() else by_name(path)
    if not (found.is_file() or is_run(found)):
        raise InputError(f"{path}: is neither a run nor a file of records; gpt runs lists the runs")
    return found


def _usual_metric(paths: list[Path]) -> str:
    """Choose bits per byte where runs have different tokenizers, or where a file does not tell which it has."""
    kinds = {load_tokenizer(path).fingerprint if path.is_dir() else None for path in paths}
    return "val_loss" if len(kinds) == 1 and (len(paths) == 1 or None not in kinds) else "val_bits_per_byte"


def _curve(path: Path, metric: str, x: Axis) -> Curve:
    """Read one run's points. Raises InputError if it has none."""
    records = read_metrics(path) if path.is_dir() else _records(path)
    numbers = {key for record in records for key, value in record.items() if isinstance(value, float | int)}
    if metric not in numbers:
        known = did_you_mean(metric, sorted(numbers)) if numbers else "it has none yet"
        raise InputError(f"`metric` {metric}: {path} has no such figure; {known}")
    points = [
        (_place(path, record, x), _number(record, metric), _number(record, f"{metric}_ci95")) for record in records
    ]
    if all(y is None for _, y, _ in points):
        raise InputError(f"`metric` {metric}: {path} has no number of it that is finite")
    kept = [(at, y, max(0.0, half or 0.0)) for at, y, half in points if at is not None and y is not None]
    if not kept:
        raise InputError(f"`x` {x}: {path} does not say it; it has steps")
    return Curve(one_line(str(path)), [p[0] for p in kept], [p[1] for p in kept], [p[2] for p in kept])


def _place(path: Path, record: Metrics, x: Axis) -> float | None:
    if x == "tokens" and "tokens" not in record and path.is_dir():  # an earlier version wrote none
        return record["step"] * read_config(path).batch_tokens
    return _number(record, {"time": "elapsed_s"}.get(x, x))


def _number(record: Metrics, name: str) -> float | None:
    """Give a figure of a record; None where it has none that is finite and can be drawn."""
    value = record.get(name)
    return value if isinstance(value, float | int) and abs(value) < HIGHEST else None


def _records(file: Path) -> list[Metrics]:
    """Read a file of records, one JSON object with a step in each line, without a last line that is being written.

    Raises InputError if it is another one.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = lines[:-1] if len(lines) > 1 and not lines[-1].endswith("\n") and not _is_json(lines[-1]) else lines
        records = [parse_json(line) for line in whole if line.strip()]
        if not all(isinstance(record, dict) and isinstance(record["step"], int) for record in records):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: is no file of records, which has a JSON object with a step in each line") from None
    return records


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True
