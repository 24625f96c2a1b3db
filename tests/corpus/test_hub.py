"""The hub's lists of files, from a server that answers as it does, or not."""

import hashlib
import json

import httpx2
import pytest
import web as faulty
from web import COMMIT, put_on_hub

from gpt.corpus import hub
from gpt.corpus.download import RemoteFile
from gpt.corpus.hub import list_folder
from gpt.errors import InputError

FILES = {f"data/deep/{number}.txt": f"file {number}".encode() for number in (3, 1, 2, 5, 4)} | {"top.txt": b"top"}


@pytest.fixture
def served(web):
    put_on_hub(web, "org/name", FILES)
    return web


def asked(web):
    return [path for path, _ in web.requests]


def test_a_folder_is_listed_over_all_its_pages(served, tmp_path):
    folder = list_folder("org/name", "main", "data/deep", tmp_path)
    assert folder.commit == COMMIT
    assert folder.directory == tmp_path / "org--name" / COMMIT / "data--deep"
    assert folder.files == [
        RemoteFile(
            served.url(f"/datasets/org/name/resolve/{COMMIT}/data/deep/{number}.txt"),
            f"{number}.txt",
            6,
            hashlib.sha256(f"file {number}".encode()).hexdigest(),
        )
        for number in range(1, 6)
    ]
    assert len(served.requests) == 4


