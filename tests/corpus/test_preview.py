"""What a look at a corpus finds, held against reading all of it."""

import gzip
import io
import json
import random
import tarfile
import types
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt.corpus import beginnings
from gpt.corpus.documents import ReadOptions
from gpt.corpus.preview import Preview
from gpt.corpus.reading import Filters
from gpt.corpus.sources import TextFiles, Texts
from gpt.errors import InputError
from gpt.log import Progress

MEGABYTE = 1 << 20


def look(source, budget=4 * MEGABYTE, filters=None):
    return Preview(source, filters or Filters(), Progress(), budget)


@pytest.fixture(scope="module")
def texts():
    """Some 6 MB: 6,000 texts of other lengths."""
    rng = random.Random(0)
    words = [f"word{rng.randrange(10**6)}" for _ in range(20_000)]
    starts = [rng.randrange(len(words) - 200) for _ in range(6_000)]
    return [f"{n} " + " ".join(words[start : start + rng.randrange(10, 190)]) for n, start in enumerate(starts)]


def parquet(texts):
    file = io.BytesIO()
    table = pyarrow.table({"id": [*range(len(texts))], "text": texts})
    pyarrow.parquet.write_table(table, file, row_group_size=500)
    return file.getvalue()


def zipped(texts):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(0, len(texts), 10):
            archive.writestr(f"{number}.txt", marked(texts[number : number + 10]))
    return file.getvalue()


def tarred(texts):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, text in enumerate(texts):
            entry = tarfile.TarInfo(f"{number}.txt")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return file.getvalue()


def lines(texts):
    return "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in texts).encode()


def marked(texts):
    return "".join(f"{text}\n<|endoftext|>\n" for text in texts).encode()


