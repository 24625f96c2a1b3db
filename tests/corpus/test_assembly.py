"""What lies in a prepared dataset; and that it is the same for any number of workers, after kills, as text is added."""

import hashlib
import json
import os
import random
import shutil
import signal
import time

import pytest
from helpers import run_here
from processes import Script

from gpt.corpus import jobs, pipeline, slices
from gpt.corpus.assembly import is_finished
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.ledger import kind_of, read_ledger
from gpt.corpus.pipeline import prepare
from gpt.corpus.reading import Filters
from gpt.corpus.sources import TextFiles, Texts
from gpt.dataset.dataset import open_dataset
from gpt.dataset.documents import Documents
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer
from reliability.disks import small_disk


@pytest.fixture(scope="module", autouse=True)
def small_slices():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "LEAST_BYTES", 1 << 14)
        yield


def written_folder(home):
    """40 files of other texts, one of them twice, and one that is none."""
    rng, folder = random.Random(0), home / "notes"
    folder.mkdir()
    for number in range(40):
        text = " ".join(f"word{rng.randrange(5000)}" for _ in range(rng.randrange(40, 300)))
        (folder / f"{number:02}.txt").write_text(text)
    (folder / "70.txt").write_bytes((folder / "07.txt").read_bytes())
    (folder / "80.bin").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def folder(tmp_path):
    return written_folder(tmp_path)


@pytest.fixture(scope="module")
def prepared_once(small_slices, tmp_path_factory):
    """The dataset of such a folder, for reading only."""
    home = tmp_path_factory.mktemp("once")
    return written(written_folder(home), home / "d").path


def copied(dataset, home):
    """A dataset that is as if it was prepared just now."""
    return open_dataset(shutil.copytree(dataset, home / "d", copy_function=shutil.copyfile))


@pytest.fixture
def prepared(folder, prepared_once, tmp_path):
    return copied(prepared_once, tmp_path)


def add_copies(folder):
    """Write copies of some of the files, each with a header."""
    for number in range(10, 30):
        (folder / f"copy{number}.txt").write_text(f"A header\n{(folder / f'{number}.txt').read_text()}")
    return folder


@pytest.fixture(scope="module")
def copies_once(small_slices, tmp_path_factory):
    home = tmp_path_factory.mktemp("copies")
    return written(add_copies(written_folder(home)), home / "d").path


@pytest.fixture
def prepared_copies(folder, copies_once, tmp_path):
    """The dataset of the folder, to which copies were added."""
    add_copies(folder)
    return copied(copies_once, tmp_path)


def written(folder, out, **settings):
    return prepare(TextFiles([folder]), SplitByContent(), "bytes", out, {"name": "files"}, **settings)


