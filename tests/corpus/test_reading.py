import os
import random
import tracemalloc

import pytest

from gpt.corpus import reading
from gpt.corpus.reading import Corpus
from gpt.corpus.sources import Document, Skipped, Texts
from gpt.log import Progress


class Counting:
    """A source that knows how often its parts were read."""

    def __init__(self, parts):
        self._parts, self.reads = parts, 0

    def parts(self):
        return self._parts

    def read(self, part):
        self.reads += 1
        yield from part


@pytest.mark.parametrize("memory", [0, 1 << 27])
def test_the_documents_come_back_as_often_as_is_asked_though_they_are_read_once(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(reading, "MEMORY_BYTES", memory or 1)
    documents = [Document("a", "one"), Document("half \udcff name", "zwei \U0001f600\n"), Document("empty", "")]
    source = Counting([documents[:1], documents[1:]])
    corpus = Corpus(source, tmp_path, Progress())
    for _ in range(3):
        assert list(corpus) == documents
    assert source.reads == 2
    assert (corpus.documents, corpus.characters, corpus.files, corpus.files_read) == (3, 10, 2, 2)
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_a_content_is_kept_once_also_under_the_same_name(tmp_path):
    twice = [[Document("x", "same"), Document("y", "same"), Document("x", "same")], [Document("x", "other")]]
    corpus = Corpus(Counting(twice), tmp_path, Progress())
    assert [document.text for document in corpus] == ["same", "other"]
    assert corpus.skipped == [Skipped("y", "the same content as x"), Skipped("x", "the same content as x")]
    assert (corpus.documents, corpus.files_read) == (4, 2)


def test_what_was_kept_with_a_loss_is_listed(tmp_path):
    corpus = Corpus(Counting([[Document("a", "o\ufffde", "1 bad byte"), Document("b", "two")]]), tmp_path, Progress())
    assert corpus.repaired == [Skipped("a", "1 bad byte")]
    assert corpus.documents == 2


def test_what_is_left_out_is_no_file_and_no_document(tmp_path):
    parts = [Skipped("dir", "hidden"), [Skipped("picture", "binary")], [Document("a", "text"), Skipped("b", "empty")]]
    corpus = Corpus(Counting(parts), tmp_path, Progress())
    assert (corpus.files, corpus.files_read, corpus.documents) == (2, 1, 1)
    assert [left.name for left in corpus.skipped] == ["dir", "picture", "b"]


def test_a_corpus_larger_than_its_memory_lies_in_a_file(tmp_path, monkeypatch):
    """50 MB of text, of which no more than a few are held at a time."""
    monkeypatch.setattr(reading, "MEMORY_BYTES", 1 << 20)
    rng = random.Random(0)

    def part(number):
        return [Document(f"{number} {i}", rng.randbytes(500_000).hex()) for i in range(10)]

    class Large(Counting):
        def read(self, part_number):
            yield from part(part_number)

    tracemalloc.start()
    corpus = Corpus(Large(list(range(5))), tmp_path, Progress())
    assert sum(len(document.text) for document in corpus) == corpus.characters == 50_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25_000_000
    assert os.fstat(corpus._kept.fileno()).st_size > 50_000_000


def test_texts_are_parts_in_their_order():
    texts = Texts([("b", "two"), ("a", "one")])
    assert [document for part in texts.parts() for document in texts.read(part)] == [
        Document("b", "two"),
        Document("a", "one"),
    ]
