"""The recipes of remote corpora, from the command to the dataset, over a server that breaks HTTP in every way."""

import hashlib
import io
import json
import random
import re
from dataclasses import replace
from unittest import mock

import pyarrow
import pyarrow.parquet
import pytest
import web as faulty
from helpers import refused, run_gpt, run_here
from web import put_on_hub

from gpt.corpus.download import bytes_in_words
from gpt.corpus.recipes import fineweb, openwebtext, shakespeare, tinystories
from gpt.dataset.dataset import open_dataset

WORDS = ["a boat came", "over the sea", "and nobody knew", "why", "its captain sang", "all night", "of home"]


def stories(seed, count):
    """Texts that differ from each other."""
    rng = random.Random(seed)
    return [f"{seed}.{number}: {' '.join(rng.choices(WORDS, k=5))}." for number in range(count)]


def parquet(texts):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": [str(n) for n in range(len(texts))], "text": texts}), file)
    return file.getvalue()


def marked(texts):
    return "".join(f"{text}\n<|endoftext|>\n" for text in texts).encode()


OWT = {f"plain_text/train-{number:05}-of-00003.parquet": parquet(stories(number, 60)) for number in range(3)}
TINY = {
    "TinyStoriesV2-GPT4-train.txt": marked(stories(10, 60)),
    "TinyStoriesV2-GPT4-valid.txt": marked(stories(11, 9) + stories(10, 2)),
    "TinyStories-train.txt": marked(stories(12, 60)),
    "TinyStories-valid.txt": marked(stories(13, 9)),
    "README.md": b"about it",
}
WEB = {f"sample/10BT/{number:03}_00000.parquet": parquet(stories(20 + number, 60)) for number in range(2)}
WEB |= {"sample/100BT/000_00000.parquet": parquet(stories(30, 120))}
EDU = {"sample/10BT/000_00000.parquet": parquet(stories(40, 120))}
PLAY = " ".join(stories(50, 60)).encode()

SPOILT = {
    "tinystories": "TinyStoriesV2-GPT4-train.txt",
    "openwebtext": "train-00001-of-00003.parquet",
    "fineweb": "000_00000.parquet",
    "shakespeare": "tinyshakespeare.txt",
}
OPTIONS = dict.fromkeys(SPOILT, ("--tokenizer", "bytes"))
OPTIONS["openwebtext"] += ("--validation-share", "0.2")
OPTIONS["fineweb"] += ("--validation-share", "0.2")


@pytest.fixture
def hub(web, monkeypatch):
    """A hub with all corpora, each at the commit that is built in."""
    put_on_hub(web, tinystories.REPOSITORY, TINY, tinystories.COMMIT)
    put_on_hub(web, openwebtext.REPOSITORY, OWT, openwebtext.COMMIT)
    put_on_hub(web, "HuggingFaceFW/fineweb", WEB, fineweb.COMMITS["HuggingFaceFW/fineweb"])
    put_on_hub(web, "HuggingFaceFW/fineweb-edu", EDU, fineweb.COMMITS["HuggingFaceFW/fineweb-edu"])
    web.files["/input/tinyshakespeare.txt"] = PLAY
    url, digest = web.url("/input/tinyshakespeare.txt"), hashlib.sha256(PLAY).hexdigest()
    file = replace(shakespeare.FILE, url=url, size=len(PLAY), sha256=digest)
    monkeypatch.setattr(shakespeare, "FILE", file)
    return web


def prepared(home, name, *options):
    """The dataset that a recipe writes."""
    run_here("data/prepare.py", name, *OPTIONS[name], *options, cwd=home)
    out = "fineweb-edu" if "--edu" in options else name
    return open_dataset(home / "data" / out)


def documents(dataset, name):
    split = getattr(dataset, name)
    text = dataset.tokenizer.decode(split.read(0, split.tokens).tolist())
    return [document.strip() for document in text.split("<|endoftext|>") if document.strip()]


def short_files(home):
    """What looks like a downloaded file, and is none of those on the server."""
    whole = {hashlib.sha256(content).hexdigest() for content in [*OWT.values(), *TINY.values(), *WEB.values(), PLAY]}
    found = [path for path in (home / "data" / ".downloads").rglob("*") if path.is_file() and path.name[0] != "."]
    named = [path for path in found if path.suffix != ".sha256"]
    return [path.name for path in named if hashlib.sha256(path.read_bytes()).hexdigest() not in whole]


