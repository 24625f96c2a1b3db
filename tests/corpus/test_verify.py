"""Damage to what lies beside the shards: named by file, with reason and remedy."""

import json
import random
import re
import shutil

import pytest
from damage import cut_short, rewritten
from helpers import in_process

from gpt.__main__ import main as gpt_main
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import Texts
from gpt.corpus.verify import verify_records

FILES = ["report.json", "slices.json", "ledger.jsonl.gz", "split.json", "split.keys"]
REMEDY = "; prepare the dataset again with its recipe, or restore the file"


def made(path, seed):
    rng = random.Random(seed)
    texts = {f"{n}.txt": " ".join(f"word{rng.randrange(999)}" for _ in range(200)) for n in range(20)}
    prepare(Texts(texts), SplitByContent(), "bytes", path, {"name": "files"})
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sound") / "own", 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return made(tmp_path_factory.mktemp("other") / "own", 1)


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "copy")


def faults(path):
    return [str(fault) for fault in verify_records(path)]


def removed(file, rng):
    file.unlink()


def a_directory(file, rng):
    file.unlink()
    file.mkdir()


@rewritten
def lengthened(content, rng):
    content += b"x\n\0"


@rewritten
def a_byte_changed(content, rng):
    place = content.index(b'"corpus_fingerprint": "') + 25 if b"corpus_fingerprint" in content else len(content) // 2
    content[place] = ord("1") if content[place] != ord("1") else ord("2")


def test_what_is_sound_has_no_faults(sound):
    assert {file.name for file in sound.iterdir()} >= set(FILES)
    assert faults(sound) == []


@pytest.mark.parametrize("damage", [removed, a_directory, cut_short, lengthened, a_byte_changed])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_with_path_reason_and_remedy(copy, name, damage):
    damage(copy / name, random.Random(0))
    (fault,) = faults(copy)
    assert re.search(rf"{re.escape(str(copy / name))}\b.*: (is|has|cannot|its)\b", fault), fault
    assert fault.endswith(REMEDY)
    assert damage is not removed or fault.endswith(f"{name}: is missing{REMEDY}")


@pytest.mark.parametrize("name", ["report.json", "slices.json", "ledger.jsonl.gz", "split.json"])
def test_a_file_of_another_dataset_is_named(copy, other, name):
    shutil.copy(other / name, copy / name)
    (fault,) = faults(copy)
    assert str(copy / name) in fault
    assert fault.endswith(REMEDY)


def test_how_the_text_was_divided_is_missed_also_where_both_files_of_it_are_gone(copy):
    (copy / "split.json").unlink()
    (copy / "split.keys").unlink()
    assert faults(copy) == [f"{copy / name}: is missing{REMEDY}" for name in ("split.json", "split.keys")]


def test_a_file_that_holds_together_and_is_another_one_is_named(copy):
    content = json.loads((copy / "slices.json").read_text())
    (copy / "slices.json").write_text(json.dumps(content | {"inputs": "others"}))
    assert faults(copy) == [f"{copy / 'slices.json'}: its SHA-256 is not the one in manifest.json{REMEDY}"]


def test_another_fingerprint_in_the_manifest_is_named(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"corpus_fingerprint": "1" * 64}))
    assert faults(copy) == [
        f"{copy / 'report.json'}: its corpus fingerprint is not the one in manifest.json; "
        "prepare the dataset again with its recipe, or restore the file"
    ]


def test_older_datasets_and_those_of_others_need_none_of_it(copy):
    for name in FILES:
        (copy / name).unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["corpus_fingerprint"], manifest["records"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert faults(copy) == []
    (copy / "manifest.json").unlink()
    assert faults(copy) == []


def test_the_command_says_it_and_ends_with_1(copy, tmp_path):
    (copy / "ledger.jsonl.gz").write_bytes(b"")
    (copy / "split.keys").unlink()
    code, output, errors = in_process(lambda: gpt_main(["data", "verify", str(copy)]), tmp_path)
    assert code == 1
    assert output.count(" ok\n") == 2
    assert "error: " in errors and "ledger.jsonl.gz: is damaged" in errors and "split.keys: is missing" in errors
    assert errors.endswith("copy: its shards are well, and what lies beside them is not\n")
    assert "all is well" not in errors
