"""Files are whole or not there; and what stands in files that others wrote must be a sentence, wherever it is read."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from gpt import files
from gpt.commands.train_options import _read_settings
from gpt.corpus.sources import Document, Skipped, TextFile, TextFiles
from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError
from gpt.files import (
    bring_back,
    clean_up,
    hash_ahead,
    inside,
    parse_json,
    read_json,
    remove_directory,
    sha256,
    told_apart,
    write_directory,
    write_whole,
)
from gpt.interop import huggingface, huggingface_tokenizer
from gpt.runs.directory import is_run, read_config
from gpt.runs.load import load_run, load_tokenizer
from gpt.text.tokenizer import Tokenizer
from gpt.tracking.jsonl import read_metrics

ODD = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "deep and closed": b'{"a":' * 400 + b"1" + b"}" * 400,
    "huge integer": b'{"version": ' + b"9" * 5000 + b"}",
    "twins": b'{"version": 1, "version": 2}',
    "a list": b"[]",
    "a string": b'"version"',
    "null": b"null",
    "a number": b"1e999",
    "not a number": b"NaN",
    "zeros": b"\0" * 100,
    "nothing": b"",
    "bad bytes": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a mark within": b'{"a":\xef\xbb\xbf 1}',
    "cut off": b'{"a": [1, 2',
    "two": b"{}{}",
    "empty object": b"{}",
    "odd types": b'{"version": {}, "config": [], "format": "gpt-run", "shards": 3, "model": 5, "n_layer": "x"}',
}


@pytest.fixture(params=ODD, ids=str)
def odd(request):
    return ODD[request.param]


@pytest.mark.parametrize("text", [b"[" * 100_000, b"9" * 5000, b"\xff", b"", b'{"a": 1', b"\0"])
def test_whatever_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_byte_order_mark_at_the_beginning_is_none_of_the_text():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == parse_json('\ufeff{"a": 1}') == {"a": 1}


def test_files_of_json_are_objects(tmp_path, odd):
    file = tmp_path / "x.json"
    file.write_bytes(odd)
    if odd in (ODD["empty object"], ODD["odd types"]):
        assert read_json(file) == json.loads(odd)
        return
    with pytest.raises(InputError, match=r"x\.json: cannot be read as JSON"):
        read_json(file)


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be read as a recipe .*; write one"):
            read_json(path, "a recipe", "write one")


def test_odd_files_of_a_run_are_sentences(tmp_path, odd):
    (tmp_path / "config.json").write_bytes(odd)
    (tmp_path / "tokenizer.json").write_bytes(odd)
    assert is_run(tmp_path) == (odd == ODD["odd types"])
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(InputError):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError):
        load_run(tmp_path)


def test_an_odd_line_of_metrics_is_left_out_where_it_is_the_last_and_else_a_sentence(tmp_path, odd):
    record = b'{"step": 1, "train_loss": 2.5}\n'
    odd = odd.replace(b"\n", b"")
    (tmp_path / "metrics.jsonl").write_bytes(record + odd)
    assert read_metrics(tmp_path) == [json.loads(record)]
    (tmp_path / "metrics.jsonl").write_bytes(record + odd + b"\n" + record)
    with pytest.raises(InputError, match="line 2: is no record"):
        read_metrics(tmp_path)


def test_odd_manifests_are_sentences(tmp_path, odd):
    Tokenizer.utf8_bytes().save(tmp_path / "tokenizer.json")
    (tmp_path / "manifest.json").write_bytes(odd)
    with pytest.raises(InputError, match=r"manifest\.json"):
        open_dataset(tmp_path)


def test_odd_lines_are_skipped_with_a_reason_and_the_others_are_read(tmp_path, odd):
    file = tmp_path / "x.jsonl"
    good = b'{"text": "good"}\n'
    file.write_bytes(b"\xef\xbb\xbf" + good + odd.replace(b"\n", b"") + b"\n\xef\xbb\xbf" + good + b"\n" + good)
    files = TextFiles([file], "text")
    found = [each for part in files.parts() for each in files.read(part)]
    assert [each.text for each in found if isinstance(each, Document)] == ["good"] * 3
    skipped = [each for each in found if isinstance(each, Skipped)]
    assert [each.name for each in skipped] == (["x.jsonl, line 2"] if odd else [])
    assert all(each.reason for each in skipped)


def test_odd_lines_before_the_first_good_one_do_not_hide_its_fields(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(ODD["deep list"] + b'\n{"title": 1}\n')
    with pytest.raises(InputError, match="its fields are: title"):
        list(TextFiles([file]).read(TextFile("x.jsonl", file)))


def test_odd_files_of_hugging_face_are_sentences(tmp_path, odd):
    (tmp_path / "config.json").write_bytes(odd)
    if odd == ODD["empty object"]:
        huggingface.read_config(tmp_path)  # GPT-2's own sizes
    else:
        with pytest.raises(InputError, match=r"config\.json"):
            huggingface.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_bytes(odd)
    with pytest.raises(InputError, match=r"index\.json"):
        huggingface.read_weights(tmp_path, huggingface.read_config(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(odd)
    with pytest.raises(InputError, match=r"tokenizer"):
        huggingface_tokenizer.read_tokenizer(tmp_path, 257)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_bytes(odd)
    (tmp_path / "merges.txt").write_bytes(odd)
    with pytest.raises(InputError):
        huggingface_tokenizer.read_tokenizer(tmp_path, 257)


@pytest.mark.parametrize("value", ['"12"', "1e300", "true", "[3]", "-1", "0", "99999999999999999999", "null", "NaN"])
def test_odd_sizes_in_their_config_are_sentences(tmp_path, value):
    for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon"):
        if key == "layer_norm_epsilon" and value in ("1e300", "99999999999999999999"):
            continue  # a number like any other
        (tmp_path / "config.json").write_text(f'{{"{key}": {value}}}')
        with pytest.raises(InputError, match=r"config\.json"):
            huggingface.read_config(tmp_path)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000, "a = {" * 5000, "\0", "a = 1\na = 2"])
def test_an_odd_toml_is_a_sentence(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InputError, match=r"x\.toml: is not TOML"):
        _read_settings(tmp_path / "x.toml")


# ---- names of files ----

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a/../b",
    "..\\x",
    "C:x",
    "C:\\x",
    "x\0",
    "x\n",
    "\x1b[2J",
    "x\x9b",
]
HOSTILE += ["\u202ex", "\ud800", "\\\\server\\share", "x:stream", 5, None, ["x"], True]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_stays_in_its_directory(tmp_path, name):
    with pytest.raises(InputError, match="no plain name"):
        inside(tmp_path, name)


def test_plain_names_are_taken_also_those_of_other_languages(tmp_path):
    for name in ("train-00000.bin", "x y.bin", "..x", "é漢🎉.bin", "-rf", "~", "$HOME"):
        assert inside(tmp_path, name) == tmp_path / name
    with pytest.raises(InputError, match="cannot be opened"):
        inside(tmp_path, "x" * 300)


def test_links_stay_in_the_directory_as_well(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    for place in (home / "there", other / "elsewhere"):
        place.write_text("x")
    (home / "within").symlink_to("there")
    (home / "out").symlink_to("../other/elsewhere")
    (home / "absolute").symlink_to(other / "elsewhere")
    (home / "twice").symlink_to("out")
    (home / "loop").symlink_to("loop")
    (home / "device").symlink_to("/dev/zero")
    (home / "directory").mkdir()
    assert inside(home, "within") == home / "within"
    (tmp_path / "link").symlink_to(home)  # the directory itself may lie anywhere
    assert inside(tmp_path / "link", "there").read_text() == "x"
    for name in ("out", "absolute", "twice", "loop", "device", "directory"):
        with pytest.raises(InputError, match="leads out|cannot be opened|not a regular file"):
            inside(home, name)


def test_the_layout_of_the_hubs_cache_is_inside(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "abc").write_text("x")
    (tmp_path / "secret").write_text("x")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "other").symlink_to("../../../secret")
    assert inside(snapshot, "model.safetensors").read_text() == "x"
    with pytest.raises(InputError, match="leads out"):
        inside(snapshot, "other")


@pytest.mark.parametrize("name", [name for name in HOSTILE if isinstance(name, str)], ids=repr)
def test_no_file_can_name_one_elsewhere(tmp_path, dataset, name):
    """A manifest's shards, and the index of a Hugging Face model."""
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    manifest["shards"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    dataset.tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="no plain name"):
        open_dataset(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(InputError, match="no plain name"):
        huggingface.read_weights(tmp_path, huggingface.read_config(tmp_path))


def fail(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, module, name):
    write_whole(tmp_path / "file", "old")
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    monkeypatch.undo()
    write_whole(tmp_path / "file", "n€w")
    assert (tmp_path / "file").read_bytes() == "n€w".encode()


def written(path, content):
    with write_directory(path) as partial:
        (partial / "file").write_text(content)
        assert path.exists() == (content == "new")


def test_a_directory_takes_the_place_of_another_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "[a]" / "directory"
    written(path, "old")
    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(OSError, match="No space left"):
        written(path, "new")
    monkeypatch.undo()
    assert (path / "file").read_text() == "old"
    written(path, "new")
    assert (path / "file").read_text() == "new"
    assert [file.name for file in path.parent.iterdir()] == ["directory"]


def test_a_directory_whose_replacement_never_came_gets_its_name_back(tmp_path):
    (tmp_path / ".a.replaced").mkdir()
    (tmp_path / ".b.replaced").mkdir()
    for leftover in ("b", ".b.partial", ".b.removed", ".other.partial"):
        (tmp_path / leftover).mkdir()
    for names in ("a", "b"):
        clean_up(tmp_path, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial", "a", "b"]


def test_what_a_crash_left_of_a_replacement_is_in_nobodys_way(tmp_path):
    written(tmp_path / "a", "old")
    (tmp_path / ".a.replaced").mkdir()
    (tmp_path / ".a.replaced" / "file").write_text("older")
    bring_back(tmp_path / "a")
    written(tmp_path / "a", "new")
    assert (tmp_path / "a" / "file").read_text() == "new"
    (tmp_path / "a").rename(tmp_path / ".a.replaced")
    bring_back(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_directory_is_removed_as_a_whole(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # killed
    remove_directory(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == [".a.removed"]


def test_another_version_is_named(tmp_path):
    file = tmp_path / "file.json"
    file.write_text('{"format": "gpt-thing", "version": 2}')
    assert read_json(file, format=("gpt-thing", 2))["version"] == 2
    with pytest.raises(InputError, match=r"file.json: is of version 2, and this program reads 3; look$"):
        read_json(file, "a thing", "look", ("gpt-thing", 3))
    for content in ("{}", '{"format": "gpt-thing"}', '{"format": "gpt-run", "version": 3}'):
        file.write_text(content)
        with pytest.raises(InputError, match=r"cannot be read as a thing \(it is no gpt-thing file\); look$"):
            read_json(file, "a thing", "look", ("gpt-thing", 3))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/x.txt", "/b/y.txt"], ["x.txt", "y.txt"]),
        (["/a/x.txt", "/b/x.txt", "/b/y.txt"], ["a/x.txt", "b/x.txt", "y.txt"]),
        (["/1/a/x.txt", "/2/a/x.txt", "/b/x.txt"], ["1/a/x.txt", "2/a/x.txt", "b/x.txt"]),
        (["/x.txt", "/a/x.txt"], ["/x.txt", "a/x.txt"]),
        (["/a/x.txt", "/a/../a/x.txt"], ["x.txt", "x.txt"]),  # one file, twice
        (["/a/x.txt", "/a/x.txt", "/b/x.txt"], ["a/x.txt", "a/x.txt", "b/x.txt"]),
    ],
)
def test_files_of_one_name_are_told_apart_by_their_directories(paths, names):
    assert told_apart([(Path(path).name, Path(path)) for path in paths]) == names
    inner = told_apart([("n/" + Path(path).name, Path(path).parent / "n" / Path(path).name) for path in paths])
    assert len(set(inner)) == len(set(names))


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that is large enough to be hashed ahead."""
    monkeypatch.setattr(files, "LARGE", 3)
    monkeypatch.setattr(files, "_AHEAD", {})
    path = tmp_path / "large"
    path.write_bytes(b"12345")
    return path


@pytest.mark.process
def test_what_was_hashed_ahead_is_not_hashed_again(large, monkeypatch):
    hash_ahead(large)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert sha256(large) == hashlib.sha256(b"12345").hexdigest()
    assert files._AHEAD == {}
    assert sha256(large) == hashlib.sha256(b"12345").hexdigest()  # which serves once


@pytest.mark.process
@pytest.mark.parametrize("replaces", [True, False])
def test_a_file_that_has_changed_since_is_hashed_anew(large, replaces):
    hash_ahead(large)
    next(iter(files._AHEAD.values())).wait()
    before = large.stat()
    if replaces:
        write_whole(large, "54321")
    else:
        large.write_bytes(b"54321")
        os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert sha256(large) == hashlib.sha256(b"54321").hexdigest()


@pytest.mark.process
@pytest.mark.parametrize("program", ["import sys; sys.exit(3)", "raise OSError"])
def test_a_process_that_could_not_hash_a_file_is_made_up_for(large, monkeypatch, program):
    monkeypatch.setattr(files, "HASHING", program)
    hash_ahead(large)
    assert sha256(large) == hashlib.sha256(b"12345").hexdigest()


def test_no_process_is_started_for_a_small_file_or_none(large):
    large.write_bytes(b"12")
    hash_ahead(large)
    hash_ahead(large.with_name("missing"))
    assert files._AHEAD == {}
    with pytest.raises(FileNotFoundError):
        sha256(large.with_name("missing"))
