"""Large files read in ranges give what they give in one piece."""

import gzip
import json
import random

import pytest

from gpt.corpus import ranges
from gpt.corpus.documents import Document, Notice, ReadOptions, Skipped
from gpt.corpus.ranges import ranges_of
from gpt.corpus.separators import END_OF_TEXT
from gpt.corpus.sources import TextFiles
from gpt.errors import InputError


def found_in(path, size, **settings):
    """Texts of a file, read in ranges; how many these were; and names of all that was found."""
    source = TextFiles([path], how=ReadOptions(**settings))
    parts = [part for whole in source.parts() for part in source.divided(whole, size)]
    found = [each for part in parts for each in source.read(part) if not isinstance(each, Notice)]
    assert sum(source.identity(part).bytes for part in parts) == path.stat().st_size  # as the ledger has them
    return [each.text for each in found if isinstance(each, Document)], len(parts), [each.name for each in found]


def texts(count, seed=0):
    rng = random.Random(seed)
    return [f"{number}: {'ü' * rng.randrange(300)}" for number in range(count)]


@pytest.mark.parametrize("chunk", [64, 1 << 22])
@pytest.mark.parametrize("size", [100, 1000, 7777])
@pytest.mark.parametrize("end", ["", "\n"])
def test_lines(tmp_path, monkeypatch, size, chunk, end):
    monkeypatch.setattr(ranges, "CHUNK", chunk)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts(100)]
    lines[50:50] = ["", "not JSON", "\ufeff"]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    whole = found_in(path, 10**9, field="text")
    parts = found_in(path, size, field="text")
    assert parts[0] == whole[0] == texts(100)
    assert parts[2] == whole[2]  # with the numbers of their lines
    assert parts[1] > path.stat().st_size / size / 4


def test_a_line_that_is_longer_than_a_range_stays_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": character * 5000}) + "\n" for character in "abc"))
    assert found_in(path, 100, field="text")[:2] == (["a" * 5000, "b" * 5000, "c" * 5000], 3)


@pytest.mark.parametrize("size", [200, 3000])
@pytest.mark.parametrize("separator", ["auto", "###", "\\n\\n\\n"])
def test_documents_between_separators(tmp_path, size, separator):
    written = {"auto": f"\n{END_OF_TEXT}\n", "\\n\\n\\n": "\n\n\n"}.get(separator, separator)
    path = tmp_path / "a.txt"
    path.write_text(written.join(texts(100)), encoding="utf-8")
    assert found_in(path, 10**9, separator=separator)[:2] == (texts(100), 1)
    parts = found_in(path, size, separator=separator)
    assert parts[0] == texts(100)
    assert parts[1] > 5
    assert len(set(parts[2])) == 100


@pytest.mark.parametrize(
    ("written", "given", "separator", "divides"),
    [
        ("utf-8", "cp1252", "§", True),  # in cp1252 the last byte of ç
        ("utf-8", "cp1252", "→", True),  # which cp1252 does not have
        ("utf-8", "utf-8-sig", "→", True),
        ("utf-8-sig", "cp932", "→", True),
        ("cp1252", "cp1252", "§", True),
        ("cp1252", "cp1252", "→", False),
        ("utf-8", "cp932", "###", False),
        ("utf-8", "idna", "###", False),
        ("cp932", "cp932", "l", False),  # the second byte of ャ
        ("utf-7", "utf-7", "A", False),
    ],
)
def test_a_separator_is_looked_for_in_the_encoding_that_the_text_has(tmp_path, written, given, separator, divides):
    path = tmp_path / "a.txt"
    path.write_bytes(separator.join(f"{text} ç ヤャ" for text in texts(100)).encode(written, "ignore"))
    whole, parts = (found_in(path, size, separator=separator, encoding=given) for size in (10**9, 200))
    assert parts[0] == whole[0]
    assert (parts[1] > 5) == divides


def test_row_groups(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": texts(100)}), path, row_group_size=7)
    whole, parts = found_in(path, 10**9, field="text"), found_in(path, 3000, field="text")
    assert parts[0] == whole[0] == texts(100)
    assert parts[2] == whole[2]
    assert (whole[1], parts[1] > 2) == (1, True)


def test_row_groups_share_the_size_of_their_file_by_what_they_take_there(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = [*["x" * 4000] * 50, *(random.Random(row).randbytes(2000).hex() for row in range(50))]  # packed: 1 to 10
    parquet.write_table(pyarrow.table({"text": rows}), path, row_group_size=50, use_dictionary=False)
    first, second = ranges_of(path, ReadOptions(field="text"), 1000)
    assert 0 < first.size < second.size / 5
    assert first.size + second.size == path.stat().st_size


def test_what_is_packed_wide_or_one_document_stays_whole(tmp_path):
    text = "\n".join(json.dumps({"text": text}) for text in texts(100))
    for name, content in (
        ("a.jsonl.gz", gzip.compress(random.Random(0).randbytes(9000), mtime=0)),
        ("b.jsonl", gzip.compress(random.Random(0).randbytes(9000), mtime=0)),
        ("c.jsonl", text.encode("utf-16")),
        ("d.txt", text.encode()),
        ("e.json", f"[{text}]".encode()),
        ("f.parquet", b"PAR1" + bytes(5000)),
    ):
        (tmp_path / name).write_bytes(content)
        assert ranges_of(tmp_path / name, ReadOptions(), 500) == [], name


def test_a_file_without_the_field_is_refused_once_and_a_later_part_of_one_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n' * 100 + '{"other": "x"}\n' * 100)
    found, _, names = found_in(path, 300, field="text")
    assert len(found) == 100
    assert any("its part from" in name for name in names)
    with pytest.raises(InputError, match="no line has a field 'body'; its fields are: text"):
        found_in(path, 300, field="body")


def test_bad_bytes_in_any_range_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"text": "line %d %s"}\n' % (n, b"\xff" * (n == 70) + b"x" * 2000) for n in range(100)))
    source = TextFiles([path], how=ReadOptions(field="text"))
    found = [each for part in source.divided(source.parts()[0], 50_000) for each in source.read(part)]
    assert [each.name for each in found if isinstance(each, Skipped) or each.note] == ["a.jsonl, line 71"]
