"""`gpt eval --task`: grade runs by the field's tasks, and set what is published of GPT-2 beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.choices import WeightDtype
from gpt.commands import json_text
from gpt.corpus.download import DIRECTORY, RemoteFile, download
from gpt.device import choose_weight_dtype
from gpt.errors import InputError, did_you_mean
from gpt.evaluation.tasks.core import Core, read_core
from gpt.evaluation.tasks.grades import Figure, Grades, RowDifference, difference, grade
from gpt.evaluation.tasks.published import SIZES, is_comparable, published
from gpt.evaluation.tasks.rows import KINDS, OWN
from gpt.evaluation.tasks.task import SEED, Task, read_task, with_shots
from gpt.evaluation.words import Row, figure
from gpt.generation.completion import opening_ids
from gpt.log import Progress, log
from gpt.runs.load import LoadedRun
from gpt.terminal import printable

GITHUB, HUB = "https://raw.githubusercontent.com", "https://huggingface.co/datasets"
PIQA = f"{GITHUB}/ybisk/ybisk.github.io/21edab439af693b961be2f069e8690a88d3b4e37/piqa/data"
FILES = {  # the split that is graded; the first file is the one to read
    "hellaswag": (
        RemoteFile(
            f"{GITHUB}/rowanz/hellaswag/a29ff8e9a04bba4bd6588223785ce105328adc57/data/hellaswag_val.jsonl",
            "hellaswag_val.jsonl",
            sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
    ),
    "lambada": (
        RemoteFile(
            "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
            "lambada_test.jsonl",
            1_819_752,
            "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
        ),
    ),
    "arc-easy": (
        RemoteFile(
            f"{HUB}/allenai/ai2_arc/resolve/210d026faf9955653af8916fad021475a3f00453/ARC-Easy/test-00000-of-00001.parquet",
            "arc-easy-test.parquet",
            sha256="4160597d618ae851c7eb04e281574f3f654776216ac6b6641588d64527b47177",
        ),
    ),
    "piqa": (
        RemoteFile(
            f"{PIQA}/valid.jsonl",
            "piqa-valid.jsonl",
            495_929,
            "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d",
        ),
        RemoteFile(
            f"{PIQA}/valid-labels.lst",
            "piqa-valid-labels.lst",
            3_676,
            "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb",
        ),
    ),
    "blimp": (
        RemoteFile(
            f"{GITHUB}/alexwarstadt/blimp/3e56b06fcabca9b30822fc66435fca6b1aa40bb1/BLiMP.zip",
            "BLiMP.zip",
            2_354_164,
            "172a1a714d72e72a89e8384dd531483f3d0f8a9aee3d33dccaf7992d8cecbb73",
        ),
    ),
}
CORE = "core"


@dataclass(frozen=True)
class TaskOptions:
    """What to grade by."""

    task: str | None = None
    """Grade by hellaswag, lambada, arc-easy, piqa or blimp, downloaded, or NAME=PATH; core=BUNDLE; or FILE.jsonl."""
    shots: int = 0
    """With --task: so many examples with their answers before each question."""
    seed: int | None = None
    """With --shots: which examples are drawn; by default 1234, as lm-evaluation-harness has it."""
    shots_from: Path | None = None
    """With --shots: draw them from this file, such as the training split; by default from the task's other rows."""

    def open(self, elsewhere: bool) -> Task | Core | None:
        """Read the task, or CORE's bundle of them; None if there is none.

        `elsewhere`: there are options that name other text. Raises InputError for options that do not belong together.
        """
        if self.task is not None and elsewhere:
            raise InputError("`task` has rows of its own; leave out `data` and `text`, and what belongs to them")
        if self.task is None and self.shots:
            raise InputError("`shots` belongs to `task`; give both, or neither")
        if not self.shots and (self.seed is not None or self.shots_from):
            raise InputError("`seed` and `shots_from` say which examples `shots` draws; give that, or leave them out")
        if self.task is None:
            return None
        if self.task.partition("=")[0] == CORE:
            if self.shots:
                raise InputError("`shots`: CORE's bundle says how many examples each of its tasks has; leave it out")
            return _open_core(self.task)
        task = open_task(self.task)
        if not self.shots:
            return task
        pool = read_task(task.kind, self.shots_from.expanduser()) if self.shots_from else None
        return with_shots(task, self.shots, SEED if self.seed is None else self.seed, pool)


