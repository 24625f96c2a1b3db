"""`gpt compare A B --task`: which of two runs answers a task's rows better, and which rows one alone has right."""

import json as json_module
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from gpt.commands.tasks import difference_text, figure_rows, graded, protocol_rows, task_json
from gpt.evaluation.tasks.grades import Grades, difference
from gpt.evaluation.tasks.task import Task
from gpt.runs.load import LoadedRun
from gpt.terminal import one_line, printable

EXCERPT = 160  # characters of a context's end, and of a choice, that are shown


@dataclass(frozen=True)
class Answered:
    """A row that one run has right and the other one wrong."""

    where: str
    context: str
    right: str
    """The right choice, or the continuation."""
    picked: str | None
    """What the other run picks; None where it writes a continuation of its own."""
    logprobs: tuple[float, float]
    """Of the right choice, in nats, for each run."""


def compare_rows(task: Task, loads: Sequence[Callable[[], LoadedRun]], precision: str, most: int, json: bool) -> None:
    """Grade two runs and print how they differ, with at most so many rows that each alone has right."""
    found = list[tuple[str, Grades]]()
    for load in loads:
        loaded = load()
        found.append((loaded.source, graded(loaded, task)))
        del loaded  # one model is held at a time
    (_, one), (_, two) = found
    shown = answered_alone(one, two, most), answered_alone(two, one, most)
    shown = shown[0], [_turned(row) for row in shown[1]]
    if json:
        rows = [[asdict(row) for row in rows] for rows in shown]
        print(json_module.dumps(task_json(task, found, precision) | {"right_alone": rows}), flush=True)
    else:
        print(printable(_as_text(found, shown, precision)), flush=True)


def answered_alone(one: Grades, two: Grades, most: int) -> list[Answered]:
    """List rows that are right (`acc`) in the first alone, first those where the two are furthest apart."""
    alone, picked = np.flatnonzero(one.right("acc") & ~two.right("acc")), two.picked("acc")
    rows = one.task.rows

    def apart(number: int) -> float:
        """Give by how many nats the right choice is further ahead of the other run's pick in the first."""
        label, other = rows[number].label, picked[number] if rows[number].chooses else None
        margins = [g.logprobs[number][label] - (0 if other is None else g.logprobs[number][other]) for g in (one, two)]
        return margins[0] - margins[1]

    return [
        Answered(
            one.task.places[number],
            rows[number].context[-EXCERPT:],
            rows[number].choices[rows[number].label],
            rows[number].choices[picked[number]] if rows[number].chooses else None,
            (one.logprobs[number][rows[number].label], two.logprobs[number][rows[number].label]),
        )
        for number in sorted(alone.tolist(), key=apart, reverse=True)[:most]
    ]


def _turned(row: Answered) -> Answered:
    return Answered(row.where, row.context, row.right, row.picked, (row.logprobs[1], row.logprobs[0]))


def _as_text(found: Sequence[tuple[str, Grades]], shown: Sequence[Sequence[Answered]], precision: str) -> str:
    (_, one), (_, two) = found
    rows = []
    for name, (source, grades) in zip("AB", found, strict=True):
        rows += [(name, source), *figure_rows(grades)]
    for name in one.metrics:
        rows.append((f"B − A {name}", difference_text(difference(one, two, name), "A")))
    rows += protocol_rows(one, precision)
    lines = [f"{name:16} {words}" for name, words in rows]
    for name, other, answered in zip("AB", "BA", shown, strict=True):
        lines += [f"\n{name} alone is right in"] if answered else []
        for row in answered:
            nats = "A {:.2f}, B {:.2f} nats".format(*row.logprobs)
            picks = "" if row.picked is None else f"; {other} picks {one_line(row.picked[:EXCERPT])!r}"
            lines.append(f"  {row.where}: … {one_line(row.context)}")
            lines.append(f"    {one_line(row.right[:EXCERPT])!r} ({nats}){picks}")
    return "\n".join(lines)
