"""What a dry run of preparing finds, as rows for a person. Each part of preview.py's facts has a function here."""

import glob
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpt.commands import as_flags
from gpt.corpus.download import bytes_in_words
from gpt.terminal import duration, one_line

Row = tuple[str, str]
MOST_NAMED = 8  # formats and the like
MOST_SHOWN = 3  # of what is shown by an example
MOST_FILES = 5  # to be downloaded, that are named


def show(parts: dict[str, Any]) -> None:
    """Print the rows of some parts."""
    for name, facts in parts.items():
        for row, text in ROWS[name](facts):
            print(f"{row:16} {one_line(as_flags(text))}", flush=True)


def _download(facts: dict[str, Any]) -> Iterator[Row]:
    files = facts["files"]
    sizes = {name: "of unknown size" if size is None else bytes_in_words(size) for name, size in files.items()}
    size = "of unknown size" if None in files.values() else bytes_in_words(sum(files.values()))
    yield "download", f"{len(files):,} of {facts['of']:,} files, {size}, to {facts['directory']}"
    yield from (("", f"{name}: {size}") for name, size in [*sizes.items()][:MOST_FILES])
    if len(files) > MOST_FILES:
        yield "", f"and {len(files) - MOST_FILES:,} more"


def _found(facts: dict[str, Any]) -> Iterator[Row]:
    files = f"{facts['files']:,} {'file' if facts['files'] == 1 else 'files'}"
    yield "found", f"{files}, {bytes_in_words(facts['bytes'])}: {_counted(facts['formats'])}"


def _read(facts: dict[str, Any]) -> Iterator[Row]:
    size, of = bytes_in_words(facts["bytes"]), facts["of"]
    if facts["all"]:
        yield "read", "all of it"
    elif facts["goes_on"]:
        yield "read", f"{size}; a pipe goes on, so that the figures are of its beginning"
    else:
        files = f"{facts['files']:,} of the files" if of["files"] > 1 else "the file"
        estimate = "what follows is an estimate from that"
        yield "read", f"{size} of {bytes_in_words(of['bytes'])}, in {files}; {estimate}"


def _left_out(facts: dict[str, Any]) -> Iterator[Row]:
    if facts["count"]:
        yield "left out", f"{facts['count']:,} {'in all' if facts['all'] else 'so far'}"
    for each in facts["reasons"][:MOST_NAMED]:
        yield "", f"{each['count']:,} {each['reason']}: {each['as']}"


def _encodings(facts: dict[str, int]) -> Iterator[Row]:
    if facts:
        yield "encodings", _counted(facts)


def _proposed(facts: dict[str, list[str]]) -> Iterator[Row]:
    """List which encoding seems to be that of which files, and how to give all: the most frequent one last."""
    rare = sorted(facts.items(), key=lambda pair: (len(pair[1]), pair[0]))
    label = "proposed"
    for encoding, files in rare[::-1]:
        more = f" and {len(files) - MOST_SHOWN:,} more" if len(files) > MOST_SHOWN else ""
        yield label, f"{encoding} for {', '.join(files[:MOST_SHOWN])}{more}"
        label = ""
    *others, (usual, _) = rare
    if all(len(files) <= MOST_FILES and "," not in "".join(files) for _, files in others):
        given = [f"{glob.escape(file)}={encoding}" for encoding, files in others for file in files]
        yield "", f"if that is right, give `encoding` {shlex.quote(','.join([*given, usual]))}"


def _separators(messages: list[str]) -> Iterator[Row]:
    yield "separators", f"found in {len(messages):,} of the texts" if messages else "none was found in a text"
    yield from (("", message) for message in messages[:MOST_SHOWN])


def _notes(messages: list[str]) -> Iterator[Row]:
    yield from (("note", message) for message in messages[:MOST_SHOWN])


def _documents(facts: dict[str, Any]) -> Iterator[Row]:
    yield "documents", f"{_number(facts, 'count')}, of {bytes_in_words(facts['bytes'])} on average"