# ---- undisturbed ----


def test_tinystories_validates_with_its_own_file(hub, tmp_path):
    dataset = prepared(tmp_path, "tinystories")
    assert documents(dataset, "train") == stories(10, 60)[2:]  # without those that are in the other, too
    assert documents(dataset, "validation") == [*stories(11, 9), *stories(10, 2)]
    assert dataset.recipe == {
        "name": "tinystories",
        "tokenizer": "bytes",
        "version": "v2",
        "overlap": "move",
        "repository": "roneneldan/TinyStories",
        "revision": tinystories.COMMIT,
    }
    dataset = prepared(tmp_path, "tinystories", "--version", "v1", "--replace")
    assert documents(dataset, "train") == stories(12, 60)
    assert documents(dataset, "validation") == stories(13, 9)


TOLD = [
    " ".join(f"word{random.Random(f'{story} {word}').randrange(5000)}" for word in range(80)) for story in range(40)
]
NEAR = {
    "another header": f"Chapter one.\n{TOLD[0]}",
    "one word changed": TOLD[1].replace(" ", " other ", 1),
    "line endings": TOLD[2].replace(" ", "\r\n"),
    "capitals": TOLD[3].upper(),
    "quoted": f"{TOLD[8]} {TOLD[4][: len(TOLD[4]) // 2]} {TOLD[9]}",
}


def overlapping(hub, train):
    """The hub has TinyStories whose training file holds these, and whose other one has the first eight."""
    files = {"TinyStoriesV2-GPT4-train.txt": marked(train), "TinyStoriesV2-GPT4-valid.txt": marked(TOLD[:8])}
    put_on_hub(hub, tinystories.REPOSITORY, TINY | files, tinystories.COMMIT)


@pytest.mark.parametrize("overlap", ["move", "drop"])
def test_tinystories_leaves_out_what_is_too_much_like_its_validation_file(hub, tmp_path, overlap):
    overlapping(hub, [*TOLD[10:], *NEAR.values(), TOLD[5]])
    dataset = prepared(tmp_path, "tinystories", "--overlap", overlap)
    assert documents(dataset, "train")[:30] == TOLD[10:]
    rest = "".join(documents(dataset, "train")[30:])
    assert rest in NEAR["quoted"]  # what stands around the quotation
    assert TOLD[4][:40] not in rest
    assert documents(dataset, "validation") == TOLD[:8]  # nothing is moved there
    report = json.loads((dataset.path / "report.json").read_text())["overlap"]
    assert (report["dropped"], report["moved"], report["returned"]) == (len(NEAR), 0, 0)
    assert report["before"] > 0.5
    assert report["after"] < 0.01
    left_out = run_gpt(tmp_path, "data", "show", dataset.path, "--dropped")
    assert left_out.count("shares its 13-grams with validation") == len(NEAR)
    assert left_out.count("the same content as") == 1


def test_tinystories_keeps_and_reports_what_is_like_its_validation_file_where_that_is_asked(hub, tmp_path):
    overlapping(hub, [*TOLD[10:], *NEAR.values(), TOLD[5]])
    dataset = prepared(tmp_path, "tinystories", "--overlap", "report")
    assert len(documents(dataset, "train")) == len(TOLD[10:]) + len(NEAR)
    report = json.loads((dataset.path / "report.json").read_text())["overlap"]
    assert (report["dropped"], report["left"]) == (0, len(NEAR))
    assert report["after"] == report["before"] > 0.5


def test_tinystories_of_one_template_stay_unless_they_are_to_be_dropped(hub, tmp_path):
    overlapping(hub, [f"{TOLD[0]} It was number {number}." for number in range(60)] + TOLD[10:14])
    complaint = refused("data/prepare.py", "tinystories", "--tokenizer", "bytes", "--overlap", "drop", cwd=tmp_path)
    assert complaint.endswith("as texts do that are made from a template; give --overlap report, which keeps it\n")
    output = run_here("data/prepare.py", "tinystories", "--tokenizer", "bytes", cwd=tmp_path)
    assert "60 passages of training share more than 10% with validation" in output
    dataset = open_dataset(tmp_path / "data" / "tinystories")
    assert len(documents(dataset, "train")) == 64


