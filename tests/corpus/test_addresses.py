"""Files that are given by their addresses on the web, downloaded beside the dataset and then read like one's own."""

import re
from pathlib import Path

import pytest
from helpers import refused, run_here
from web import busy, drop

from gpt.corpus.addresses import remote_file
from gpt.corpus.sources import TextFiles
from gpt.dataset.dataset import open_dataset
from gpt.errors import InputError

STORY = " ".join(f"word{number}" for number in range(3000)).encode()
NOTES = " ".join(f"note{number}" for number in range(900)).encode()


@pytest.fixture
def site(web, monkeypatch):
    monkeypatch.setattr("gpt.corpus.https.sleep", lambda _: None)
    web.files |= {"/a/story.txt": STORY, "/b//notes.txt": NOTES, "/b/paper.pdf": b"%PDF-1.7"}
    return web


def text_of(split, tokenizer):
    return tokenizer.decode(split.read(0, split.tokens).tolist())


def test_an_address_is_downloaded_and_prepared_as_a_file_is(site, tmp_path):
    site.spoilt, site.faults = "story.txt", [busy, drop]
    (tmp_path / "own.txt").write_text(" ".join(f"own{number}" for number in range(400)))
    story, notes = site.url("/a/story.txt"), site.url("/b//notes.txt?download=true#top")
    given = ("files", "--input", story, "own.txt", "--validation", notes, "--name", "mine", "--tokenizer", "bytes")
    output = run_here("data/prepare.py", *given, "--dry-run", cwd=tmp_path)
    assert re.search(r"^download +2 of 2 files, of unknown size, to data/.downloads/web$", output, re.MULTILINE)
    assert "story.txt: of unknown size" in output
    assert not (tmp_path / "data").exists() and not site.requests
    run_here("data/prepare.py", *given, cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "mine")
    assert text_of(dataset.train, dataset.tokenizer).startswith(STORY.decode())
    assert text_of(dataset.validation, dataset.tokenizer).startswith(NOTES.decode())
    assert dataset.recipe["input"] == [story, "own.txt"]
    count = len(site.requests)
    output = run_here("data/prepare.py", *given, cwd=tmp_path)
    assert f"{story}: stays as it was downloaded; to have it anew, remove data/.downloads/web/" in output
    assert len(site.requests) == count
    assert open_dataset(tmp_path / "data" / "mine").fingerprint == dataset.fingerprint


def test_what_an_address_brings_is_refused_like_a_file(site, tmp_path):
    complaint = refused("data/prepare.py", "files", "--input", site.url("/b/paper.pdf"), "--name", "mine", cwd=tmp_path)
    assert "skipped paper.pdf: a PDF: convert it to text" in complaint
    complaint = refused("data/prepare.py", "files", "--input", site.url("/none"), "--name", "mine", cwd=tmp_path)
    assert "/none: answers 404" in complaint
    assert not (tmp_path / "data" / "mine").exists()


def test_an_address_without_its_option_is_answered_with_the_whole_command(tmp_path):
    complaint = refused("data/prepare.py", "https://example.org/some/text.txt", cwd=tmp_path)
    assert "gpt prepare files --input https://example.org/some/text.txt --name text" in complaint


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://example.org/x.txt", "what is not at https:// is not downloaded"),
        ("s3://bucket/x.txt", "what is not at https:// is not downloaded"),
        ("https://me:secret@example.org/x.txt", "https://…@example.org: has a name or a password"),
        ("https://example.org/", "names no file"),
        ("https:///x.txt", "names no file"),
        ("https://[x/x.txt", "is no address on the web"),
    ],
)
def test_what_is_not_downloaded_is_refused_with_the_reason(tmp_path, address, reason):
    with pytest.raises(InputError, match=f"^`input` .*{re.escape(reason)}") as caught:
        TextFiles([address], downloads=tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("given", ["https://example.org/x.txt", Path("https://example.org/x.txt")])
def test_other_commands_say_that_they_download_nothing(given):
    with pytest.raises(InputError, match="is an address, which gpt prepare alone downloads; download it yourself"):
        TextFiles([given])


def test_each_address_has_a_directory_of_its_own(tmp_path):
    found = {remote_file(f"https://example.org/{part}/x.txt", "input", tmp_path)[1] for part in "ab"}
    assert len(found) == 2
    assert remote_file("https://example.org/a%20b.txt#c", "input", tmp_path)[0].name == "a b.txt"
