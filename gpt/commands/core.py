"""`gpt eval --task core=BUNDLE`: grade runs by CORE, and set what is published of GPT-2 beside them."""

from collections.abc import Callable, Sequence
from typing import Any

from gpt.commands import json_text
from gpt.commands.tasks import difference_json, difference_text, figure_json
from gpt.evaluation.tasks.core import Core
from gpt.evaluation.tasks.core_grades import CoreGrades, grade_core
from gpt.evaluation.tasks.published import CORE_FIGURES, NANOCHAT, SIZES, core_comparable
from gpt.evaluation.words import Row, figure
from gpt.generation.completion import opening_ids
from gpt.log import Progress, log
from gpt.runs.load import LoadedRun
from gpt.terminal import printable

PROTOCOL = "CORE as nanochat computes it: rows shuffled (seed 1337), examples by seed 1234 + row, end-of-text first"
SCORE = "the smallest mean loss per token of what differs (multiple_choice) or follows (schema), or exact greedy"
Found = Sequence[tuple[str, CoreGrades]]


def grade_runs_by_core(core: Core, loads: Sequence[Callable[[], LoadedRun]], precision: str, json: bool) -> None:
    """Load and grade runs, one after another, and print what was found as JSON or as tables."""
    found = list[tuple[str, CoreGrades]]()
    for load in loads:
        loaded = load()
        rows = sum(len(task.items) for task in core.tasks)
        log.info(f"grading {loaded.source} by CORE, {len(core.tasks)} tasks, {rows:,} rows")
        found.append((loaded.source, _graded(loaded, core)))
        del loaded  # one model is held at a time
    if json:
        print(json_text(_as_json(core, found, precision)), flush=True)
    else:
        print(printable(_as_text(core, found, precision)), flush=True)


def _graded(loaded: LoadedRun, core: Core) -> CoreGrades:
    """Grade a run, and say how far that is."""
    with Progress() as progress:
        progress.doing = f"{loaded.source}: checking all rows"

        def tell(number: int, rows: int) -> None:
            task = core.tasks[number]
            where = f"{task.label} ({number + 1} of {len(core.tasks)} tasks)"
            progress.doing = f"{loaded.source}, {where}: {rows:,} of {len(task.items):,} rows"

        opening = opening_ids(loaded.tokenizer, "")[0]
        return grade_core(loaded.model, loaded.tokenizer, core, opening, progress=tell)


# ---- in words ----


def _as_text(core: Core, found: Found, precision: str) -> str:
    """Write CORE and its tasks of each run, how the others differ from the first, and what is published of GPT-2."""
    parts = []
    for number, (source, grades) in enumerate(found):
        rows = [_core_row(grades)]
        if number:
            name, first = found[0]
            rows.append(("… CORE", difference_text(grades.minus(first), name)))
        else:
            first = None
            rows += _protocol_rows(grades, precision)
        lines = [f"{source}, on core", *(f"{name:16} {text}" for name, text in rows)]
        parts.append("\n".join([*lines, "", *_task_lines(grades, first)]))
    return "\n\n".join([*parts, _published_text(core)])


def _core_row(grades: CoreGrades) -> Row:
    value, spread = grades.value, grades.spread
    half, error = (spread.half_width, spread.standard_error) if spread else (0.0, None)
    return "CORE", figure(f"{value:.4f}", error, (value - half, value + half), 4)


def _protocol_rows(grades: CoreGrades, precision: str) -> list[Row]:
    """Write what the figures are of: tasks, the bundle and how models were asked."""
    core, spread = grades.core, grades.spread
    rows = [
        ("mean of", f"{len(core.tasks)} tasks, each (acc − chance) / (1 − chance)"),
        ("bundle", f"{core.path}, SHA-256 {core.sha256}"),
        ("protocol", f"{PROTOCOL}, {precision}"),
        ("scored by", SCORE),
    ]
    if spread:
        rows.append(("standard errors", f"of {spread.units}, taken as independent"))
    return rows