def test_openwebtext_is_all_files_or_the_first(hub, tmp_path):
    dataset = prepared(tmp_path, "openwebtext")
    assert dataset.recipe["files"] == 3
    both = documents(dataset, "train") + documents(dataset, "validation")
    assert sorted(both) == sorted(stories(0, 60) + stories(1, 60) + stories(2, 60))
    dataset = prepared(tmp_path, "openwebtext", "--files", "2", "--replace")
    assert (dataset.recipe["files"], dataset.recipe["revision"]) == (2, openwebtext.COMMIT)
    assert sorted(documents(dataset, "train") + documents(dataset, "validation")) == sorted(
        stories(0, 60) + stories(1, 60)
    )
    assert refused("data/prepare.py", "openwebtext", "--files", "0", cwd=tmp_path) == (
        "error: --files is 0; it must be at least 1\n"
    )


@pytest.mark.parametrize(
    ("options", "expected", "recorded"),
    [
        ((), stories(20, 60) + stories(21, 60), ("HuggingFaceFW/fineweb", "10BT", 2)),
        (("--sample", "100BT"), stories(30, 120), ("HuggingFaceFW/fineweb", "100BT", 1)),
        (("--edu", "--files", "9"), stories(40, 120), ("HuggingFaceFW/fineweb-edu", "10BT", 1)),
    ],
)
def test_fineweb_is_a_sample_by_its_name(hub, tmp_path, options, expected, recorded):
    dataset = prepared(tmp_path, "fineweb", *options)
    assert sorted(documents(dataset, "train") + documents(dataset, "validation")) == sorted(expected)
    assert tuple(dataset.recipe[key] for key in ("repository", "sample", "files")) == recorded
    assert dataset.recipe["revision"] == fineweb.COMMITS[recorded[0]]


def test_shakespeare_is_downloaded_once(hub, tmp_path):
    dataset = prepared(tmp_path, "shakespeare")
    assert documents(dataset, "train") + documents(dataset, "validation") != []
    assert "".join(documents(dataset, "train") + documents(dataset, "validation")).replace(" ", "") == (
        PLAY.decode().replace(" ", "")
    )
    assert prepared(tmp_path, "shakespeare").fingerprint == dataset.fingerprint
    assert len(hub.requests) == 1


def test_preparing_again_needs_no_network_and_another_revision_does(hub, tmp_path, monkeypatch):
    first = prepared(tmp_path, "openwebtext", "--files", "2")
    count = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert prepared(tmp_path, "openwebtext", "--files", "2").fingerprint == first.fingerprint
    assert len(hub.requests) == count
    complaint = refused("data/prepare.py", "openwebtext", "--revision", "main", cwd=tmp_path)
    assert "HF_HUB_OFFLINE forbids" in complaint
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    put_on_hub(hub, openwebtext.REPOSITORY, {"plain_text/new.parquet": parquet(stories(5, 120))}, "f" * 40)
    dataset = prepared(tmp_path, "openwebtext", "--revision", "main", "--replace")
    assert dataset.recipe["revision"] == "f" * 40
    assert sorted(documents(dataset, "train") + documents(dataset, "validation")) == sorted(stories(5, 120))


def test_what_will_be_downloaded_is_said(hub, tmp_path):
    output = run_here("data/prepare.py", "tinystories", *OPTIONS["tinystories"], cwd=tmp_path)
    size = sum(len(TINY[f"TinyStoriesV2-GPT4-{part}.txt"]) for part in ("train", "valid"))
    directory = f"data/.downloads/roneneldan--TinyStories/{tinystories.COMMIT}"
    assert f"downloading 2 of 2 files, {size / 1000:.1f} kB, to {directory}\n" in output


