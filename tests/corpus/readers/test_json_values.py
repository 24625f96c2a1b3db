import json
import random

import pytest
from corpus_files import found_in, skipped_in, texts_in
from helpers import random_text

from gpt.corpus import decoding, separators
from gpt.corpus.readers import json_values
from gpt.errors import InputError


def test_an_array_gives_a_document_for_each_entry_and_is_refused_without_a_field(said):
    content = b' [ {"text": "one", "n": 1}, {"text": "two\\r\\n"} ,{"other": 1}, "three", 4, {"text": ""}]\n'
    texts = {"x.json, entry 1": "one", "x.json, entry 2": "two\n", "x.json, entry 4": "three"}
    assert texts_in(content, "x.json", "text") == texts
    assert list(skipped_in(content, "x.json", "text")) == [f"x.json, entry {number}" for number in (3, 5, 6)]
    with pytest.raises(
        InputError, match=r"x.json: `field` must name the field that holds the text; its fields are: text, n"
    ):
        found_in(content, "x.json")
    with pytest.raises(InputError, match="no entry has a field 'body'; its fields are: text"):
        found_in(b'[{"text": "one"}]', "x.json", "body")
    assert said == []


def test_an_array_of_strings_needs_no_field():
    assert texts_in(b'["one", "two"]', "x.json") == {"x.json, entry 1": "one", "x.json, entry 2": "two"}


def test_json_lines_under_another_name_are_records():
    content = b'{"text": "one"}\n{"text": "two"}\n'
    assert list(texts_in(content, "x.json", "text").values()) == ["one", "two"]
    with pytest.raises(InputError, match="name the field"):
        found_in(content, "x.json")


@pytest.mark.parametrize("content", ['{"a": "b"}\n', '{\n// a comment\n"a": 1}', "12\n", '{"a": 1', " {}\n\n"])
def test_what_is_no_array_is_a_text_and_said(content, said):
    assert texts_in(content.encode(), "x.json") == {"x.json": content}
    assert said == ["x.json: taken as it stands; the braces are learned with the text"]


def test_a_single_object_with_the_field_is_one_document():
    assert texts_in(b'{"data": {"content": "text"}}', "x.json", "data.content") == {"x.json": "text"}


DAMAGED = {
    "cut": (b'[{"text": "one"}, {"text": "tw', "x.json, entry 2 and what follows", "not JSON, or cut off"),
    "cut between": (b'[{"text": "one"}', "x.json, entry 2 and what follows", "cut off, its end is missing"),
    "no comma": (
        b'[{"text": "one"} {"text": "two"}]',
        "x.json, entry 2 and what follows",
        "an array goes on with a comma",
    ),
    "no value": (b'[{"text": "one"}, xyz]', "x.json, entry 2 and what follows", "not JSON"),
    "deep": (b'[{"text": "one"}, ' + b"[" * 100_000, "x.json, entry 2 and what follows", "it is nested too deeply"),
    "more": (b'[{"text": "one"}] [1]', "x.json, after the array", "there is more after its end"),
}


@pytest.mark.parametrize(("content", "name", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_array_gives_what_came_before_and_is_named(content, name, reason):
    first, left = found_in(content, "x.json", "text")
    assert (first.text, left.name) == ("one", name)
    assert left.reason.startswith(reason)


def test_no_entry_and_nothing_at_all_are_named():
    assert skipped_in(b"[]", "x.json", "text") == {"x.json": "has no entry of JSON"}
    assert skipped_in(b" \n", "x.json") == {"x.json": "empty"}


@pytest.mark.parametrize("block", [1, 7, 64])
def test_an_array_is_read_alike_in_blocks_of_any_size(block, monkeypatch):
    rng = random.Random(0)
    entries = [
        {"n": 12345, "x": [1.5e10, True, None], "text": random_text(rng, 50).replace("\r", "")} for _ in range(30)
    ]
    content = json.dumps(entries, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    monkeypatch.setattr(decoding, "SAMPLE", block)
    texts = list(texts_in(content, "x.json", "text").values())
    assert texts == [entry["text"] for entry in entries if entry["text"].strip()]


def test_bad_bytes_are_judged_entry_by_entry():
    content = '[{"text": "Müller"}, {"text": "a?b"}, {"text": "fine"}]'.replace("?", "\udcff") + " " * 200_000
    content = content.encode(errors="surrogateescape")
    found = found_in(content, "x.json", "text")
    assert [each.text for each in found] == ["Müller", "a\ufffdb", "fine"]
    assert [each.note for each in found] == ["", "1 bad byte, which is no UTF-8: replaced by U+FFFD", ""]
    assert list(skipped_in(content, "x.json", "text", bad_bytes="skip")) == ["x.json, entry 2"]
    assert len(texts_in(content, "x.json", "text", bad_bytes="skip")) == 2
    with pytest.raises(InputError, match="x.json: 1 bad byte"):
        found_in(content, "x.json", "text", bad_bytes="error")
    assert "not UTF-8" in skipped_in('[{"text": "Müller"}]'.encode("latin-1"), "x.json", "text")["x.json"]


@pytest.mark.parametrize("block", [7, 100])
def test_an_entry_that_memory_does_not_hold_is_named_before_it_is_read(monkeypatch, block):
    monkeypatch.setattr(decoding, "SAMPLE", block)
    monkeypatch.setattr(json_values, "LONGEST", 400)
    found = json.dumps([{"text": "one"}, {"text": "two"}, {"text": "x" * 5000}, {"text": "four"}]).encode()
    assert texts_in(found, "x.json", "text") == {"x.json, entry 1": "one", "x.json, entry 2": "two"}
    (fault,) = skipped_in(found, "x.json", "text").items()
    assert fault[0] == "x.json, entry 3 and what follows"
    assert "takes more than 0.5 GB of memory to read; put its text into a file of its own" in fault[1]


def test_an_object_that_memory_does_not_hold_is_a_text_in_parts(monkeypatch):
    monkeypatch.setattr(decoding, "SAMPLE", 100)
    monkeypatch.setattr(json_values, "LONGEST", 400)
    monkeypatch.setattr(separators, "LARGEST", 1000)
    found = json.dumps({str(number): "word" for number in range(500)})
    texts = texts_in(found.encode(), "x.json")
    assert [*texts] == ["x.json", *(f"x.json, part {number}" for number in range(2, len(texts) + 1))]
    assert len(texts) > 5
    assert "".join(texts.values()) == found
