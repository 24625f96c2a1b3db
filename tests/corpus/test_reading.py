import hashlib
import json
import random
import tracemalloc
import unicodedata
from pathlib import Path

import pytest

from gpt.corpus import reading, slices
from gpt.corpus.documents import Document, Notice, Skipped
from gpt.corpus.reading import MAX_NOTICES, Corpus, Filters, drop_duplicates, say_notices
from gpt.corpus.slices import ENTRIES, Slice, name_at, repeats_at
from gpt.corpus.sources import Identity
from gpt.corpus.stages import Stages
from gpt.errors import InputError
from gpt.log import Progress


class Counting:
    """A source whose parts are lists of documents, and which knows how often they were read."""

    settings = ""

    def __init__(self):
        self.reads = 0

    def identity(self, part):
        return Identity(part[0].name, sum(len(each.text.encode()) for each in part if isinstance(each, Document)), "")

    def read(self, part):
        self.reads += 1
        yield from part


def corpus_of(tmp_path, *slices, filters=None, source=None):
    """Slices, each a list of parts."""
    cut = [Slice(tuple(parts), "label", hashlib.sha256(repr(parts).encode()).hexdigest(), 0) for parts in slices]
    return Corpus(Stages(tmp_path, Progress()), source or Counting(), cut, filters or Filters())


def test_the_documents_come_back_as_often_as_is_asked_though_they_are_read_once(tmp_path):
    documents = [Document("a", "one"), Document("half \udcff name", "zwei \U0001f600\n"), Document("b", "drei")]
    source = Counting()
    corpus = corpus_of(tmp_path, [documents[:1]], [documents[1:2], documents[2:]], source=source)
    for _ in range(3):
        assert list(corpus) == documents
    assert source.reads == 3
    counts = {"documents": 3, "characters": 14, "files": 3, "files_read": 3, "kept": 3}
    assert dict(corpus.counts) == counts
    assert [name_at(corpus.slices[1].place, number) for number in (0, 1)] == ["half \udcff name", "b"]
    again = corpus_of(tmp_path, [documents[:1]], [documents[1:2], documents[2:]], source=source)
    assert list(again) == documents
    assert dict(again.counts) == counts
    assert source.reads == 3  # what was read is there already


@pytest.mark.parametrize("bucket", [24, 48, 1 << 25])
def test_of_each_content_the_first_document_stays(tmp_path, monkeypatch, bucket):
    """By a plain dictionary, over slices."""
    monkeypatch.setattr(slices, "BYTES_AT_ONCE", bucket)
    rng = random.Random(bucket)
    texts = [str(rng.randrange(40)) for _ in range(100)]
    documents = [Document(f"{number}", text) for number, text in enumerate(texts)]
    bases = (0, 20, 23, 23)
    corpus = corpus_of(tmp_path, [documents[:20]], [documents[20:23]], [Skipped("a", "empty")], [documents[23:]])
    for _ in range(2):  # what was listed before is forgotten
        drop_duplicates(corpus, tmp_path)
    firsts = list(range(100))
    for base, repeats in zip(bases, (each.repeats for each in corpus.slices), strict=True):
        for number, first in repeats_at(repeats).tolist():
            firsts[base + number] = first
    expected = {}
    for number, text in enumerate(texts):
        expected.setdefault(text, number)
    assert firsts == [expected[text] for text in texts]
    assert [document.name for document in corpus] == [str(number) for number in sorted(expected.values())]
    assert corpus.counts["repeated"] == 100 - len(expected)


def test_a_corpus_without_documents_has_no_duplicates(tmp_path):
    corpus = corpus_of(tmp_path, [Skipped("a", "empty")])
    drop_duplicates(corpus, tmp_path)
    assert (list(corpus), corpus.counts["repeated"]) == ([], 0)