KINDS = {
    "a.jsonl": lines,
    "a.jsonl.gz": lambda texts: gzip.compress(lines(texts), 1),
    "a.json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "a.csv": lambda texts: ("n,text\n" + "".join(f'1,"{text}"\n' for text in texts)).encode(),
    "a.parquet": parquet,
    "a.zip": zipped,
    "a.tar": tarred,
    "a.txt": marked,
    "a.txt.gz": lambda texts: gzip.compress(marked(texts), 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_part_of_a_large_file_tells_of_all_of_it(texts, tmp_path, name):
    """Within a twentieth, as texts are alike all over it; or a tenth of what is packed, and is unpacked far ahead."""
    (tmp_path / name).write_bytes(KINDS[name](texts))
    has_fields = name.split(".")[1] in ("jsonl", "json", "csv", "parquet")
    source = TextFiles([tmp_path / name], "text" if has_fields else None)
    budget = (tmp_path / name).stat().st_size // 4
    found = look(source, budget)
    near = 0.1 if name.endswith(".gz") else 0.05
    assert found.estimate("documents") == pytest.approx(len(texts), rel=near)
    assert found.estimate("text_bytes") == pytest.approx(sum(map(len, texts)), rel=near)
    assert not found.is_complete
    assert found.counts["read_bytes"] < 0.7 * found.bytes
    assert not found.examples


def test_a_large_text_is_one_document(texts, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(texts))
    found = look(TextFiles([tmp_path / "a.txt"]), budget=2 * MEGABYTE)
    assert found.estimate("documents") == found.counts["documents"] == 1
    assert found.estimate("characters") == pytest.approx(sum(map(len, texts)) + len(texts) - 1, rel=0.001)


@pytest.mark.parametrize("name", KINDS)
def test_of_a_small_corpus_all_is_read(texts, tmp_path, name):
    (tmp_path / name).write_bytes(KINDS[name](texts[:900]))
    has_fields = name.split(".")[1] in ("jsonl", "json", "csv", "parquet")
    found = look(TextFiles([tmp_path / name], "text" if has_fields else None))
    assert found.is_complete
    assert found.estimate("documents") == found.counts["documents"] == 900
    assert found.estimate("text_bytes") == found.counts["text_bytes"] == sum(map(len, texts[:900]))


def test_files_of_many_formats_are_reckoned_up_each_by_itself(texts, tmp_path):
    """As large as the texts is what is none."""
    for number in range(0, 3000, 10):
        (tmp_path / f"{number}.txt").write_text("\n".join(texts[number : number + 10]))
    rng = random.Random(1)
    for number in range(6):
        (tmp_path / f"{number}.bin").write_bytes(b"\0" + rng.randbytes(MEGABYTE // 2))
    found = look(TextFiles([tmp_path]), budget=3 * MEGABYTE // 2)
    assert found.formats == {".txt": 300, ".bin": 6}
    assert found.files == 306
    assert found.counts["read_files"] < 200
    assert found.estimate("documents") == pytest.approx(300, rel=0.05)
    assert found.estimate("text_bytes") == pytest.approx(sum(map(len, texts[:3000])), rel=0.1)
    again = look(TextFiles([tmp_path]), budget=3 * MEGABYTE // 2)
    assert again.counts == found.counts


def test_encodings_separators_duplicates_and_what_is_left_out_are_found(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("plain")
    (folder / "b.txt").write_text("Größe", encoding="utf-16")
    (folder / "c.txt").write_bytes("Größe und Maß ".encode("cp1252") * 9)
    (folder / "d.txt").write_text("plain")
    (folder / "e.txt").write_text("one\n<|endoftext|>\ntwo\n<|endoftext|>\nthree")
    (folder / "f.html").write_bytes('<meta charset="latin-1"><p>Größe</p>'.encode("latin-1") * 2)
    (folder / "g.bin").write_bytes(bytes(20))
    (folder / "h.txt.gz").write_bytes(gzip.compress(b"packed"))
    (folder / ".i").write_text("hidden")
    found = look(TextFiles([folder], how=ReadOptions(encoding="cp1252")))
    assert found.encodings == {"UTF-8": 3, "UTF-16-LE": 1, "CP1252": 1, "LATIN-1": 1}
    assert found.formats == {".txt": 5, ".html": 1, ".bin": 1, ".txt.gz": 1}
    assert (found.counts["documents"], found.counts["repeated"]) == (9, 1)
    assert [notice.kind for notice in found.notices] == ["divided files"]
    assert found.reasons == {"binary": 1, "hidden, or a directory of tools": 1}
    assert {left.name for left in found.examples.values()} == {"notes/g.bin", "notes/.i"}


def test_secrets_are_counted_and_placed_and_addresses_counted(tmp_path):
    key = "AKIA" + "Z" * 16
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"x\n{key} a@b.org"}) for _ in range(2)) * 2)
    texts = {str(number): f"{number}\n\n{key}, {number}@b.org" for number in range(5)}
    found = look(Texts(texts))
    assert found.secrets == {"AWS access key": 5}
    assert found.places == [f"AWS access key: {number}, line 3" for number in range(3)]
    assert found.counts["addresses"] == 5
    assert key not in str(vars(found).keys()) + str(found.places)


def test_what_preparing_would_end_with_is_told_and_the_rest_is_looked_at(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "b.txt").write_text("text")
    source = TextFiles([tmp_path / "a.jsonl", tmp_path / "b.txt"])
    with pytest.raises(InputError):
        [*source.read(source.parts()[0])]
    found = look(source)
    assert "`field`" in next(iter(found.examples.values())).reason
    assert found.counts["documents"] == 1


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_pipe_is_read_to_its_end_or_to_the_most_that_is_read(texts, monkeypatch, goes_on):
    monkeypatch.setattr(beginnings, "MOST_TEXT", MEGABYTE if goes_on else 20 * MEGABYTE)
    stdin = types.SimpleNamespace(buffer=io.BytesIO(lines(texts)), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    found = look(TextFiles([Path("-")], "text"), budget=20 * MEGABYTE)
    assert (found.goes_on, found.is_complete) == (goes_on, not goes_on)
    read = found.counts["documents"]
    assert 1000 < read < 3500 if goes_on else read == len(texts)
    assert found.estimate("documents") == read


def test_filters_are_applied(tmp_path):
    found = look(Texts({"a": "short", "b": "much longer"}), filters=Filters(min_characters=6))
    assert found.counts["documents"] == 1
    assert found.reasons == {"shorter than N characters": 1}


def test_texts_in_memory_are_looked_at_too(texts):
    found = look(Texts((str(number), text) for number, text in enumerate(texts)), budget=2 * MEGABYTE)
    assert found.counts["documents"] < 3000
    assert found.estimate("documents") == pytest.approx(len(texts), rel=0.05)


def test_a_text_of_which_the_beginning_is_read_is_as_large_as_its_file(tmp_path):
    """Also several of them, and those of records are as large as those that were read."""
    (tmp_path / "a.txt").write_text("some text " * 400_000)
    found = look(TextFiles([tmp_path / "a.txt"]), budget=1 << 20)
    assert not found.is_complete
    assert found.estimate("documents") == 1
    assert found.mean_bytes == pytest.approx(4_000_000, rel=0.01)
    (tmp_path / "b.txt").write_text("more text " * 400_000)
    found = look(TextFiles([tmp_path / "a.txt", tmp_path / "b.txt"]), budget=3 << 20)
    assert found.mean_bytes == pytest.approx(4_000_000, rel=0.01)
    (tmp_path / "c.jsonl").write_text("".join(f'{{"text": "{number:06} {"x" * 93}"}}\n' for number in range(40_000)))
    found = look(TextFiles([tmp_path / "c.jsonl"], field="text"), budget=1 << 20)
    assert not found.is_complete
    assert found.mean_bytes == pytest.approx(100, rel=0.01)