def content_of(directory):
    """The bytes of all files of a dataset."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def report_of(directory):
    return json.loads((directory / "report.json").read_text())


def test_the_ledger_adds_up_to_the_input(folder, prepared, tmp_path):
    dataset = prepared
    entries = list(read_ledger(tmp_path / "d"))
    documents = [entry for entry in entries if "document" in entry]
    files = [entry for entry in entries if "source" in entry]
    sizes = {f"notes/{path.name}": path.stat().st_size for path in folder.iterdir()}
    assert {entry["source"]: entry["bytes"] for entry in files} == sizes
    assert sum(entry["bytes"] for entry in documents) + sum(entry["other"] for entry in files) == sum(sizes.values())
    reasons = {entry["document"]: entry["reason"] for entry in documents if "reason" in entry}
    assert reasons == {"notes/70.txt": "the same content as notes/07.txt", "notes/80.bin": "binary: it has a zero byte"}
    for split in (dataset.train, dataset.validation):
        count = Documents(split, dataset.tokenizer).count()
        assert sum(entry.get(split.name, 0) for entry in documents) == count


def test_the_report_counts_what_is_there(folder, prepared, tmp_path):
    dataset = prepared
    report = report_of(tmp_path / "d")
    assert report["documents"] == {"read": 41, "kept": 40, "left_out": {"duplicate": 1, "binary": 1}}
    assert report["tokens"] == {"train": dataset.train.tokens, "validation": dataset.validation.tokens}
    assert report["text_bytes"] == sum(path.stat().st_size for path in folder.glob("[0-6]*.txt"))
    longest = max(folder.glob("*.txt"), key=lambda path: path.stat().st_size)
    assert report["longest"] == {"document": f"notes/{longest.name}", "bytes": longest.stat().st_size}
    assert sum(source["share"] for source in report["sources"].values()) < 1.0001
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert report["corpus_fingerprint"] == manifest["corpus_fingerprint"] == dataset.corpus_fingerprint
    assert open_dataset(dataset.path).corpus_fingerprint == dataset.corpus_fingerprint


def test_the_fingerprint_is_of_inputs_settings_tokenizer_and_shards(folder, prepared_once, tmp_path):
    def fingerprint(name, tokenizer="bytes", **recipe):
        out = tmp_path / "out" / name
        prepare(TextFiles([folder]), SplitByContent(), tokenizer, out, {"name": "files", **recipe})
        return report_of(out)["corpus_fingerprint"]

    first = report_of(prepared_once)["corpus_fingerprint"]
    assert first == fingerprint("b", input=["elsewhere"])
    others = [fingerprint("c", "bpe:300"), fingerprint("d", separator="none")]
    (folder / "00.txt").write_text("Another text. " * 50)
    assert len({first, *others, fingerprint("e")}) == 4


def test_text_that_is_added_is_encoded_alone_and_the_result_is_that_of_a_beginning(
    folder, prepared, tmp_path, monkeypatch, said
):
    encoded = []
    work = pipeline.write_slice

    def write_slice(place, *arguments):
        encoded.append(place)
        return work(place, *arguments)

    monkeypatch.setattr(pipeline, "write_slice", write_slice)
    count = len(json.loads((tmp_path / "d" / "slices.json").read_text())["slices"])
    assert count >= 5
    sides = {name: texts_of(getattr(prepared, name), prepared.tokenizer) for name in ("train", "validation")}
    (folder / "99.txt").write_text(" ".join(f"new{number}" for number in range(300)))
    os.utime(folder / "99.txt", ns=(1, 1))
    written(folder, tmp_path / "d")
    assert 0 < len(encoded) <= 2
    reused = next(line for line in said if "need not be encoded again" in line)
    assert int(reused.split()[0]) >= count - 1
    assert reused.endswith("; new or changed:")
    assert said[said.index(reused) + 1].startswith("slices that begin with notes/")
    after = open_dataset(tmp_path / "d")
    for name, texts in sides.items():
        assert set(texts) - set(texts_of(getattr(after, name), after.tokenizer)) == set()
    assert content_of(tmp_path / "d").keys() >= {"manifest.json", "report.json", "ledger.jsonl.gz", "split.json"}


def test_a_tokenizer_that_was_learned_stays_while_text_is_added(folder, tmp_path, said):
    for file in sorted(folder.iterdir())[8:]:
        file.unlink()

    def fingerprint(tokenizer, replace=False):
        return prepare(
            TextFiles([folder]), SplitByContent(), tokenizer, tmp_path / "d", {"tokenizer": tokenizer}, replace=replace
        ).tokenizer.fingerprint

    first = fingerprint("bpe:300")
    (folder / "99.txt").write_text("zyxwv " * 300)
    assert fingerprint("bpe:300") == fingerprint("auto") == first
    assert any("its tokenizer, bpe:300, stays that of the corpus" in line for line in said)
    assert fingerprint("bpe:301", replace=True) != first
    for file in folder.iterdir():
        file.write_text(f"another text, of which nothing was there before: {file.name} " * 30)
    assert fingerprint("bpe:301") != fingerprint("bpe:300", replace=True) != first


def texts_of(split, tokenizer):
    return tokenizer.decode(split.read(0, split.tokens).tolist()).split("<|endoftext|>")


@pytest.mark.parametrize("damage", ["shard", "slices", "ledger"])
def test_what_is_damaged_is_encoded_again(folder, prepared, prepared_once, tmp_path, damage):
    before = content_of(prepared_once)
    file = tmp_path / "d" / {"shard": "train-00001.bin", "slices": "slices.json", "ledger": "ledger.jsonl.gz"}[damage]
    if damage == "ledger":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.unlink()
        file.write_bytes(content)
    written(folder, tmp_path / "d")
    assert content_of(tmp_path / "d") == before


def test_files_of_validation_validate_and_their_copies_do_not_train(folder, tmp_path):
    (tmp_path / "held").mkdir()
    for name in ("03.txt", "05.txt"):
        text = (folder / name).read_text()
        (tmp_path / "held" / name).write_text(text if name == "03.txt" else f"Another header\n{text}")
    source = TextFiles([folder], validation=[tmp_path / "held"])
    dataset = prepare(source, SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
    validation = texts_of(dataset.validation, dataset.tokenizer)
    assert {(tmp_path / "held" / name).read_text() for name in ("03.txt", "05.txt")} < set(validation)
    train = texts_of(dataset.train, dataset.tokenizer)
    assert not {(folder / name).read_text() for name in ("03.txt", "05.txt")} & set(train)
    with pytest.raises(InputError, match="`validation` .*none: does not exist"):
        TextFiles([folder], validation=[tmp_path / "none"])


def test_two_preparations_of_one_place_at_once_are_refused(folder, tmp_path):
    class Again(Texts):
        def parts(self):
            with pytest.raises(InputError, match="d: another process is preparing it; wait until it ends"):
                written(folder, tmp_path / "d")
            return super().parts()

    prepare(Again({"a": (folder / "00.txt").read_text() * 3}), SplitByContent(), "bytes", tmp_path / "d", {"name": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "notes"]


def test_reasons_of_one_kind_are_counted_together():
    assert kind_of("the same content as a: b") == "duplicate"
    assert kind_of("binary: it has a zero byte") == kind_of("binary")
    assert kind_of("shorter than 40 characters") == kind_of("shorter than 50 characters")
    assert kind_of("not UTF-8: invalid start byte at byte 7") == "not UTF-8"
    assert kind_of("12,345 characters, 7 of them broken") == "N characters, N of them broken"


PREPARE = """
if __name__ == "__main__":  # workers need none of this
    import sys
    from pathlib import Path
    from gpt.corpus import jobs, pipeline, slices
    from gpt.corpus.content_split import SplitByContent
    from gpt.corpus.sources import TextFiles

    jobs.POLL_SECONDS = 0.05
    slices.LEAST_BYTES, pipeline.LEAST_FOR_WORKERS, pipeline.LEAST_TO_KEEP = 1 << 14, 0, 0
    source = TextFiles([Path("notes")])
    out, workers = Path(sys.argv[1]), sys.argv[2]
    part = tuple(map(int, sys.argv[3].split("/"))) if len(sys.argv) > 3 else (1, 1)
    pipeline.prepare(source, SplitByContent(), "bytes", out, {"name": "files"}, workers=workers, part=part)
