"""Examples of prompts and answers, as shards with masks: encoded in parts, cut where they are too long, and judged.

A prompt and its answer are encoded each by itself, so that the prompt's ids are those that sampling makes of it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt.choices import Faulty
from gpt.corpus.documents import Document, Skipped
from gpt.corpus.executor import timed
from gpt.corpus.ledger import Outcome, write_ledger
from gpt.corpus.reading import MAX_SHOWN, Corpus
from gpt.corpus.slices import documents_at
from gpt.corpus.split import Divide, Piece, passages_at, pieces_of
from gpt.corpus.stage_progress import TOKENIZING
from gpt.corpus.unpacking import HIDDEN
from gpt.corpus.writer import BATCH_CHARACTERS, ShardWriter, loaded_tokenizer
from gpt.dataset.manifest import SPLITS
from gpt.errors import InputError, bounded, check_limits
from gpt.log import log
from gpt.terminal import one_line
from gpt.text.added import Marked, Spans, in_parts, with_added
from gpt.text.chat_template import PLAIN_SOURCE
from gpt.text.templates import template_of
from gpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt.corpus.assembly import Result  # with which torch would be imported, by each of the workers

LONGEST_PROMPT = 400  # characters that are shown at each evaluation


@dataclass(frozen=True)
class Examples:
    """What becomes of examples that are too long, and of lines that are none."""

    max_tokens: int = bounded(1024, ge=2)
    """Of an example, with its end-of-text; longer ones are cut at their end."""
    faulty: Faulty = "error"
    """What lines that teach nothing are: an error, once all are read, or left out."""
    template: str = PLAIN_SOURCE
    """By which conversations became text, in Jinja: its special tokens are added to the tokenizer."""

    def __post_init__(self) -> None:
        """Raise InputError for an example of no tokens."""
        check_limits(self)

    def added_to(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer that knows the template's special tokens, too."""
        return with_added(tokenizer, template_of(self.template).tokens)

    def require_sound(self, corpus: Corpus) -> None:
        """Raise InputError for lines that are no examples, unless they are to be skipped. Hidden files are no lines."""
        faults = [left for left in corpus.skipped if left.reason != HIDDEN]
        self._require_none(faults, corpus.counts["left_out"] - corpus.counts["unread"])

    def judge(self, corpus: Corpus, results: "Sequence[Result]") -> dict[str, Any]:
        """Report what was cut, and how much is learned, and say so; return what the recipe is to record.

        Raises InputError for examples of which no answer is left, unless they are to be skipped.
        """
        counts, skipped = Counter[str](), list[Skipped]()
        for result in results:
            counts.update(result.found["counts"])
            skipped += [Skipped(*left) for left in result.found["skipped"]]
            counts["learned"] += sum(shard["learned"] for shard in result.found["shards"])
        self._require_none(skipped, counts["unlearned"])
        for left in skipped[:MAX_SHOWN]:
            log.info(one_line(f"skipped {left.name}: {left.reason}"))
        if counts["unlearned"] > MAX_SHOWN:
            log.info(f"skipped {counts['unlearned'] - MAX_SHOWN:,} more, whose answers begin too late")
        if counts["cut"]:
            log.warning(
                f"{counts['cut']:,} examples are longer than {self.max_tokens:,} tokens (`max_tokens`): their last "
                f"{counts['cut_tokens']:,} tokens are cut off"
            )
        tokens = sum(shard.tokens for result in results for shard in result.shards)
        log.info(f"{counts['learned']:,} of {tokens:,} tokens are learned, of answers and what ends them")
        corpus.report["examples"] = {name: counts[name] for name in ("learned", "cut", "cut_tokens", "unlearned")}
        prompt = sample_prompt(corpus)
        return {"sample_prompt": prompt, "sample_specials": prompt.specials, "chat_template": self.template}

    def _require_none(self, faults: Sequence[Skipped], count: int) -> None:
        if not count or self.faulty == "skip":
            return
        named = "".join(f"\n  {one_line(f'{fault.name}: {fault.reason}')}" for fault in faults[:MAX_SHOWN])
        more = f"\n  and {count - MAX_SHOWN:,} more" if count > MAX_SHOWN else ""
        raise InputError(
            f"`input`: {count:,} {'line is' if count == 1 else 'lines are'} no example to learn from; mend or remove "
            f"what is named, or leave it out by `faulty` skip. Nothing was written:{named}{more}"
        )


