import hashlib
import json
import zipfile

import pytest

from gpt import InputError
from gpt.evaluation.tasks.files import hashes, records

ROWS = [{"text": "né 1"}, {"text": "b 2"}]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(rows), encoding="utf-8")
    return path


def test_lines_are_records_and_empty_ones_are_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\ufeff" + lines(ROWS[:1]) + "\n" + lines(ROWS[1:]), encoding="utf-8")
    assert [*records(path)] == [(f"{path}, line 1", ROWS[0]), (f"{path}, line 3", ROWS[1])]
    assert hashes(path) == [(str(path), hashlib.sha256(path.read_bytes()).hexdigest())]


def test_parquet_gives_the_same_records(tmp_path):
    reason = "pyarrow is not installed (the extra `data`)"
    pyarrow, parquet = (pytest.importorskip(name, reason=reason) for name in ("pyarrow", "pyarrow.parquet"))
    rows = [{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [*records(tmp_path / "a.parquet")] == [(f"{tmp_path / 'a.parquet'}, row 1", rows[0])]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="b.parquet: cannot be read as Parquet"):
        [*records(tmp_path / "b.parquet")]


def test_an_archive_is_read_in_the_order_of_names_without_what_macos_adds(tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/b.jsonl", lines(ROWS[1:]))
        archive.writestr("data/a.jsonl", lines(ROWS[:1]))
        archive.writestr("__MACOSX/data/._a.jsonl", b"\x00\x05\x16")
    assert [fields for _, fields in records(path)] == ROWS
    assert [place for place, _ in records(path)][1] == f"{path}, data/b.jsonl, line 1"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read as a ZIP archive"):
        [*records(path)]


def test_a_directory_has_one_hash_of_what_sha256sum_prints(tmp_path):
    write(tmp_path / "b" / "two.jsonl", ROWS[1:])
    write(tmp_path / "a.jsonl", ROWS[:1])
    (tmp_path / "notes.txt").write_text("no rows")
    assert [fields for _, fields in records(tmp_path)] == ROWS
    named = [(lines(ROWS[:1]), "a.jsonl"), (lines(ROWS[1:]), "b/two.jsonl")]
    printed = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for text, name in named)
    assert hashes(tmp_path) == [(str(tmp_path), hashlib.sha256(printed.encode()).hexdigest())]


def test_labels_beside_the_questions_belong_to_them(tmp_path):
    path = write(tmp_path / "valid.jsonl")
    labels = tmp_path / "valid-labels.lst"
    labels.write_text("1\n0\n")
    assert [fields["label"] for _, fields in records(path)] == ["1", "0"]
    assert [name for name, _ in hashes(path)] == [str(path), str(labels)]
    labels.write_text("1\n")
    with pytest.raises(InputError, match="has 1 labels, and .*valid.jsonl 2 rows"):
        [*records(path)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: is no JSON"),
        (b'{"text": "a"}\n["b"]\n', "a.jsonl, line 2: is no JSON object"),
        (b'{"text": "\xff"}\n', "a.jsonl, line 1: is no JSON .*utf-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, complaint):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        [*records(tmp_path / "a.jsonl")]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        [*records(tmp_path / "no.jsonl")]
    with pytest.raises(InputError, match="no file that ends in .jsonl or .parquet"):
        [*records(tmp_path)]
