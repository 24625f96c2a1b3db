"""Documents that are too long to stay one."""

import json
import random

import pytest
from corpus_files import found_in, texts_in

from gpt.corpus import documents, reading, separators
from gpt.corpus.documents import Document, end_of_part, parts_of
from gpt.corpus.readers import lines
from gpt.corpus.reading import Corpus, Filters
from gpt.corpus.slices import cut_slices
from gpt.corpus.sources import Texts
from gpt.corpus.stages import Stages
from gpt.log import Progress


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (documents, separators, reading):
        monkeypatch.setattr(module, "LARGEST", 1000)


def test_parts_end_with_a_line_or_a_word_or_anywhere_and_are_the_text():
    rng = random.Random(0)
    for marks in ("x", "x ", "x \n", "é\U0001f600 "):
        text = "".join(rng.choice(marks + "abc" * 20) for _ in range(10_400))
        parts = list(parts_of(Document("a", text, "a note")))
        assert "".join(part.text for part in parts) == text
        assert all(500 <= len(part.text) <= 1000 for part in parts[:-1])
        assert [part.name for part in parts[:3]] == ["a", "a, part 2", "a, part 3"]
        assert [part.note for part in parts[:3]] == ["a note", "", ""]
        assert all(part.text[-1] == marks[-1] for part in parts[:-1]) or marks == "x"
    assert end_of_part("ab cd\nef gh") == len("ab cd\n")


@pytest.mark.parametrize("separator", ["", "<|endoftext|>\n"])
def test_a_plain_text_is_read_in_parts_and_nothing_of_it_is_lost(separator):
    text = "".join(f"line {number} of a text\n" for number in range(200_000))  # 4.3 MB: several blocks
    found = texts_in((separator + text).encode(), "x.txt")
    assert "".join(found.values()) == text
    assert len(found) > 3
    first, second = ("x.txt, document 1", "x.txt, document 2") if separator else ("x.txt", "x.txt, part 2")
    assert list(found)[:2] == [first, second]
    assert all(part.endswith("\n") for part in found.values())


def test_a_long_document_of_any_source_becomes_several_of_which_the_ledger_adds_up(tmp_path):
    text = "word " * 2000
    source = Texts({"long": text, "short": "word " * 300, "dropped": "x" * 12_000})
    slices = list(cut_slices(source, source.parts(), 10**6))
    corpus = Corpus(Stages(tmp_path, Progress()), source, slices, Filters(max_characters=11_000))
    found = {each.name: each.text for each in corpus}
    assert found.pop("short") == "word " * 300
    assert list(found)[:2] == ["long", "long, part 2"]
    assert "".join(found.values()) == text
    assert corpus.counts["left_out"] == 1
    entries = [json.loads(line) for line in next(tmp_path.rglob("*.entries")).read_text().splitlines()]
    assert sum(entry["bytes"] for entry in entries if entry.get("document", "").startswith("long")) == len(text)


@pytest.mark.parametrize("longest", [3000, 10**6])
def test_a_line_that_memory_does_not_hold_is_named_with_its_size_and_passed_over(monkeypatch, longest):
    monkeypatch.setattr(lines, "SMALL", 1000)
    monkeypatch.setattr(lines, "LONGEST", longest)
    monkeypatch.setattr(lines, "MOST_MEMORY", 10_000)
    rows = [{"text": "a"}, {"text": "b" * 4000}, {"text": "b" * 6000}, {"text": "é" * 1800}, {"text": "c"}]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    found = found_in(content, "x.jsonl", "text")
    texts = [each.text for each in found if isinstance(each, Document)]
    faults = {each.name: each.reason for each in found if not isinstance(each, Document)}
    assert texts == (["a", "c"] if longest == 3000 else ["a", "b" * 4000, "c"])
    assert all("takes more than 0.0 GB of memory to read; put its text into a file of its own" in faults[name]
               for name in ("x.jsonl, line 3", "x.jsonl, line 4"))  # fmt: skip


def test_what_a_line_takes_is_counted_by_its_widest_letter_also_where_that_is_escaped():
    for text, width in (("a", 1), ("\u2019", 2), ("\U0001f600", 4)):
        for is_ascii in (True, False):
            line = json.dumps({"text": text}, ensure_ascii=is_ascii).encode()
            assert lines._needed(line) == ((1 if is_ascii else width) + width) * len(line)
