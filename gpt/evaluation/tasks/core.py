"""CORE (Li et al. 2024, DataComp-LM, arXiv 2406.11794): the tasks of a local bundle, and the prompts of their rows.

The protocol is that of nanochat, whose figures of GPT-2 are published: rows are shuffled with seed 1337, and row i has
its examples from the other rows, drawn by a generator of seed 1234 + i. A bundle is the directory `eval_bundle`, or a
ZIP archive of it: `core.yaml` names the tasks, `eval_data/` has their rows, and `eval_meta_data.csv` says how often
chance is right.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from gpt.errors import InputError
from gpt.evaluation.tasks.files import json_lines

CONFIG, CHANCE, ROWS = "core.yaml", "eval_meta_data.csv", "eval_data"
SHUFFLE_SEED, EXAMPLE_SEED = 1337, 1234
Kind = Literal["multiple_choice", "schema", "language_modeling"]


@dataclass(frozen=True)
class Item:
    """A row: texts of a context and an ending, of which one is right; of language modeling there is one."""

    contexts: tuple[str, ...]
    endings: tuple[str, ...]
    gold: int
    place: str
    """Where it stands."""


@dataclass(frozen=True)
class CoreTask:
    """A task of the bundle."""

    label: str
    kind: Kind
    """What a row's texts share: their beginning (multiple_choice) or their end (schema); language_modeling has one."""
    shots: int
    delimiter: str
    """What stands between a context and its ending."""
    baseline: float
    """The share of rows that chance has right."""
    file: str
    items: tuple[Item, ...]
    """In the order that examples are drawn by."""

    def centered(self, accuracy: float) -> float:
        """Put chance at 0, all right at 1."""
        return (accuracy - self.baseline) / (1 - self.baseline)

    def texts(self, number: int, shots: int | None = None) -> tuple[str, ...]:
        """Write what a model reads of a row: each of its texts, behind examples with their right answers.

        Of language modeling that is the text without its continuation and then with it.
        """
        item, count = self.items[number], self.shots if shots is None else shots
        drawn = Random(EXAMPLE_SEED + number).sample(range(len(self.items) - 1), count)
        examples = (self.items[other + (other >= number)] for other in drawn)
        before = "".join(f"{self._text(one, one.gold)}\n\n" for one in examples)
        texts = tuple(before + self._text(item, choice) for choice in range(len(item.endings)))
        if self.kind != "language_modeling":
            return texts
        return (before + item.contexts[0] + self.delimiter).rstrip(), *texts

    def _text(self, item: Item, choice: int) -> str:
        return item.contexts[choice] + self.delimiter + item.endings[choice]


@dataclass(frozen=True)
class Core:
    """All tasks of a bundle."""

    path: Path
    sha256: str
    """Of what sha256sum prints of the files that are used, in the order of their names."""
    tasks: tuple[CoreTask, ...]


def read_core(path: Path) -> Core:
    """Read a bundle. Raises InputError, which names file and line, for what is no such bundle."""
    try:
        if path.is_dir():
            return _read(path, path)
        with zipfile.ZipFile(path) as archive:
            return _read(path, zipfile.Path(archive))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        what = "is neither CORE's bundle, a directory with core.yaml, nor a whole ZIP archive of it"
        raise InputError(f"{path}: {what} ({error})") from None


def _read(path: Path, root: Path | zipfile.Path) -> Core:
    bundle = _Bundle(root)
    entries, chance = bundle.entries(), bundle.chance()
    tasks = tuple(bundle.task(entry, number, chance) for number, entry in enumerate(entries, 1))
    labels = [task.label for task in tasks]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"{bundle.name(CONFIG)}: has two tasks that are called {twice[0]!r}")
    lines = "".join(f"{bundle.digests[name]}  {name}\n" for name in sorted(bundle.digests))
    return Core(path, hashlib.sha256(lines.encode()).hexdigest(), tasks)


