"""Of which document of the input each document of a dataset was made, held against the texts themselves."""

import json
import random
import shutil
from dataclasses import replace

import pytest

from gpt.corpus import slices
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.documents import Document
from gpt.corpus.origins import Names, Origins, has_ledger
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles
from gpt.dataset.documents import Documents
from gpt.errors import InputError


def words(rng, count):
    return " ".join(f"word{rng.randrange(5000)}" for _ in range(count))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Files in several slices: texts of which long ones are divided, records, repetitions, and what is no text."""
    home, rng = tmp_path_factory.mktemp("home"), random.Random(0)
    folder = home / "notes"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.txt").write_text(words(rng, rng.choice([50, 300, 6000])))
    (folder / "07b.txt").write_bytes((folder / "07.txt").read_bytes())
    (folder / "12.bin").write_bytes(bytes(range(256)))
    lines = [json.dumps({"text": words(rng, 60)}) for _ in range(200)]
    lines[50:52] = [lines[3], '{"text": ""}']
    (folder / "20.jsonl").write_text("\n".join(lines))
    source = TextFiles([folder], field="text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "LEAST_BYTES", 1 << 15)
        dataset = prepare(source, SplitByContent(), "bytes", home / "d", {"name": "files"})
    texts = {
        found.name: found.text for part in source.parts() for found in source.read(part) if isinstance(found, Document)
    }
    assert len(dataset.shards) > 6
    return dataset, texts


def written(dataset, split):
    """The texts of a split's documents, in order."""
    documents = Documents(getattr(dataset, split), dataset.tokenizer)
    return ["".join(documents.text(documents.span(number))) for number in range(documents.count())]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("order", ["forwards", "backwards", "mixed"])
def test_each_document_is_a_part_of_the_one_that_is_named(prepared, split, order):
    dataset, texts = prepared
    found, origins = written(dataset, split), Origins(dataset)
    numbers = [*range(len(found))]
    random.Random(1).shuffle(numbers) if order == "mixed" else numbers.sort(reverse=order == "backwards")
    names = {number: origins.of(split, number) for number in numbers}
    assert all(found[number] in texts[name] for number, name in names.items())
    assert len(set(names.values())) > 10
    assert any(name.startswith("notes/20.jsonl, line ") for name in names.values())
    with pytest.raises(InputError, match=f"has no document {len(found):,} of {split}, and the shards do; prepare"):
        origins.of(split, len(found))


def test_numbers_in_order_read_each_part_of_the_ledger_once(prepared, monkeypatch):
    from gpt.corpus import origins as module

    dataset, _ = prepared
    read, honest = [], module.read_ledger
    monkeypatch.setattr(module, "read_ledger", lambda path, part: (read.append(part), honest(path, part))[1])
    origins, count = Origins(dataset), len(written(dataset, "train"))
    for number in range(count):
        origins.of("train", number)
    assert len(read) == len(set(read)) > 3
    read.clear()
    Origins(dataset).of("train", count - 1)
    assert len(read) == 1


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("slices.json", "slices.json: cannot be read, or is damaged; prepare the dataset again"),
        ("ledger.jsonl.gz", "ledger.jsonl.gz: is damaged ("),
    ],
)
def test_what_is_damaged_is_said_once_and_documents_go_without_names(prepared, tmp_path, said, file, reason):
    dataset = replace(prepared[0], path=tmp_path / "d")
    shutil.copytree(prepared[0].path, dataset.path)
    content = (dataset.path / file).read_bytes()
    (dataset.path / file).write_bytes(content[: len(content) // 2] + bytes(4) + content[len(content) // 2 + 4 :])
    names = Names(dataset)
    found = [names("train", number) for number in range(len(written(dataset, "train")))]
    assert found[-1] == ""
    (line,) = said
    assert reason in line and "documents are shown without the names" in line


def test_what_does_not_belong_together_is_not_used(prepared):
    dataset, _ = prepared
    with pytest.raises(InputError, match="slices.json: is of other shards than manifest.json; prepare"):
        Origins(replace(dataset, shards=dataset.shards[::-1]))
    assert has_ledger(dataset.path)
    assert not has_ledger(dataset.path.parent)
    assert Names(replace(dataset, path=dataset.path.parent))("train", 0) == ""