def _task_lines(grades: CoreGrades, first: CoreGrades | None) -> list[str]:
    """Write a table of the tasks; `first` is the run that they are compared with."""
    wide = max(len(task.label) for task in grades.core.tasks)
    end = "" if first is None else "  minus the first"
    lines = [f"{'task':{wide}}  {'kind':17}  shots    rows  chance  acc{'':14}  centered      cut{end}"]
    for number, task in enumerate(grades.core.tasks):
        acc = grades.accuracy(number)
        error = f"± {acc.spread.standard_error:.4f}" if acc.spread else "(one row)"
        line = f"{task.label:{wide}}  {task.kind:17}  {task.shots:5}  {len(task.items):6,}  {task.baseline:6.4f}  "
        line += f"{acc.value:.4f} {error:10}  {grades.centered(number):8.4f}  {grades.cuts[number]:7,}"
        if first is not None:
            minus = grades.task_minus(first, number)
            error = f" ± {minus.spread.standard_error:.4f}" if minus.spread else ""
            line += f"  {minus.value:+.4f}{error}"
        lines.append(line)
    if any(grades.cuts):
        lines.append("(cut: rows that are longer than the context, whose beginning is not seen)")
    return lines


def _published_text(core: Core) -> str:
    """Write a table of GPT-2's figures: CORE, and accuracies of the tasks that the bundle has."""
    wide, same = max(map(len, CORE_FIGURES)), core_comparable(core)
    lines = [f"{'GPT-2, published':{wide}}  {'  '.join(f'{size:>6}' for size in SIZES)}"]
    for label in _published_labels(core):
        cells = "  ".join(f"{one:6.4f}" for one in CORE_FIGURES[label])
        said = "the same protocol" if same[label] else "not comparable: of all rows and tasks of the original bundle"
        lines.append(f"{label:{wide}}  {cells}  {said} ({NANOCHAT})")
    return "\n".join(lines)


def _published_labels(core: Core) -> list[str]:
    labels = {task.label for task in core.tasks}
    return [label for label in CORE_FIGURES if label == "CORE" or label in labels]


# ---- in JSON ----


def _as_json(core: Core, found: Found, precision: str) -> dict[str, Any]:
    """Write the same as an object."""
    same = core_comparable(core)
    return {
        "task": "core",
        "protocol": PROTOCOL,
        "rows": sum(len(task.items) for task in core.tasks),
        "files": [{"path": str(core.path), "sha256": core.sha256}],
        "precision": precision,
        "runs": [_run_json(source, grades, found[0][1] if n else None) for n, (source, grades) in enumerate(found)],
        "published": [
            {
                "metric": "core" if label == "CORE" else "acc",
                "task": label,
                "same_protocol": same[label],
                "gpt2": dict(zip(SIZES, CORE_FIGURES[label], strict=True)),
                "source": NANOCHAT,
            }
            for label in _published_labels(core)
        ],
    }


def _run_json(source: str, grades: CoreGrades, first: CoreGrades | None) -> dict[str, Any]:
    value, spread = grades.value, grades.spread
    interval = spread and [value - spread.half_width, value + spread.half_width]
    tasks = []
    for number, task in enumerate(grades.core.tasks):
        entry = {
            "task": task.label,
            "kind": task.kind,
            "shots": task.shots,
            "rows": len(task.items),
            "chance": task.baseline,
            "acc": figure_json(grades.accuracy(number)),
            "centered": grades.centered(number),
            "cut": grades.cuts[number],
            "minus_the_first": first and difference_json(grades.task_minus(first, number)),
        }
        tasks.append(entry)
    return {
        "source": source,
        "core": {
            "value": value,
            "se": spread and spread.standard_error,
            "ci95": interval,
            "units": spread and spread.units,
        },
        "tasks": tasks,
        "minus_the_first": {"core": difference_json(grades.minus(first))} if first else {},
    }