class _Bundle:
    """The files of a bundle, below the directory that has core.yaml."""

    def __init__(self, root: Path | zipfile.Path) -> None:
        places = [place for place in (root, root / "eval_bundle") if (place / CONFIG).is_file()]
        if not places:
            raise InputError(f"{root}: has no {CONFIG}; name the directory eval_bundle, or a ZIP archive of it")
        self.root = places[0]
        self.digests: dict[str, str] = {}
        """Of each file that was read, the SHA-256."""

    def name(self, file: str) -> str:
        return str(self.root / file)

    def content(self, file: str) -> bytes:
        place = self.root / file
        if not place.is_file():
            raise InputError(f"{place}: is not there; the bundle is not whole")
        content = place.read_bytes()
        self.digests[file] = hashlib.sha256(content).hexdigest()
        return content

    def entries(self) -> list[Any]:
        """Read what core.yaml says of each task."""
        import yaml

        try:
            found = yaml.safe_load(self.content(CONFIG))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{self.name(CONFIG)}: is no YAML ({' '.join(str(error).split())})") from None
        entries = found.get("icl_tasks") if isinstance(found, dict) else None
        if not isinstance(entries, list) or not entries:
            raise InputError(f"{self.name(CONFIG)}: has no list of tasks, 'icl_tasks'")
        return entries

    def chance(self) -> dict[str, tuple[str, str]]:
        """Read how often chance is right, in percent, as text: of each task, with the place where it stands."""
        try:
            text = self.content(CHANCE).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name(CHANCE)}: is no UTF-8 ({error})") from None
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = ("Eval Task", "Random baseline")
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise InputError(f"{self.name(CHANCE)}, line 1: has no column {missing[0]!r}")
        try:
            lines = [(reader.line_num, *(row[name] or "" for name in columns)) for row in reader]
        except csv.Error as error:
            raise InputError(f"{self.name(CHANCE)}, line {reader.line_num}: is no CSV ({error})") from None
        return {task: (percent, f"{self.name(CHANCE)}, line {number}") for number, task, percent in lines}

    def task(self, entry: Any, number: int, chance: dict[str, tuple[str, str]]) -> CoreTask:
        """Read a task: what core.yaml says of it, and its rows."""
        try:
            label, file, kind, shots, delimiter = _settings(entry)
        except ValueError as error:
            raise InputError(f"{self.name(CONFIG)}, task {number}: {error}") from None
        if label not in chance:
            raise InputError(f"{self.name(CHANCE)}: has no line for {label!r}, a task of {CONFIG}")
        percent, place = chance[label]
        try:
            baseline = float(percent) / 100
        except ValueError:
            baseline = -1.0
        if not 0 <= baseline < 1:
            raise InputError(f"{place}: its 'Random baseline' is {percent!r}; it must be from 0 to less than 100")
        items = list(self._items(f"{ROWS}/{file}", label, kind))
        if len(items) <= shots:
            of = f"{self.name(f'{ROWS}/{file}')} has {len(items):,} rows"
            raise InputError(f"{self.name(CONFIG)}, task {number}: 'num_fewshot' is {shots}; {of}")
        Random(SHUFFLE_SEED).shuffle(items)
        return CoreTask(label, kind, shots, delimiter, baseline, file, tuple(items))

    def _items(self, file: str, label: str, kind: Kind) -> Iterator[Item]:
        for place, fields in json_lines(io.BytesIO(self.content(file)), self.name(file)):
            try:
                yield _item(kind, fields, place)
            except ValueError as error:
                raise InputError(f"{place}: is not a row of {label}, {kind}: {error}") from None


def _settings(entry: Any) -> tuple[str, str, Kind, int, str]:
    """Read an entry of core.yaml: label, file, kind, examples and delimiter. Raises ValueError for what is amiss."""
    if not isinstance(entry, dict):
        raise ValueError("is no mapping of names to values")
    label, file = _text(entry, "label"), _text(entry, "dataset_uri")
    kind, shots = entry.get("icl_task_type"), entry.get("num_fewshot")
    if kind not in get_args(Kind):
        raise ValueError(f"{label}: its 'icl_task_type' is {kind!r}; known are {', '.join(get_args(Kind))}")
    count = shots[0] if isinstance(shots, list) and len(shots) == 1 else shots
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"{label}: its 'num_fewshot' is {shots!r}; it must be a list of one number, such as [10]")
    return label, file, kind, count, _text({"continuation_delimiter": " "} | entry, "continuation_delimiter")


def _item(kind: Kind, fields: dict[str, Any], place: str) -> Item:
    """Make an item of a row's fields. Raises ValueError, which says what is wrong with them."""
    if kind == "language_modeling":
        return Item((_text(fields, "context").strip(),), (_text(fields, "continuation"),), 0, place)
    if kind == "multiple_choice":
        endings = _texts(fields, "choices")
        contexts = (_text(fields, "query"),) * len(endings)
    else:
        contexts = _texts(fields, "context_options")
        endings = (_text(fields, "continuation"),) * len(contexts)
    gold = fields.get("gold")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(endings):
        raise ValueError(f"its 'gold' is {gold!r}; it must be a number from 0 to {len(endings) - 1}")
    return Item(contexts, endings, gold, place)


def _text(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise ValueError(f"it has no {name!r}; its own are: {', '.join(map(str, fields)) or 'none'}")
    return _texts({name: [fields[name]]}, name, 1)[0]


def _texts(fields: dict[str, Any], name: str, least: int = 2) -> tuple[str, ...]:
    """Read texts; whole numbers are taken as they are written."""
    values = fields.get(name)
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < least:
        raise ValueError(f"its {name!r} must be a list of at least {least} texts")
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
        raise ValueError(f"its {name!r} is no text" if least == 1 else f"its {name!r} has something that is no text")
    return tuple(map(str, values))
