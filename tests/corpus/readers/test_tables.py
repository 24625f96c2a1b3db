import csv
import io
import random

import pytest
from corpus_files import found_in, skipped_in, texts_in
from helpers import random_text

from gpt.corpus.readers import lines, tables
from gpt.errors import InputError


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.csv", ";"), ("x.tsv", "\t"), ("x.CSV", "|")])
def test_a_table_is_read_as_it_was_written(name, delimiter):
    rng = random.Random(delimiter)
    texts = [random_text(rng, 40).replace("\r", "").replace("\0", "") or "x" for _ in range(50)]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([["id", "text"], *enumerate(texts)])
    content = file.getvalue().encode("utf-8", "replace")
    expected = [text.encode("utf-8", "replace").decode() for text in texts if text.strip()]
    assert list(texts_in(content, name, "text").values()) == expected
    assert list(texts_in(content.decode().encode("utf-16"), name, "text").values()) == expected


def test_columns_are_named_where_none_is_asked_for_or_it_is_not_there():
    content = b"\xef\xbb\xbfid,text\r\n1,one\r\n"
    assert texts_in(content, "x.csv", "id") == {"x.csv, row 1": "1"}
    with pytest.raises(InputError, match="`field` must name the field that holds the text; its fields are: id, text"):
        found_in(content, "x.csv")
    with pytest.raises(InputError, match="no row has a field 'body'; its fields are: id, text"):
        found_in(content, "x.csv", "body")


def test_a_bad_row_is_named_and_the_others_are_read():
    content = b'id,text\n1,one\n2\n3,a,b\n\n4,"x"y\n5,\n6,caf\xe9\n7,seven\n8,"open\n9,nine\n'
    sound = "Müller ".encode() * 20
    content = content.replace(b"one", sound)
    assert list(texts_in(content, "x.csv", "text").values())[1:] == ["caf\ufffd", "seven"]
    skipped = skipped_in(content, "x.csv", "text")
    assert {name.removeprefix("x.csv, "): reason for name, reason in skipped.items()} == {
        "row 2": "has 1 columns, and the header has 2",
        "row 3": "has 3 columns, and the header has 2",
        "row 4": "not CSV: ',' expected after '\"'",
        "row 5": "empty",
        "row 8 and what follows": "not CSV: a quote is not closed",
    }
    (document,) = [each for each in found_in(content, "x.csv", "text") if getattr(each, "note", "")]
    assert document.note == "1 bad byte, which is no UTF-8: replaced by U+FFFD"


def test_a_cell_may_be_large_and_a_table_empty():
    assert len(texts_in(b"text\n" + b"a" * 1_000_000, "x.csv", "text")["x.csv, row 1"]) == 1_000_000
    for content in (b"", b"id,text\n"):
        assert skipped_in(content, "x.csv", "text") == {"x.csv": "has no row of CSV"}


def test_a_row_that_memory_does_not_hold_is_named_and_the_next_one_is_read(monkeypatch):
    monkeypatch.setattr(tables, "LONGEST_ROW", 50)
    long = {2: "b" * 60, 4: 'in "quotes"\n' * 9, 6: "e,\n" * 40}
    rows = [[str(number), long.get(number, f"short\n{number}")] for number in range(1, 8)]
    content = io.StringIO()
    csv.writer(content).writerows([["id", "text"], *rows])
    found = content.getvalue().encode()
    assert texts_in(found, "x.csv", "text") == {f"x.csv, row {number}": f"short\n{number}" for number in (1, 3, 5, 7)}
    faults = skipped_in(found, "x.csv", "text")
    assert [*faults] == [f"x.csv, row {number}" for number in long]
    for fault in faults.values():
        assert fault.startswith("a row of more than 50 characters; put its text into a file of its own")
    assert skipped_in(found + b'8,"' + b"g\n" * 50, "x.csv", "text") == faults | {
        "x.csv, row 8 and what follows": "not CSV: a quote is not closed"
    }


@pytest.mark.parametrize("limit", ["lines", "tables"])
def test_a_header_that_is_too_long_is_not_passed_over(monkeypatch, limit):
    monkeypatch.setattr(tables, "LONGEST_ROW", 50 if limit == "tables" else 1000)
    monkeypatch.setattr(lines, "SMALL", 50 if limit == "lines" else 1000)
    monkeypatch.setattr(lines, "MOST_MEMORY", 50)
    (reason,) = skipped_in(b"id,text," + b"a" * 60 + b"\n1,one,2\n", "x.csv", "text").values()
    assert reason.startswith("its first line, which names the columns, is a ")


def test_a_line_that_memory_does_not_hold_is_named_in_a_table_too(monkeypatch):
    monkeypatch.setattr(lines, "SMALL", 50)
    monkeypatch.setattr(lines, "MOST_MEMORY", 50)
    found = b"text\none\n" + b"a" * 60 + b"\ntwo\n"
    assert texts_in(found, "x.csv", "text") == {"x.csv, row 1": "one", "x.csv, row 3": "two"}
    assert [*skipped_in(found, "x.csv", "text")] == ["x.csv, row 2"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp932"])
@pytest.mark.parametrize("rest", ['"', 'b,no row\n"', 'b,no row\n""\n"'])
def test_the_rest_of_a_row_of_which_a_line_cannot_be_read_is_no_row(monkeypatch, encoding, rest):
    """A line that is too long, or, of cp932, ends within a letter."""
    monkeypatch.setattr(lines, "SMALL", 50)
    monkeypatch.setattr(lines, "MOST_MEMORY", 50)
    bad = "aあ" if encoding == "cp932" else "a" * 60
    table = f'id,text\n1,あone\n2,"{bad}\n{rest}\n3,three\n4,"open\n{bad}""{bad}\n{bad}"\n5,five\n'
    found = table.encode(encoding).replace("aあ".encode("cp932"), b"a\x81")
    documents = texts_in(found, "x.csv", "text", encoding=None if encoding == "utf-16" else encoding)
    assert documents == {"x.csv, row 1": "あone", "x.csv, row 3": "three", "x.csv, row 5": "five"}