@pytest.mark.parametrize("limit", ["MOST_DOCUMENTS", "MOST_TEXT"])
def test_what_holds_too_much_for_one_slice_becomes_several_which_add_up(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(reading, limit, {"MOST_DOCUMENTS": 3, "MOST_TEXT": 95}[limit])
    one = [Document(f"a{number}", f"{number}" * 9) for number in range(7)]
    other = [Document("b", "text"), Skipped("c", "empty"), Document("d", "0" * 9), Document("e", "")]
    corpus = corpus_of(tmp_path, [Skipped("dir", "hidden"), one, other], [[Document("f", "last")]])
    assert [each.size for each in corpus.slices] == [3, 3, 3, 1, 1]
    drop_duplicates(corpus, tmp_path)
    assert [each.name for each in corpus] == [*(f"a{number}" for number in range(7)), "b", "e", "f"]
    assert corpus.counts["files"] == corpus.counts["files_read"] == 3
    entries = [
        [json.loads(line) for line in Path(f"{each.place}{ENTRIES}").read_text().splitlines()] for each in corpus.slices
    ]
    for own in entries:
        documents = sum(entry["bytes"] for entry in own if "document" in entry)
        assert documents == sum(entry["bytes"] for entry in own if "source" in entry)
    sources = [(entry["source"], entry["bytes"]) for own in entries for entry in own if "source" in entry]
    assert sources == [("a0", 27), ("a0", 27), ("a0", 9), ("b", 13), ("b", 0), ("f", 4)]
    again = corpus_of(tmp_path, [Skipped("dir", "hidden"), one, other], [[Document("f", "last")]])
    drop_duplicates(again, tmp_path)
    assert again.slices == corpus.slices


def test_what_is_left_out_or_mended_is_counted_and_entered(tmp_path):
    parts = [
        Skipped("dir", "hidden"),
        [Document("a", "text", "1 bad byte"), Skipped("b", "empty"), Document("c", "ö")],
    ]
    corpus = corpus_of(tmp_path, parts)
    assert corpus.skipped == [Skipped("dir", "hidden"), Skipped("b", "empty")]
    assert corpus.repaired == [Skipped("a", "1 bad byte")]
    assert (corpus.counts["files"], corpus.counts["left_out"], corpus.counts["mended"]) == (1, 2, 1)
    entries = [json.loads(line) for line in Path(f"{corpus.slices[0].place}{ENTRIES}").read_text().splitlines()]
    assert entries == [
        {"document": "dir", "bytes": 0, "reason": "hidden"},
        {"document": "a", "bytes": 4, "note": "1 bad byte"},
        {"document": "b", "bytes": 0, "reason": "empty"},
        {"document": "c", "bytes": 2},
        {"source": "a", "bytes": 6},
    ]


class TestFilters:
    def test_lengths_are_kept_to_and_named(self, tmp_path):
        documents = [Document(str(length), "x" * length) for length in (1, 4, 5, 9, 10)]
        corpus = corpus_of(tmp_path, [documents], filters=Filters(min_characters=4, max_characters=9))
        assert [document.name for document in corpus] == ["4", "5", "9"]
        assert [left.reason for left in corpus.skipped] == ["shorter than 4 characters", "longer than 9 characters"]

    @pytest.mark.parametrize("form", ["nfc", "nfkc"])
    def test_text_is_brought_into_a_normal_form(self, tmp_path, form):
        texts = ["cafe\u0301 \ufb01", "plain"]
        corpus = corpus_of(
            tmp_path,
            [[Document(text, text) for text in texts]],
            filters=Filters(normalize=form),  # ty: ignore
        )
        assert [document.text for document in corpus] == [unicodedata.normalize(form.upper(), text) for text in texts]

    def test_limits_that_nothing_can_keep_are_refused(self):
        with pytest.raises(InputError, match="`max_characters` is 3; it must be at least `min_characters`"):
            Filters(min_characters=4, max_characters=3)
        with pytest.raises(InputError, match="`min_characters`"):
            Filters(min_characters=-1)


def test_a_large_corpus_is_read_and_given_back_with_few_texts_in_memory(tmp_path):
    """20 MB of text, of which no more than a few are held at a time."""

    class Large(Counting):
        def identity(self, part):
            return Identity(str(part), 0, "")

        def read(self, part):
            rng = random.Random(part)
            for number in range(8):
                yield Document(f"{part} {number}", rng.randbytes(250_000).hex())

    tracemalloc.start()
    corpus = corpus_of(tmp_path, *([number] for number in range(5)), source=Large())
    assert sum(len(document.text) for document in corpus) == corpus.counts["characters"] == 20_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000


def test_of_many_files_that_are_alike_the_first_are_named(said):
    say_notices([*(Notice("divided files", f"{number}.txt") for number in range(100)), Notice("others", "x.txt", True)])
    assert said == [
        *(f"{number}.txt" for number in range(MAX_NOTICES)),
        f"more files like the last {MAX_NOTICES} (divided files) are not named",
        "x.txt",
    ]
