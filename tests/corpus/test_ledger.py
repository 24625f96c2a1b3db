"""The ledger and the report, held against sums that are counted from the input as it was written, and from shards."""

import gzip
import json
import random
from collections import Counter

import pytest

from gpt.corpus import slices
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.documents import ReadOptions
from gpt.corpus.ledger import read_ledger
from gpt.corpus.origins import Origins
from gpt.corpus.pipeline import prepare
from gpt.corpus.reading import Filters
from gpt.corpus.sources import TextFiles
from gpt.dataset.documents import Documents

SHORT = "too short"


def words(seed, count=300):
    rng = random.Random(seed)
    return " ".join(f"word{rng.randrange(5000)}" for _ in range(count))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of known texts, all ASCII: what was prepared of it, the texts by document, and what else files hold."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "notes"
    folder.mkdir()
    texts, others = {}, {}

    def file(name, content, documents, other):
        (folder / name).write_bytes(content)
        texts.update({f"notes/{name}{end}": text for end, text in documents.items()})
        others[f"notes/{name}"] = other

    for number in range(20):
        file(f"{number:02}.txt", words(number).encode(), {"": words(number)}, 0)
    file("a-mark.txt", b"\xef\xbb\xbf" + words("mark").encode(), {"": words("mark")}, 3)
    lines = words("lines").replace(" ", "\n")
    file("b-lines.txt", lines.replace("\n", "\r\n").encode(), {"": lines}, lines.count("\n"))
    packed = gzip.compress(words("packed").encode())
    file("c-packed.txt.gz", packed, {"": words("packed")}, len(packed) - len(words("packed")))
    rows = [words(f"row {number}", 40) for number in range(50)] + [SHORT]
    content = "".join(json.dumps({"n": 1, "text": row}) + "\n" for row in rows) + "{broken\n"
    around = len('{"n": 1, "text": ""}\n') * len(rows) + len("{broken\n")
    file("d-rows.jsonl", content.encode(), {f", line {line}": row for line, row in enumerate(rows, 1)}, around)
    file("e-copy.txt", words(3).encode(), {"": words(3)}, 0)
    near = f"Another header\n{words(5)}"  # of a text that validates, so that it is dropped
    file("f-near.txt", near.encode(), {"": near}, 0)
    file("g-binary.bin", bytes(100), {}, 100)
    (home / "held.txt").write_text(words(5))
    texts["held.txt"], others["held.txt"] = words(5), 0
    source = TextFiles([folder], field="text", validation=[home / "held.txt"])
    split, filters = SplitByContent(overlap="drop"), Filters(min_characters=20)
    dataset = prepare(source, split, "bytes", home / "d", {"name": "files"}, filters)
    sizes = {f"notes/{path.name}": path.stat().st_size for path in folder.iterdir()}
    report = json.loads((home / "d" / "report.json").read_text())
    return dataset, texts, others, sizes | {"held.txt": len(words(5))}, report


@pytest.fixture(scope="module")
def kept(written):
    """Characters that are in the shards, by what the documents were made of."""
    dataset, found = written[0], Counter()
    origins = Origins(dataset)
    for split in (dataset.train, dataset.validation):
        documents = Documents(split, dataset.tokenizer)
        for number in range(documents.count()):
            found[origins.of(split.name, number)] += len("".join(documents.text(documents.span(number))))
    return found


def test_documents_and_what_is_none_add_up_to_every_file(written):
    """Both are known beforehand; the ledger's sums have no say in them."""
    dataset, texts, others, sizes, _ = written
    entries = list(read_ledger(dataset.path))
    documents = {entry["document"]: entry["bytes"] for entry in entries if "document" in entry}
    wanted = {name: len(text) for name, text in texts.items()}
    assert documents == wanted | {"notes/g-binary.bin": 0, "notes/d-rows.jsonl, line 52": 0}
    assert {entry["source"]: entry["other"] for entry in entries if "source" in entry} == others
    assert sum(wanted.values()) + sum(others.values()) == sum(sizes.values())
    assert {entry["source"]: entry["bytes"] for entry in entries if "source" in entry} == sizes


def test_all_that_was_read_is_kept_in_the_shards_or_has_a_reason(written, kept):
    dataset, texts, _, _, report = written
    left_out = dropped = 0
    for entry in read_ledger(dataset.path):
        if "document" in entry and "reason" in entry:
            lost = entry.get("dropped_characters")
            dropped += lost or 0
            left_out += 0 if lost else entry["bytes"]  # a byte each
            assert kept[entry["document"]] == (len(texts[entry["document"]]) - lost if lost else 0)
    assert left_out == len(SHORT) + len(words(3)) + len(words(5))  # 05.txt repeats what validates
    assert dropped > 0
    assert report["characters"] == {"read": sum(map(len, texts.values())), "kept": sum(kept.values())}
    assert report["characters"]["read"] == report["characters"]["kept"] + left_out + dropped


def test_the_report_has_the_share_of_each_source_in_what_was_kept(written, kept):
    _, _, _, sizes, report = written
    by_source = Counter()
    for name, characters in kept.items():
        by_source[name.partition(", line ")[0]] += characters
    total = sum(by_source.values())
    named = report["sources"]
    assert len(named) == 20
    assert {name: found["characters_kept"] for name, found in named.items()} == dict(by_source.most_common(20))
    assert {name: found["bytes_read"] for name, found in named.items()} == {name: sizes[name] for name in named}
    for name, found in named.items():
        assert found["share"] == pytest.approx(by_source[name] / total, abs=1e-6)
    assert report["documents"]["kept"] == len(kept)
    assert report["documents"]["read"] == 20 + 3 + 51 + 2 + 1


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_the_entries_of_a_file_that_was_divided_add_up_to_it(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(slices, "LEAST_BYTES", 1 << 14)
    texts, file = [words(number) for number in range(60)], tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=10)
    else:
        lines = [json.dumps({"text": text}) for text in texts]
        file.write_text("\n###\n".join(texts) if suffix == ".txt" else "\n".join(lines))
    is_text = suffix == ".txt"
    how = ReadOptions(field=None if is_text else "text", separator="\\n###\\n" if is_text else "auto")
    dataset = prepare(TextFiles([file], how=how), SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
    entries = list(read_ledger(dataset.path))
    files = [entry for entry in entries if "source" in entry]
    assert len(files) > 3
    assert sum(entry["bytes"] for entry in files) == file.stat().st_size
    assert sum(entry["bytes"] for entry in entries if "document" in entry) == sum(map(len, texts))
    others = {".txt": 59 * 5, ".jsonl": 60 * len('{"text": ""}\n') - 1}
    assert sum(entry["other"] for entry in files) == others.get(suffix, file.stat().st_size - sum(map(len, texts)))