def _duplicates(facts: dict[str, int]) -> Iterator[Row]:
    repeated, of = facts["repeated"], facts["of"]
    yield "duplicates", f"{repeated:,} of {of:,} that were read repeat another ({repeated / of:.1%})"


def _secrets(facts: dict[str, Any]) -> Iterator[Row]:
    kinds = facts["kinds"]
    yield "likely secrets", f"{_counted(kinds)}: look at them before you train on them" if kinds else "none was seen"
    yield from (("", place) for place in facts["places"])


def _addresses(facts: dict[str, Any]) -> Iterator[Row]:
    yield "e-mail", f"addresses: {_number(facts, 'count')}"


def _faults(facts: dict[str, Any]) -> Iterator[Row]:
    what = f"{_number(facts, 'lines')} of the lines are no examples to learn from, as said above"
    ends = "preparing ends with an error, unless they are left out by `faulty` skip"
    yield "faults", f"{what}: {'they are left out' if facts['faulty'] == 'skip' else ends}"


def _tokenizer(facts: dict[str, Any]) -> Iterator[Row]:
    called = facts["name"] or f"{facts['kind']}, {facts['size']:,} ids"
    reason = facts.get("reason")
    why = f", for about {_rounded(facts['characters'])} characters: {reason}" if reason else ""
    yield "tokenizer", f"{called}{why}; {facts['bytes_per_token']:.2f} bytes per token"


def _examples(facts: dict[str, Any]) -> Iterator[Row]:
    yield "learned", f"{facts['learned_share']:.1%} of the tokens: answers, and what ends them"
    if facts["cut"]:
        tried, most = facts["tried"], facts["max_tokens"]
        yield "", f"{facts['cut']:,} of {tried:,} that were tried are cut to {most:,} tokens (`max_tokens`)"
    if facts["unlearned"]:
        ends = (
            "which is left out" if facts["faulty"] == "skip" else "with which preparing ends, unless `faulty` is skip"
        )
        yield "", f"{facts['unlearned']:,} of them have no answer left after that, {ends}"


def _tokens(facts: dict[str, int]) -> Iterator[Row]:
    yield "tokens", f"about {_rounded(facts['total'])}, of which {_rounded(facts['validation'])} validate"


def _training(facts: dict[str, Any]) -> Iterator[Row]:
    if "refused" in facts:
        yield "training", facts["refused"]
        return
    epochs = facts["epochs"]
    times = f"{epochs:.3g} {'epoch' if round(epochs, 2) == 1 else 'epochs'}"
    yield "preset", facts["reason"]
    yield "length", f"{times}, {facts['steps']:,} steps of {facts['batch_tokens']:,} tokens"
    if facts["seconds"] is None:
        yield "time", "not forecast: a trial would not fit into the free memory"
    else:
        evaluation = f"of which {duration(facts['evaluation_seconds'])} evaluation"
        yield "time", f"about {duration(facts['seconds'])} on {facts['device']}, {evaluation}"


ROWS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "download": _download,
    "found": _found,
    "read": _read,
    "left_out": _left_out,
    "encodings": _encodings,
    "proposed": _proposed,
    "separators": _separators,
    "notes": _notes,
    "documents": _documents,
    "duplicates": _duplicates,
    "secrets": _secrets,
    "addresses": _addresses,
    "faults": _faults,
    "tokenizer": _tokenizer,
    "examples": _examples,
    "tokens": _tokens,
    "training": _training,
}


def _number(facts: dict[str, Any], name: str) -> str:
    number = facts[name]
    return f"about {_rounded(number)}" if facts["estimated"] and number else f"{number:,}"


def _rounded(number: int) -> str:
    """Write an estimate, with three digits."""
    return f"{round(number, min(0, 3 - len(str(number)))):,}"


def _counted(counts: dict[str, int]) -> str:
    """Name what there is most of: '.py 12, .txt 3'."""
    words: Sequence[str] = [f"{name} {count:,}" for name, count in counts.items()]
    more = [f"and {len(words) - MOST_NAMED:,} others"] if len(words) > MOST_NAMED else []
    return ", ".join([*words[:MOST_NAMED], *more])
