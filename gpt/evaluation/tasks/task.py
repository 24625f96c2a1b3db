"""A task: the rows of its files, with examples before each question if that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from gpt.errors import InputError
from gpt.evaluation.tasks.files import hashes, records
from gpt.evaluation.tasks.rows import OWN, Kind, Row

SEED = 1234  # of the examples, as lm-evaluation-harness has it


@dataclass(frozen=True)
class Task:
    """What a model is graded on."""

    kind: Kind
    rows: tuple[Row, ...]
    places: tuple[str, ...]
    """Where each row stands."""
    files: tuple[tuple[str, str], ...]
    """Paths, each with its SHA-256."""
    shots: int = 0
    shots_note: str = ""
    """Where examples are from, and how they were drawn."""

    @property
    def protocol(self) -> str:
        return f"{self.kind.protocol}, {self.shots}-shot{self.shots_note}"

    @property
    def chooses(self) -> bool:
        return self.rows[0].chooses

    @property
    def is_complete(self) -> bool:
        """Tell whether it has as many rows as the published split, so that figures of that compare."""
        return len(self.rows) == self.kind.rows


def read_task(kind: Kind, path: Path) -> Task:
    """Read all rows of a file or directory. Raises InputError, which names file and line, for what is no such row."""
    rows, places = list[Row](), list[str]()
    for place, fields in records(path):
        try:
            row = kind.read(fields)
        except ValueError as error:
            what = "a row to grade by" if kind is OWN else f"a row of {kind.name}"
            raise InputError(f"{place}: is not {what}: {error}") from None
        if rows and row.chooses != rows[0].chooses:
            raise InputError(f"{place}: rows with choices and rows with a continuation need a file each")
        rows.append(row)
        places.append(place)
    if not rows:
        raise InputError(f"{path}: has no row")
    return Task(kind, tuple(rows), tuple(places), tuple(hashes(path)))


def with_shots(task: Task, number: int, seed: int = SEED, pool: Task | None = None) -> Task:
    """Put examples, each with its answer, before every question: drawn from `pool`, or from the task's other rows.

    They are drawn as lm-evaluation-harness draws them: by one generator, row after row. Raises InputError where there
    are too few rows, and for a task that has no room for examples.
    """
    if number < 1:
        raise InputError(f"`shots` is {number}; it must be at least 1, or left out")
    if task.rows[0].group:
        raise InputError(f"`shots`: {task.kind.name} compares whole sentences; there are no examples before them")
    source, alone = pool or task, pool is None
    drawn = number + (alone or task.kind.draws_one_more)
    if len(source.rows) < drawn:
        raise InputError(f"`shots` is {number}; {source.files[0][0]} has {len(source.rows):,} rows to draw from")
    if pool is not None and pool.chooses != task.chooses:
        raise InputError(f"{pool.files[0][0]}: its rows are of another form than those of {task.files[0][0]}")
    generator, rows = Random(seed), list[Row]()
    for row in task.rows:
        examples = [one for one in generator.sample(source.rows, drawn) if one != row][:number]
        if len(examples) < number:  # the row stands there twice
            others = [one for one in source.rows if one != row]
            if len(others) < number:
                raise InputError(f"`shots` is {number}; {source.files[0][0]} has {len(others):,} other rows")
            examples = generator.sample(others, number)
        rows.append(replace(row, context=_examples(examples, task.kind) + row.context))
    where = "its other rows" if alone else f"{source.files[0][0]}, SHA-256 {source.files[0][1]}"
    return replace(task, rows=tuple(rows), shots=number, shots_note=f" (seed {seed}, from {where})")


def _examples(rows: Sequence[Row], kind: Kind) -> str:
    """Write examples with their answers, an empty line behind each."""
    own = kind.shot_delimiter
    return "".join(f"{row.context}{row.delimiter if own is None else own}{row.choices[row.label]}\n\n" for row in rows)
