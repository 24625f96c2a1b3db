"""Lines of JSON that memory does not hold, held against the same lines where it does; limits are small here."""

import json
import random
import tempfile

import pytest
from corpus_files import found_in, skipped_in, texts_in

from gpt.corpus import documents
from gpt.corpus.documents import Document, Skipped
from gpt.corpus.readers import lines, long_texts
from gpt.errors import InputError

LETTERS = ["word", " ", "\n", "\r\n", "\r", "\t", '"', "\\", "\\u", "/"]
LETTERS += ["\u00e9", "\u4e2d", "\U0001f600", "\ud83d", "\ude00"]


@pytest.fixture
def small(monkeypatch):
    """Lines of any length are long, and so are their texts of more than 40 bytes; they come in parts of 100 letters."""
    for name, value in {"SMALL": 60, "LONGEST": 100, "MOST_MEMORY": 0}.items():
        monkeypatch.setattr(lines, name, value)
    for name, value in {"LONG": 40, "PIECE": 32, "LARGEST": 100}.items():
        monkeypatch.setattr(long_texts, name, value)
    return monkeypatch


def parts_of(name, text, monkeypatch):
    """As those of a text that memory holds are cut."""
    with monkeypatch.context() as patch:
        patch.setattr(documents, "LARGEST", 100)
        return {part.name: part.text for part in documents.parts_of(Document(name, text))}


@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("piece", [1, 13, 32, 1000])
def test_a_long_text_is_that_of_a_line_in_memory_in_parts(small, is_ascii, piece):
    small.setattr(long_texts, "PIECE", piece)
    rng = random.Random(piece)
    for _ in range(30):
        text = "".join(rng.choices(LETTERS, k=rng.randrange(60, 300)))
        other = "".join(rng.choices(LETTERS, k=rng.randrange(100)))
        row = {other[:3]: other, "data": {"text": text, "more": [other, 1, {}]}, "last": "x" * 100}
        line = json.dumps(row, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        if not is_ascii and any("\ud800" <= letter <= "\udfff" for letter in text + other):
            continue
        text = json.loads(line)["data"]["text"].replace("\r\n", "\n")
        whole = "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
        wanted = parts_of("x.jsonl, line 2", whole, small)
        found = texts_in(b'{"data": {"text": "one"}}\n' + line + b"\n", "x.jsonl", "data.text")
        assert found.pop("x.jsonl, line 1") == "one"
        assert {name: part for name, part in found.items() if part.strip()} == {
            name: part for name, part in wanted.items() if part.strip()
        }


def test_the_first_line_may_be_long_and_another_field_too(small):
    rows = [{"id": "i" * 99, "text": "t" * 250}, {"id": "i" * 999, "text": "short"}, {"text": "t"}]
    content = b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = texts_in(content, "x.jsonl", "text")
    assert [len(text) for text in found.values()] == [100, 100, 50, 5, 1]
    assert [*found][:3] == ["x.jsonl, line 1", "x.jsonl, line 1, part 2", "x.jsonl, line 1, part 3"]
    with pytest.raises(InputError, match="its fields are: id, text"):
        texts_in(content, "x.jsonl", "none") or skipped_in(content, "x.jsonl", "none")


def test_what_is_wrong_with_a_long_line_is_named(small):
    good, letters = b"g" * 300, "\u00e9" * 400
    rows = [
        letters.encode() + b'"}',
        good + b"\\x" + good + b'"}',
        good,
        b'", "list": [' + b"1, " * 500 + b"2]}",
        good + b'", "text": "two"}',
        b"ab\xff " * 20 + b'"}',
        good + b' \xff"}',
    ]
    content = b"".join(b'{"text": "' + row + b"\n" for row in rows)
    found = found_in(content, "x.jsonl", "text")
    faults = {each.name: each.reason for each in found if isinstance(each, Skipped)}
    assert faults["x.jsonl, line 2, part 3 and what follows"].startswith("not JSON: Invalid")
    assert faults["x.jsonl, line 3"].startswith("not JSON: Unterminated string")
    assert faults["x.jsonl, line 4"].startswith("a line of 0 MB, which takes more than 0.0 GB of memory to read; put")
    assert "bad bytes in it" in faults["x.jsonl, line 6"]
    texts = {each.name: each for each in found if isinstance(each, Document)}
    assert "".join(text.text for name, text in texts.items() if ", line 1" in name) == letters
    assert texts["x.jsonl, line 5"].text == "two"
    assert texts["x.jsonl, line 7"].note == ""
    assert "1 bad byte" in texts["x.jsonl, line 7, part 4"].note
    with pytest.raises(InputError, match="x.jsonl, line 7, part 4: 1 bad byte"):
        found_in(content, "x.jsonl", "text", bad_bytes="error")


def test_all_long_texts_of_a_line_take_one_open_file(small):
    opened, open_ = [], tempfile.TemporaryFile
    small.setattr(tempfile, "TemporaryFile", lambda **given: opened.append(given) or open_(**given))
    line = json.dumps({f"text {number}": f"{number:099}" for number in range(300)})
    assert texts_in(f"{line}\n".encode(), "x.jsonl", "text 140") == {"x.jsonl, line 1": f"{140:099}"}
    assert len(opened) == 1


def test_a_full_disk_is_named(small):
    def full(*_):
        raise OSError(28, "No space left on device")

    small.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with pytest.raises(InputError, match="No space left on device; to read a line .* name another place by TMPDIR"):
        found_in(json.dumps({"text": "t" * 200}).encode(), "x.jsonl", "text")