def test_to_list_a_folder_writes_nothing(served, tmp_path):
    list_folder("org/name", "main", "data/deep", tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_the_top_of_a_dataset_is_a_folder(served, tmp_path):
    folder = list_folder("org/name", COMMIT, "", tmp_path)
    [path] = folder.fetch(["top.txt"])
    assert path == tmp_path / "org--name" / COMMIT / "top.txt"
    assert path.read_bytes() == b"top"


def test_a_commit_is_asked_for_once_and_then_needs_no_network(served, tmp_path, monkeypatch):
    first = list_folder("org/name", COMMIT, "data/deep", tmp_path)
    paths = first.fetch(first.names(".txt"))
    count = len(served.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = list_folder("org/name", COMMIT, "data/deep", tmp_path)
    assert again == first
    assert again.fetch(again.names(".txt")) == paths
    assert len(served.requests) == count


def test_offline_what_is_not_here_is_refused(served, tmp_path, monkeypatch):
    folder = list_folder("org/name", COMMIT, "data/deep", tmp_path)
    count = len(served.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (lambda: folder.fetch(["1.txt"]), lambda: list_folder("org/name", "main", "", tmp_path)):
        with pytest.raises(InputError, match="org/name: is not all here, and HF_HUB_OFFLINE forbids"):
            call()
    assert len(served.requests) == count


def test_names_that_are_not_there_are_refused(served, tmp_path):
    folder = list_folder("org/name", COMMIT, "data/deep", tmp_path)
    with pytest.raises(InputError, match=f"org/name: has no 9.txt at {COMMIT}"):
        folder.fetch(["1.txt", "9.txt"])
    with pytest.raises(InputError, match="has no .parquet there"):
        folder.names(".parquet")
    with pytest.raises(InputError, match="tree/.*/nowhere: answers 404"):
        list_folder("org/name", COMMIT, "nowhere", tmp_path)
    with pytest.raises(InputError, match="revision/v9: answers 404"):
        list_folder("org/name", "v9", "data/deep", tmp_path)


def test_a_branch_may_have_slashes(served, tmp_path):
    served.files["/api/datasets/org/name/revision/refs/convert/parquet"] = json.dumps({"sha": COMMIT}).encode()
    assert list_folder("org/name", "refs/convert/parquet", "", tmp_path).commit == COMMIT


def test_a_hub_that_is_busy_is_asked_again(served, tmp_path):
    served.spoilt = "data/deep"
    served.faults[:] = [faulty.busy, faulty.drop, faulty.down]
    assert len(list_folder("org/name", COMMIT, "data/deep", tmp_path).files) == 5
    assert served.pauses[:2] == [7.0, 2.0]
    assert 10 <= served.pauses[2] <= 12


TREE = f"/api/datasets/org/name/tree/{COMMIT}/data/deep"
ENTRY = {"type": "file", "path": "data/deep/1.txt", "size": 6, "lfs": {"oid": "0" * 64}}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (TREE, b"<html>"),
        (TREE, b"{}x"),
        (TREE, json.dumps({"error": "no"}).encode()),
        (TREE, json.dumps([ENTRY | {"size": "six"}]).encode()),
        (TREE, json.dumps([ENTRY | {"lfs": {"oid": "short"}}]).encode()),
        (TREE, json.dumps([ENTRY | {"path": 7}]).encode()),
        ("/api/datasets/org/name/revision/main", b"[]"),
        ("/api/datasets/org/name/revision/main", json.dumps({"sha": "../../up"}).encode()),
    ],
)
def test_what_does_not_answer_as_the_hub_is_refused(served, tmp_path, path, content):
    served.files[path] = content
    with pytest.raises(InputError, match="does not answer as the Hugging Face hub does.*; look at HF_ENDPOINT"):
        list_folder("org/name", "main", "data/deep", tmp_path)
    assert not list(tmp_path.rglob("*.txt"))


def test_a_name_from_the_hub_leads_nowhere_else(served, tmp_path):
    served.files[TREE] = json.dumps([ENTRY | {"path": "data/deep/.."}]).encode()
    folder = list_folder("org/name", COMMIT, "data/deep", tmp_path / "in")
    with pytest.raises(InputError, match="which is no plain name"):
        folder.fetch([".."])


def test_pages_end(served, tmp_path, monkeypatch):
    served.following[TREE] = TREE
    monkeypatch.setattr(hub, "MAX_PAGES", 3)
    with pytest.raises(InputError, match="lists its files on more than 3 pages"):
        list_folder("org/name", COMMIT, "data/deep", tmp_path)


def test_a_kept_list_that_is_damaged_is_named(served, tmp_path):
    folder = list_folder("org/name", COMMIT, "data/deep", tmp_path)
    folder.fetch(["1.txt"])
    listing = folder.directory / ".listing.json"
    for spoilt, words in ((b"{", "cannot be read as a list of the hub's files"), (None, "KeyError.*remove it")):
        content = json.loads(listing.read_bytes()) if spoilt is None else {}
        listing.write_bytes(spoilt or json.dumps({key: content[key] for key in ("format", "version")}).encode())
        with pytest.raises(InputError, match=words):
            list_folder("org/name", COMMIT, "data/deep", tmp_path)
        listing.unlink()
        list_folder("org/name", COMMIT, "data/deep", tmp_path).fetch(["1.txt"])


def test_the_token_goes_to_the_hub_alone_and_never_in_the_clear(monkeypatch, tmp_path):
    """Over a transport of its own: https, with a next page and a file on other hosts."""
    seen = []

    def respond(request):
        seen.append((request.url.host, request.headers.get("Authorization")))
        if "tree" in request.url.path:
            return httpx2.Response(200, json=[ENTRY | {"lfs": None}], headers={"Link": '<https://other/2>; rel="next"'})
        if request.url.host == "other":
            return httpx2.Response(200, json=[])
        if request.url.host == "hub.test":
            return httpx2.Response(302, headers={"Location": "https://files.test/signed"})
        return httpx2.Response(200, stream=httpx2.ByteStream(b"file 1"))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.test")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "T")
    for module in ("hub", "download"):
        client = lambda: httpx2.Client(transport=httpx2.MockTransport(respond))  # noqa: E731
        monkeypatch.setattr(f"gpt.corpus.{module}.new_client", client)
    list_folder("org/name", COMMIT, "data/deep", tmp_path).fetch(["1.txt"])
    assert seen == [("hub.test", "Bearer T"), ("other", None), ("hub.test", "Bearer T"), ("files.test", None)]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub.test")
    assert hub._authorization("http://hub.test/api") == {}