@pytest.mark.parametrize("name", SPOILT)
def test_a_dry_run_says_what_would_be_downloaded_and_writes_nothing(hub, tmp_path, name):
    output = run_here("data/prepare.py", name, *OPTIONS[name], "--dry-run", cwd=tmp_path)
    files = {
        "tinystories": {path: TINY[path] for path in ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt")},
        "openwebtext": OWT,
        "fineweb": {path: content for path, content in WEB.items() if "/10BT/" in path},
        "shakespeare": {"tinyshakespeare.txt": PLAY},
    }[name]
    size = sum(map(len, files.values()))
    assert re.search(
        rf"^download +{len(files)} of {len(files)} files, {bytes_in_words(size)}, to data/\.downloads", output
    )
    for path, content in files.items():
        assert re.search(rf"^ +{path.rpartition('/')[2]}: {bytes_in_words(len(content))}$", output, re.MULTILINE)
    assert "what is in them is known once they are here" in output
    assert not [*tmp_path.iterdir()]
    assert not [path for path, _ in hub.requests if "/resolve/" in path or "/input/" in path]


def test_a_dry_run_looks_at_what_was_downloaded(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("gpt.training.forecast.Forecast.seconds", lambda self: (60.0, 6.0))
    run_here("data/prepare.py", "openwebtext", *OPTIONS["openwebtext"], "--files", "2", cwd=tmp_path)
    before, count = sorted(tmp_path.rglob("*")), len(hub.requests)
    output = run_here(
        "data/prepare.py", "openwebtext", *OPTIONS["openwebtext"], "--files", "2", "--dry-run", cwd=tmp_path
    )
    assert re.search(r"^found +2 files, .*: \.parquet 2$", output, re.MULTILINE)
    assert re.search(r"^documents +120, of ", output, re.MULTILINE)
    assert len(hub.requests) == count
    output = run_here("data/prepare.py", "openwebtext", *OPTIONS["openwebtext"], "--dry-run", cwd=tmp_path)
    assert re.search(r"^download +1 of 3 files, ", output, re.MULTILINE)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["openwebtext", "fineweb"])
def test_what_reads_parquet_is_missed_before_anything_is_asked_for(hub, tmp_path, name):
    with mock.patch.dict("sys.modules", {"pyarrow": None, "pyarrow.parquet": None}):
        complaint = refused("data/prepare.py", name, *OPTIONS[name], cwd=tmp_path)
    assert "this corpus is in Parquet; install what reads it: pip install 'gpt[data]'" in complaint
    assert hub.requests == []


# ---- over a server that breaks HTTP ----

COMPLETED = {
    "nothing": [],
    "dropped": [faulty.drop],
    "dropped, 200 instead of 206": [faulty.drop, faulty.whole],
    "dropped, a changed ETag": [faulty.drop, faulty.renamed],
    "dropped, 206 of another ETag": [faulty.drop, faulty.other_version],
    "429 and 503": [faulty.busy, faulty.down],
}
REFUSED = {
    "a wrong length": (faulty.short, "and should have"),
    "too much": (faulty.long, "and should have"),
    "a wrong hash": (faulty.corrupt, "its SHA-256 is"),
    "a page": (faulty.page, "text/html"),
    "another scheme": (faulty.to_another_scheme, "is followed to https alone"),
}


@pytest.fixture(scope="module")
def fingerprints():
    """Of the datasets that each recipe wrote first, by its name."""
    return {}


@pytest.mark.parametrize("fault", COMPLETED)
@pytest.mark.parametrize("name", SPOILT)
def test_each_recipe_completes_what_it_can(hub, tmp_path, fingerprints, name, fault):
    hub.spoilt, hub.faults[:] = SPOILT[name], COMPLETED[fault]
    dataset = prepared(tmp_path, name)
    assert hub.faults == []
    assert short_files(tmp_path) == []
    assert dataset.fingerprint == fingerprints.setdefault(name, dataset.fingerprint)


@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.parametrize("name", SPOILT)
def test_each_recipe_refuses_the_rest_with_the_reason(hub, tmp_path, name, fault):
    fault, reason = REFUSED[fault]
    hub.spoilt, hub.faults[:] = SPOILT[name], [fault]
    complaint = refused("data/prepare.py", name, *OPTIONS[name], cwd=tmp_path)
    assert f"/{SPOILT[name]}: " in complaint
    assert reason in complaint
    assert short_files(tmp_path) == []
    assert not (tmp_path / "data" / name).exists()