def open_task(named: str) -> Task:
    """Read the rows of a task by its name, its name and a path, or a file of own rows."""
    name, equals, place = named.partition("=")
    if name in KINDS and equals:
        path = Path(place).expanduser()
        if not place or not path.exists():
            raise InputError(f"`task` {named}: there is no {place or 'path behind the ='}; {name} alone downloads it")
        return read_task(KINDS[name], path)
    if named in KINDS:
        return read_task(KINDS[named], download(FILES[named], Path("data") / DIRECTORY)[0])
    path = Path(named).expanduser()
    if not path.is_file():
        near = did_you_mean(name, [*KINDS, CORE])
        raise InputError(f"`task` {named}: is no file, and no task by that name; {near}")
    return read_task(OWN, path)


def _open_core(named: str) -> Core:
    """Read CORE's bundle."""
    place = named.partition("=")[2]
    if not place:
        raise InputError(f"`task` {named}: CORE is read from its bundle; get eval_bundle, and say {CORE}=eval_bundle")
    path = Path(place).expanduser()
    if not path.exists():
        raise InputError(f"`task` {named}: there is no {place}")
    return read_core(path)


def graded(loaded: LoadedRun, task: Task) -> Grades:
    """Grade a run, and say how far that is."""
    pairs, done = sum(len(row.choices) for row in task.rows), 0
    with Progress() as progress:

        def tell(more: int) -> None:
            nonlocal done
            done += more
            progress.doing = f"{loaded.source}: {done:,} of {pairs:,} likelihoods"

        return grade(loaded.model, loaded.tokenizer, task, opening_ids(loaded.tokenizer, "")[0], progress=tell)


def precision(dtype: WeightDtype, device: str) -> str:
    """Say in words in which precision likelihoods are computed."""
    return f"weights {choose_weight_dtype(dtype, device)}".replace("torch.", "")


def grade_runs(task: Task, loads: Sequence[Callable[[], LoadedRun]], precision: str, json: bool) -> None:
    """Load and grade runs, one after another, and print what was found as JSON or as tables."""
    found = list[tuple[str, Grades]]()
    for load in loads:
        loaded = load()
        log.info(f"grading {loaded.source} by {task.kind.name}, {len(task.rows):,} rows")
        found.append((loaded.source, graded(loaded, task)))
        del loaded  # one model is held at a time
    if json:
        print(json_text(task_json(task, found, precision)), flush=True)
    else:
        print(printable(task_text(task, found, precision)), flush=True)


# ---- in words ----


def task_text(task: Task, found: Sequence[tuple[str, Grades]], precision: str) -> str:
    """Write the figures of each run, how the others differ from the first, and what is published of GPT-2."""
    parts = []
    for number, (source, grades) in enumerate(found):
        rows = figure_rows(grades)
        if number:
            rows += [(f"… {name}", difference_text(d, found[0][0])) for name, d in _differences(found, number).items()]
        else:
            rows += protocol_rows(grades, precision)
        parts.append("\n".join([f"{source}, on {task.kind.name}", *(f"{name:16} {text}" for name, text in rows)]))
    return "\n\n".join([*parts, *_published_text(task)])


def figure_rows(grades: Grades) -> list[Row]:
    """Write each metric with its error."""
    rows = []
    for name in grades.metrics:
        found, digits = grades.figure(name), 2 if name == "perplexity" else 4
        error = found.spread.standard_error if found.spread else None
        rows.append((name, figure(f"{found.value:.{digits}f}", error, found.interval, digits)))
    if grades.cut:
        rows.append(("cut", f"{grades.cut:,} rows are longer than the context, and their beginning is not seen"))
    return rows