def sample_prompt(corpus: Corpus) -> Marked:
    """Choose what a model in training is asked at each evaluation: the first prompt that is not long, or ''."""
    for document in corpus:
        size = document.learned[0][0]
        if 0 < size <= LONGEST_PROMPT:
            return Marked(document.text[:size], tuple(span for span in document.specials if span[1] <= size))
    return Marked("")


def parts_of(text: str, learned: Spans) -> Iterator[tuple[str, bool]]:
    """Divide a text into parts that are learned and parts that are not; none of them is empty."""
    return ((text[start:stop], is_learned) for start, stop, is_learned in in_parts(len(text), learned))


def marked_parts_of(document: Document) -> Iterator[tuple[str, bool, bool]]:
    """Divide an example further, at its special tokens: (part, whether it is learned, whether it is one)."""
    inner = [*document.specials]
    for start, stop, is_learned in in_parts(len(document.text), document.learned):
        own = tuple((first - start, last - start) for first, last in inner if start <= first < stop)
        for first, last, is_special in in_parts(stop - start, own):
            yield document.text[start + first : start + last], is_learned, is_special


def encode_examples(
    documents: Sequence[Document], tokenizer: Tokenizer, threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids of each example, (N,), and which are learned, (N + 1,) bool: the last one is its end-of-text."""
    parts = [[*marked_parts_of(document)] for document in documents]
    texts = [text for own in parts for text, _, is_special in own if not is_special]
    ids = iter(timed(TOKENIZING, tokenizer.encode_batch, texts, threads))
    special = {text: np.array([id], dtype=np.uint32) for text, id in tokenizer.special_tokens.items()}
    for document, own in zip(documents, parts, strict=True):
        encoded = [special[text] if is_special else next(ids) for text, _, is_special in own]
        learned = [np.full(len(each), is_learned) for each, (_, is_learned, _) in zip(encoded, own, strict=True)]
        ends = document.learned[-1][1] > len(document.text)
        yield np.concatenate(encoded), np.append(np.concatenate(learned), ends)


def cut_to(learned: np.ndarray, most: int) -> np.ndarray:
    """Cut the mask of an example, (N,) bool, to so many tokens; what is cut does not end there."""
    return np.append(learned[: most - 1], False) if len(learned) > most else learned


def require_end_of_text(tokenizer: Tokenizer) -> None:
    """Raise InputError for a tokenizer with which examples cannot be told apart."""
    if tokenizer.end_of_text is None:
        raise InputError(
            f"`tokenizer`: the {tokenizer.kind} tokenizer has no end-of-text here, with which an answer ends; choose "
            "another one, such as gpt2"
        )


def write_examples(
    place: Path, text: Path, repeats: Path | None, passages: Path | None, spool: Path, divide: Divide, tokenizer: Path,
    threads: int, most: int,
) -> dict[str, Any]:  # fmt: skip
    """Encode the examples of a slice into shards with masks, as `write_slice` does; `most` is the tokens of each.

    Raises InputError for a tokenizer with which examples cannot be told apart.
    """
    loaded = loaded_tokenizer(tokenizer)
    require_end_of_text(loaded)
    writers = {split: ShardWriter(place, split, loaded) for split in SPLITS}
    counts, skipped = Counter[str](), list[tuple[str, str]]()

    def outcomes() -> Iterator[Outcome]:
        for batch in _batches(pieces_of(documents_at(text, repeats), divide, passages_at(passages))):
            encoded = encode_examples([document for document, _ in batch], loaded, threads)
            for (document, pieces), (ids, learned) in zip(batch, encoded, strict=True):
                outcome = Outcome(len(document.text))
                for piece in pieces:  # it is all of the document; none if the document is dropped
                    outcome.add(piece)
                    mask = cut_to(learned, most)
                    if mask.any():
                        writers[piece.split].add([ids[: len(mask) - 1]], [mask])
                        counts.update(cut=int(len(learned) > most), cut_tokens=len(learned) - len(mask))
                        continue
                    counts["unlearned"] += 1
                    outcome.leave_out(f"its answer begins after {most:,} tokens (`max_tokens`)")
                    skipped.extend([(document.name, outcome.reason)] if len(skipped) < MAX_SHOWN else [])
                yield outcome

    ledger = write_ledger(place, text, repeats, spool, outcomes())
    shards = [asdict(shard) for writer in writers.values() for shard in writer.close()]
    return {"shards": shards, "counts": counts, "skipped": skipped} | ledger


Example = tuple[Document, Iterator[Piece]]


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Gather examples to be encoded at once."""
    batch, characters = list[Example](), 0
    for example in examples:
        batch.append(example)
        characters += len(example[0].text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
