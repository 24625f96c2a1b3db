import gzip
import io
import sys

import pytest
from corpus_files import found_in, skipped_in, texts_in

from gpt.corpus.readers import parquet
from gpt.errors import InputError

pa = pytest.importorskip("pyarrow", reason="the extra `data` reads Parquet")
pq = pytest.importorskip("pyarrow.parquet", reason="the extra `data` reads Parquet")


def written(columns, **options):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


COLUMNS = {
    "id": [1, 2, 3, 4],
    "text": ["one", None, "", "fo\r\nur"],
    "data": [
        {"content": "in", "n": {"m": "deep"}},
        None,
        {"content": None, "n": None},
        {"content": "4", "n": {"m": "d"}},
    ],
    "a.b": ["dots"] * 4,
    "list": [["x"]] * 4,
}


def test_rows_are_documents_and_nulls_are_named():
    content = written(COLUMNS)
    assert texts_in(content, "x.parquet", "text") == {"x.parquet, row 1": "one", "x.parquet, row 4": "fo\nur"}
    reasons = {"x.parquet, row 2": "has no text in the field 'text'", "x.parquet, row 3": "empty"}
    assert skipped_in(content, "x.parquet", "text") == reasons
    assert list(texts_in(content, "x.parquet", "data.content")) == ["x.parquet, row 1", "x.parquet, row 4"]
    assert list(texts_in(content, "x.parquet", "data.n.m").values()) == ["deep", "d"]
    assert list(texts_in(content, "x.parquet", "a.b").values()) == ["dots"] * 4
    packed = texts_in(gzip.compress(content), "x.parquet.gz", "text")
    assert list(packed) == ["x.parquet.gz, row 1", "x.parquet.gz, row 4"]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "binary", "large_binary"])
def test_text_of_any_type_is_read(kind):
    texts = ["one", "zwei: Müller", None, "one"]
    type_ = pa.dictionary(pa.int32(), pa.string()) if kind == "dictionary" else getattr(pa, kind)()
    column = pa.array(
        texts if "binary" not in kind else [t and t.encode() for t in texts],
        pa.string() if kind == "dictionary" else type_,
    )
    column = column.dictionary_encode() if kind == "dictionary" else column
    assert list(texts_in(written({"t": column}), "x.parquet", "t").values()) == ["one", "zwei: Müller", "one"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            None,
            "`field` must name the field that holds the text; its fields are: id, text, data.content, data.n.m",
        ),
        ("body", "no row has a field 'body'; its fields are: id"),
        ("id", "the field 'id' is no text but int64; its fields are: id, text"),
        ("list", "the field 'list' is no text but list<"),
        ("data", "the field 'data' is no text but struct<"),
    ],
)
def test_columns_without_text_are_refused(field, message):
    with pytest.raises(InputError, match=rf"`input` .*x.parquet: {message}"):
        found_in(written(COLUMNS), "x.parquet", field)


def test_bytes_that_are_no_utf_8_are_replaced_or_skipped():
    content = written({"t": [b"fine", b"\xff!", "Müller".encode()]})
    found = found_in(content, "x.parquet", "t")
    assert [each.text for each in found] == ["fine", "\ufffd!", "Müller"]
    assert [bool(each.note) for each in found] == [False, True, False]
    assert list(skipped_in(content, "x.parquet", "t", bad_bytes="skip")) == ["x.parquet, row 2"]
    with pytest.raises(InputError, match="x.parquet, row 2: 1 bad byte"):
        found_in(content, "x.parquet", "t", bad_bytes="error")
    values = [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffa")]
    lies = written({"t": pa.Array.from_buffers(pa.string(), 2, values)})  # a column that says it is text
    assert list(texts_in(lies, "x.parquet", "t").values()) == ["\ufffd", "a"]


@pytest.mark.parametrize("cut", [slice(-20), slice(4), slice(0), slice(100, None)])
def test_a_damaged_file_is_named(cut):
    assert skipped_in(written(COLUMNS)[cut], "x.parquet", "text")["x.parquet"].startswith("Parquet: damaged (")


def test_a_damaged_page_is_named_after_what_came_before():
    texts = [f"text {number} " * 50 for number in range(3000)]
    content = bytearray(
        written({"t": texts}, row_group_size=1000, compression="none", use_dictionary=False, data_page_size=1000)
    )
    middle = content.index(b"text 2100 ")
    content[middle - 600 : middle - 400] = b"\xff" * 200
    found = found_in(bytes(content), "x.parquet", "t")
    assert [each.text for each in found[:2000]] == texts[:2000]


def test_memory_does_not_grow_with_a_row_group(monkeypatch):
    content = written({"t": ["word " * 200] * 5000}, row_group_size=5000)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1 << 18)
    batches = []
    honest = parquet._batch_rows
    monkeypatch.setattr(parquet, "_batch_rows", lambda metadata: batches.append(honest(metadata)) or batches[-1])
    assert len(texts_in(content, "x.parquet", "t")) == 5000
    assert batches[0] <= parquet.MAX_ROWS


def test_without_pyarrow_it_says_what_to_install(monkeypatch):
    content = written({"t": ["one"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"x.parquet: install what reads it: pip install 'gpt\[data\]'"):
        found_in(content, "x.parquet", "t")


def test_rows_that_memory_does_not_hold_are_named_before_they_are_read(monkeypatch):
    texts = ["one", "two", *(str(number) * 5000 for number in range(2)), "five"]
    monkeypatch.setattr(parquet, "LONGEST", 2000)
    found = written({"id": ["long " * 900] * 5, "t": texts}, row_group_size=2)
    kept = {"x.parquet, row 1": "one", "x.parquet, row 2": "two", "x.parquet, row 5": "five"}
    assert texts_in(found, "x.parquet", "t") == kept
    ((name, reason),) = skipped_in(found, "x.parquet", "t").items()
    assert name == "x.parquet, rows 3 to 4"
    assert reason.startswith("0 MB, which may take more than 0.5 GB to read; put its text into a file of its own")


def test_a_row_group_without_rows_is_no_huge_one():
    empty = pa.table({"text": pa.array([], pa.string())})
    file = io.BytesIO()
    with pq.ParquetWriter(file, empty.schema) as writer:
        for table in (empty, pa.table({"text": ["one"]}), empty):
            writer.write_table(table)
    assert texts_in(file.getvalue(), "x.parquet", "text") == {"x.parquet, row 1": "one"}
    assert not skipped_in(file.getvalue(), "x.parquet", "text")
    assert skipped_in(written({"text": empty["text"]}), "x.parquet", "text") == {"x.parquet": "has no row of Parquet"}