def protocol_rows(grades: Grades, precision: str) -> list[Row]:
    """Write what the figures are of: rows, files and how models were asked."""
    task, spread = grades.task, grades.figure("acc").spread
    rows = [("rows", f"{len(task.rows):,}")]
    rows += [("file", f"{path}, SHA-256 {digest}") for path, digest in task.files]
    rows += [("protocol", f"{task.protocol}, {precision}"), ("prompt", task.kind.prompt)]
    if spread:
        rows.append(("standard errors", f"of {spread.units}, taken as independent"))
    return rows


def _differences(found: Sequence[tuple[str, Grades]], number: int) -> dict[str, RowDifference]:
    first, other = found[0][1], found[number][1]
    return {name: difference(first, other, name) for name in first.metrics}


def difference_text(found: RowDifference, first: str) -> str:
    """Write a difference with its error, the verdict, and on how many rows one model alone is right."""
    half, error = (found.spread.half_width, found.spread.standard_error) if found.spread else (0.0, None)
    text = figure(f"{found.value:+.4f}", error, (found.value - half, found.value + half), 4)
    text += f": {found.verdict} {first}"
    if found.alone:
        p = "" if found.p is None else f", McNemar's p {found.p:.2g}"
        text += f"; right where that is wrong in {found.alone[1]:,} rows, the reverse in {found.alone[0]:,}{p}"
    return text


def _published_text(task: Task) -> list[str]:
    """Write a table of GPT-2's figures, those by the same protocol first."""
    found = sorted(published(task), key=lambda each: not is_comparable(each, task))
    if not found:
        return []
    lines = [f"{'GPT-2, published':<16} {'  '.join(f'{size:>7}' for size in SIZES)}"]
    for each in found:
        digits = 2 if each.metric == "perplexity" else 4
        cells = "  ".join("      –" if one is None else f"{one:7.{digits}f}" for one in each.figures)
        same = (
            "the same protocol" if is_comparable(each, task) else f"not comparable: {each.protocol}, {each.shots}-shot"
        )
        lines.append(f"{each.metric:<16} {cells}  {same} ({each.source})")
    return ["\n".join(lines)]


# ---- in JSON ----


def task_json(task: Task, found: Sequence[tuple[str, Grades]], precision: str) -> dict[str, Any]:
    """Write the same as an object."""
    runs = []
    for number, (source, grades) in enumerate(found):
        differences = _differences(found, number) if number else {}
        runs.append(
            {
                "source": source,
                "metrics": {name: figure_json(grades.figure(name)) for name in grades.metrics},
                "cut": grades.cut,
                "minus_the_first": {name: difference_json(each) for name, each in differences.items()},
            }
        )
    return {
        "task": task.kind.name,
        "protocol": task.protocol,
        "prompt": task.kind.prompt,
        "rows": len(task.rows),
        "files": [{"path": path, "sha256": digest} for path, digest in task.files],
        "precision": precision,
        "runs": runs,
        "published": [
            {
                "metric": each.metric,
                "protocol": f"{each.protocol}, {each.shots}-shot",
                "same_protocol": is_comparable(each, task),
                "gpt2": dict(zip(SIZES, each.figures, strict=True)),
                "source": each.source,
            }
            for each in published(task)
        ],
    }


def figure_json(found: Figure) -> dict[str, Any]:
    """Write a figure as an object."""
    error = found.spread and found.spread.standard_error
    interval = None if found.spread is None else [*found.interval]
    return {"value": found.value, "se": error, "ci95": interval, "units": found.spread and found.spread.units}


def difference_json(found: RowDifference) -> dict[str, Any]:
    """Write a difference as an object."""
    spread = found.spread
    return {
        "value": found.value,
        "se": spread and spread.standard_error,
        "ci95": spread and spread.half_width,
        "right_alone": found.alone and [*found.alone],
        "mcnemar_p": found.p,
        "verdict": found.verdict,
    }