"""


@pytest.mark.process
def test_any_number_of_workers_killed_or_not_writes_the_same_bytes(folder, prepared_once, tmp_path):
    wanted = content_of(prepared_once)  # by this process alone
    (tmp_path / "prepare.py").write_text(PREPARE)
    assert Script(tmp_path / "prepare.py", "d2", "2", cwd=tmp_path).end() == 0
    assert content_of(tmp_path / "d2") == wanted
    program = Script(tmp_path / "prepare.py", "killed", "2", cwd=tmp_path)
    while program.process.is_alive() and len([*tmp_path.glob(".killed*.work/*.json")]) < 3:  # results
        time.sleep(0.001)
    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    last = Script(tmp_path / "prepare.py", "killed", "2", cwd=tmp_path)
    assert last.end() == 0, last.said()
    assert content_of(tmp_path / "killed") == wanted
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith((".work", ".partial"))]


def test_two_files_of_one_name_size_and_time_are_both_read(folder, tmp_path):
    for directory, word in (("x", "first"), ("y", "other")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.txt").write_text("".join(f"{word} {number:05}\n" for number in range(5000)))
        os.utime(tmp_path / directory / "a.txt", ns=(10**18, 10**18))
    source = TextFiles([tmp_path / "x" / "a.txt", tmp_path / "y" / "a.txt"])
    dataset = prepare(source, SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
    text = "".join(texts_of(dataset.train, dataset.tokenizer) + texts_of(dataset.validation, dataset.tokenizer))
    assert text.count("first") == text.count("other") == 5000


def test_a_file_that_was_changed_behind_its_time_is_encoded_again(folder, prepared, tmp_path):
    file = folder / "01.txt"
    status, text = file.stat(), file.read_text()
    file.write_text(text.replace(text.split()[20], "wordXYZ", 1)[: len(text)].ljust(len(text)))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    dataset = written(folder, tmp_path / "d")
    assert any("wordXYZ" in text for text in texts_of(dataset.train, dataset.tokenizer)) != any(
        "wordXYZ" in text for text in texts_of(dataset.validation, dataset.tokenizer)
    )


def test_the_same_again_gives_the_same_files(folder, prepared_copies, copies_once, tmp_path):
    """Also where something was moved: the report says so again."""
    before = content_of(copies_once)
    assert report_of(tmp_path / "d")["overlap"]["moved"] > 0
    written(folder, tmp_path / "d")
    assert content_of(tmp_path / "d") == before


def test_the_same_again_with_files_that_validate_gives_the_same_files(folder, tmp_path):
    """What was dropped from training at first is not back."""
    (tmp_path / "held.txt").write_text(f"Another header\n{(folder / '05.txt').read_text()}")
    found = []
    for _ in range(2):
        source = TextFiles([folder], validation=[tmp_path / "held.txt"])
        dataset = prepare(source, SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
        found.append(content_of(tmp_path / "d"))
        assert (folder / "05.txt").read_text() not in texts_of(dataset.train, dataset.tokenizer)
    assert found[0] == found[1]


def test_filters_that_leave_nothing_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"all 41 documents are left out, .*shorter than 100,000 characters"):
        written(folder, tmp_path / "d", filters=Filters(min_characters=100_000))
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("change", [('"validation"', '"validbtion"'), ('"threshold": ', '"threshold": 1')])
def test_a_damaged_record_of_the_split_is_not_gone_on_with(folder, prepared_copies, tmp_path, said, change):
    record = tmp_path / "d" / "split.json"
    content = record.read_text()
    assert change[0] in content
    record.write_text(content.replace(*change))
    said.clear()
    written(folder, tmp_path / "d")
    assert any("what it keeps of its split cannot be read" in line for line in said)


def test_what_was_only_touched_is_not_encoded_again(folder, prepared, tmp_path, said):
    for file in folder.iterdir():
        file.touch()
    said.clear()
    written(folder, tmp_path / "d")
    count = len(json.loads((tmp_path / "d" / "slices.json").read_text())["slices"])
    assert f"all {count} slices are as in {tmp_path / 'd'}, and none is encoded again" in said
    assert not any("new or changed" in line or "slices that begin with" in line for line in said)


def test_an_empty_directory_has_no_text(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no text in the input: nothing was written"):
        written(tmp_path / "empty", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_share_stays_what_it_is_when_a_small_corpus_grows(folder, tmp_path):
    """Of a few texts chance must be helped; of the many that come later it need not."""
    rng = random.Random(1)
    for file in sorted(folder.iterdir())[4:]:
        file.unlink()
    written(folder, tmp_path / "d")
    for number in range(200):
        (folder / f"new{number}.txt").write_text(" ".join(f"word{rng.randrange(5000)}" for _ in range(100)))
    dataset = written(folder, tmp_path / "d")
    assert 0.05 < dataset.validation.tokens / (dataset.validation.tokens + dataset.train.tokens) < 0.17


def test_a_damaged_dataset_with_a_learned_tokenizer_is_prepared_again(folder, tmp_path):
    for file in ("", "tokenizer.json", "manifest.json"):
        if file:
            damaged = tmp_path / "d" / file
            damaged.write_text(damaged.read_text()[:300])
        again = prepare(TextFiles([folder]), SplitByContent(), "bpe:300", tmp_path / "d", {"tokenizer": "bpe:300"})
        assert open_dataset(tmp_path / "d").fingerprint == again.fingerprint


@pytest.mark.process
def test_jobs_that_share_the_work_write_the_same_bytes(folder, prepared_once, tmp_path):
    (tmp_path / "prepare.py").write_text(PREPARE)
    jobs = [Script(tmp_path / "prepare.py", "parts", "1", f"{part}/3", cwd=tmp_path) for part in (3, 1, 2)]
    assert [job.end() for job in jobs] == [0, 0, 0], [job.said() for job in jobs]
    assert content_of(tmp_path / "parts") == content_of(prepared_once)


def test_a_job_of_a_finished_dataset_says_so_and_ends(folder, prepared, tmp_path, said):
    before = content_of(tmp_path / "d")
    said.clear()
    assert written(folder, tmp_path / "d", part=(2, 3)) is None
    assert written(folder, tmp_path / "d", part=(1, 3)).fingerprint == prepared.fingerprint
    words = f"{tmp_path / 'd'}: stays: it is finished already, of the same inputs, so that this job has nothing to do"
    assert said[1::2] == [words] * 2
    assert content_of(tmp_path / "d").items() >= before.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "notes"]


@pytest.mark.parametrize("change", ["added", "removed", "changed", "touched"])
def test_a_dataset_of_other_files_is_not_finished(folder, prepared, tmp_path, change):
    source, file = TextFiles([folder]), folder / "03.txt"
    asked = ({"name": "files"}, "bytes")
    assert is_finished(tmp_path / "d", source, *asked)
    assert is_finished(tmp_path / "d", lambda: source, *asked)
    status, text = file.stat(), file.read_text()
    if change == "added":
        (folder / "new.txt").write_text("new")
        os.utime(folder / "new.txt", ns=(1, 1))
    elif change == "removed":
        file.unlink()
    elif change == "changed":
        file.write_text(text[::-1])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        file.touch()
    assert not is_finished(tmp_path / "d", source, *asked)


def test_a_slice_that_is_used_again_names_what_it_repeats_as_that_is_called_now(tmp_path):
    """Also where nothing of its own was changed."""
    a, b = ([json.dumps({"text": f"{name} {number} words " * 20}) for number in range(100)] for name in "ab")
    reasons = []
    for lines in (a, [json.dumps({"text": "put in"}), *a], [json.dumps({"text": "instead"}), *a]):
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        (tmp_path / "b.jsonl").write_text("\n".join([*b, a[2], a[4]]))
        source = TextFiles([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], field="text")
        prepare(source, SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
        assert len(json.loads((tmp_path / "d" / "slices.json").read_text())["slices"]) > 1
        left = {each["document"]: each["reason"] for each in read_ledger(tmp_path / "d") if "reason" in each}
        reasons.append(left)
    names = ["b.jsonl, line 101", "b.jsonl, line 102"]
    assert reasons[0] == dict(
        zip(names, ["the same content as a.jsonl, line 3", "the same content as a.jsonl, line 5"], strict=True)
    )
    later = dict(
        zip(names, ["the same content as a.jsonl, line 4", "the same content as a.jsonl, line 6"], strict=True)
    )
    assert reasons[1:] == [later, later]


def test_text_that_lies_in_no_file_is_never_finished(tmp_path):
    source = Texts({str(number): f"{number} words " * 99 for number in range(9)})
    prepare(source, SplitByContent(), "bytes", tmp_path / "d", {})
    assert not is_finished(tmp_path / "d", source, {}, "bytes")


def test_a_dataset_of_other_settings_or_another_tokenizer_is_not_finished(folder, tmp_path, monkeypatch):
    recipe, source = {"name": "files", "tokenizer": "own.json", "share": 0.1}, TextFiles([folder])
    prepare(source, SplitByContent(), Tokenizer.utf8_bytes(), tmp_path / "d", recipe)
    assert is_finished(tmp_path / "d", source, recipe, Tokenizer.utf8_bytes())
    assert not is_finished(tmp_path / "d", source, recipe, Tokenizer.char("ab", True))  # another one in the same file
    assert not is_finished(tmp_path / "d", source, recipe | {"share": 0.2}, Tokenizer.utf8_bytes())
    monkeypatch.setattr(jobs, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    with pytest.raises(InputError, match="part 1 of 2, for which this one waits"):  # so it has something to do
        (tmp_path / ".d.work").mkdir()
        (tmp_path / ".d.work" / "failed-1").write_text("no disk")
        recipe["tokenizer"] = "bpe:512"
        prepare(source, SplitByContent(), "bpe:512", tmp_path / "d", recipe, part=(2, 2), replace=True)


def test_the_command_takes_the_settings_and_records_them(folder, tmp_path):
    options = ("--max-overlap", "0.3", "--overlap", "drop", "--min-characters", "1000", "--normalize", "nfc")
    options += ("--workers", "2", "--tokenizer", "bytes")
    run_here("data/prepare.py", "files", "--input", "notes", "--name", "n", *options, cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "n")
    recorded = {"max_overlap": 0.3, "overlap": "drop", "min_characters": 1000, "max_characters": None}
    recorded |= {"normalize": "nfc"}
    assert recorded.items() <= dataset.recipe.items()
    assert "workers" not in dataset.recipe
    left = report_of(tmp_path / "data" / "n")["documents"]["left_out"]
    assert left["shorter than N characters"] == sum(path.stat().st_size < 1000 for path in folder.glob("*.txt"))


class Meddled(TextFiles):
    """Files one of which is meddled with once a part has begun to be read."""

    def read(self, part):
        for found in super().read(part):
            yield found
            meddle, self.meddle = self.meddle, lambda: None
            meddle()


MEDDLED = {
    "longer": (lambda file: file.open("a").write("more\n"), "was changed"),
    "other bytes": (lambda file: file.write_bytes(file.read_bytes().replace(b"1", b"2")), "was changed"),
    "another file": (
        lambda file: (file.with_name("z").write_text("z"), file.with_name("z").replace(file)),
        "was changed",
    ),
    "gone": (lambda file: file.unlink(), "was removed"),
    "a directory": (lambda file: (file.unlink(), file.mkdir()), "was removed"),
}


@pytest.mark.parametrize("name", ["lines.jsonl", "notes/30.txt"])
@pytest.mark.parametrize("how", MEDDLED)
def test_a_file_that_changes_while_it_is_read_is_refused_by_name(folder, tmp_path, name, how):
    """Be it the file that is read, of which other slices are read later, or one that comes later."""
    lines = "".join(
        json.dumps({"text": f"line {number} {random.Random(number).random()}"}) + "\n" for number in range(1000)
    )
    (tmp_path / "lines.jsonl").write_text(lines)
    source = Meddled([tmp_path / "lines.jsonl", folder], "text")
    change, what = MEDDLED[how]
    source.meddle = lambda: change(tmp_path / name)
    message = f"{name}: {what} while it was read; once it stays as it is, give the same command again"
    with pytest.raises(InputError, match=message):
        prepare(source, SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
    assert not (tmp_path / "d").exists()
    if (how, name) == ("longer", "lines.jsonl"):
        dataset = prepare(source, SplitByContent(), "bytes", tmp_path / "d", {"name": "files"})
        assert sum(split.tokens for split in (dataset.train, dataset.validation)) > 70_000


@pytest.mark.process
@pytest.mark.parametrize(
    ("keeps", "sizes"), [(True, (0, 20_000, 40_000, 80_000, 100_000)), (False, (0, 50_000, 100_000, 150_000, 200_000))]
)
def test_a_full_disk_is_said_with_its_place_and_later_it_goes_on(
    folder, prepared_once, tmp_path, monkeypatch, keeps, sizes
):
    """With one that is full at each size, from none at all to nearly enough."""
    monkeypatch.setattr(pipeline, "LEAST_TO_KEEP", 0 if keeps else 1 << 40)
    wanted = content_of(prepared_once)
    with small_disk(tmp_path / "disk", 1 << 22) as mounted:
        if not mounted:
            pytest.skip("no disk can be mounted here")
        for free in sizes:
            left = "what is finished is kept" if keeps else "nothing was written"
            ballast = tmp_path / "disk" / "ballast"
            ballast.write_bytes(bytes(max(0, shutil.disk_usage(tmp_path / "disk").free - free)))
            with pytest.raises(InputError, match=f"disk: the disk is full; make room there, and .* again: {left}$"):
                written(folder, tmp_path / "disk" / "d")
            assert not (tmp_path / "disk" / "d").exists()
            ballast.unlink()
        assert content_of(written(folder, tmp_path / "disk" / "d").path) == wanted
