"""`gpt prepare … --dry-run`: what it says, held against preparing; and that it writes nothing."""

import json
import random
import re
from unittest import mock

import pytest
from helpers import SHAKESPEARE, in_process, refused, run_here

from gpt.__main__ import main as gpt_main
from gpt.commands import preview
from gpt.commands.train import settle
from gpt.commands.train_options import parse_train
from gpt.dataset.dataset import open_dataset
from gpt.distributed.world import World
from gpt.training.forecast import Forecast, Timings

STEPS_AND_SECONDS = ((r"([\d,]+) steps of", "length"), (r"of which 0:(\d\d) evaluation", "time"))


@pytest.fixture(autouse=True)
def forecast(monkeypatch):
    """The trial, which takes seconds, is left out; what it would find."""
    seconds = mock.Mock(return_value=(150.2, 36.0))
    monkeypatch.setattr(Forecast, "seconds", seconds)
    return seconds


def looked(home, name, *options, code=0):
    """The rows that a dry run prints, and what it says beside them; nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    arguments = ["prepare", name, *map(str, options), "--dry-run"]
    actual, output, errors = in_process(lambda: gpt_main(arguments), home)
    assert actual == code, output + errors
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    rows, key = {}, ""
    for line in output.splitlines():
        key = line[:16].strip() or key
        rows.setdefault(key, []).append(line[17:])
    return rows, errors


@pytest.fixture
def notes(tmp_path):
    """60 files, some 150 kB, with a repetition, a secret, and what is no text."""
    rng, folder = random.Random(0), tmp_path / "notes"
    folder.mkdir()
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randrange(2, 9))) for _ in range(2000)]
    for number in range(60):
        text = "\n".join(" ".join(rng.choices(words, k=12)) for _ in range(rng.randrange(10, 80)))
        (folder / f"{number:03}.txt").write_text(text)
    (folder / "200.txt").write_bytes((folder / "007.txt").read_bytes())
    (folder / "300.bin").write_bytes(bytes(99))
    (folder / "400.md").write_text("# Größe\n" + "AKIA" + "Z" * 16 + "\nme@example.org\n", encoding="utf-16")
    (folder / "500.txt").write_text("one\n<|endoftext|>\ntwo")
    return folder


def test_what_is_found_is_printed(notes, tmp_path):
    rows, errors = looked(tmp_path, "files", "--input", "notes", "--name", "n")
    size = sum(path.stat().st_size for path in notes.iterdir())
    assert rows["found"] == [f"64 files, {size / 1e3:.1f} kB: .txt 62, .bin 1, .md 1"]
    assert rows["read"] == ["all of it"]
    assert rows["left out"] == ["1 in all", "1 binary: it has a zero byte: notes/300.bin"]
    assert rows["encodings"] == ["UTF-8 62, UTF-16-LE 1"]
    separators = ["notes/500.txt: 2 documents, divided at lines of <|endoftext|>; --separator none keeps it as one"]
    assert rows["separators"] == ["found in 1 of the texts", *separators]
    assert re.fullmatch(r"64, of \d\.\d kB on average", rows["documents"][0])
    assert rows["duplicates"] == ["1 of 64 that were read repeat another (1.6%)"]
    secret = "AWS access key: notes/400.md, line 2"
    assert rows["likely secrets"] == ["AWS access key 1: look at them before you train on them", secret]
    assert rows["e-mail"] == ["addresses: 1"]
    assert errors.endswith("nothing was written; to write it, leave --dry-run out\n")


def test_encodings_are_proposed_file_by_file_and_what_is_proposed_reads_all(notes, tmp_path):
    pytest.importorskip("charset_normalizer", reason="the extra `data` proposes encodings")
    for name in ("x.txt", "y.txt"):
        (notes / name).write_bytes("Il était une fois une pauvre fille élevée à la cour.\n".encode("cp1252"))
    (notes / "z [1].txt").write_bytes("これは日本語の文章です。吾輩は猫である。名前はまだ無い。\n".encode("cp932"))
    rows, _ = looked(tmp_path, "files", "--input", "notes", "--name", "n")
    given = "'notes/z [[]1].txt=cp932,cp1252'"
    assert rows["proposed"] == [
        "cp1252 for notes/x.txt, notes/y.txt",
        "cp932 for notes/z [1].txt",
        f"if that is right, give --encoding {given}",
    ]
    rows, _ = looked(tmp_path, "files", "--input", "notes", "--name", "n", "--encoding", given.strip("'"))
    assert "proposed" not in rows
    assert rows["encodings"] == ["UTF-8 62, CP1252 2, UTF-16-LE 1, CP932 1"]


@pytest.mark.parametrize("tokenizer", ["auto", "char", "bpe:1000", "own"])
def test_tokens_and_training_are_those_of_the_dataset_that_is_written(notes, tmp_path, tokenizer, bpe):
    (tmp_path / "own").mkdir()
    bpe.save(tmp_path / "own" / "tokenizer.json")
    options = ("--input", "notes", "--name", "n", "--tokenizer", tokenizer)
    rows, _ = looked(tmp_path, "files", *options)
    run_here("data/prepare.py", "files", *options, cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "n")
    total, validation = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", rows["tokens"][0]))
    assert total == pytest.approx(dataset.train.tokens + dataset.validation.tokens, rel=0.02)
    assert 0.45 < dataset.validation.tokens / validation < 2  # chance decides, within these bounds
    if tokenizer == "auto":
        assert rows["tokenizer"][0].startswith(f"{dataset.recipe['tokenizer']}, for ")
    command = parse_train(["--data", str(dataset.path), "--device", "cpu"])
    config = settle(command, dataset, World("cpu", 60))
    steps, batch = (
        int(n.replace(",", "")) for n in re.search(r"([\d,]+) steps of ([\d,]+)", rows["length"][0]).groups()
    )
    assert rows["preset"][0].startswith(f"{config.preset}: ")
    assert (steps, batch) == (pytest.approx(config.steps, rel=0.1), config.batch_tokens)
    assert rows["time"] == ["about 3:06 on cpu, of which 0:36 evaluation"]


def test_the_time_is_what_a_trial_says_of_steps_and_of_windows(notes, tmp_path, monkeypatch, forecast):
    """A step of half a second, and a window of a hundredth: steps / 2 and the windows of ten evaluations."""
    monkeypatch.undo()
    monkeypatch.setattr("gpt.training.forecast.measure_timings", lambda *_: Timings(step=0.5, window=0.01))
    options = ("--input", "notes", "--name", "n", "--tokenizer", "bytes")
    rows, _ = looked(tmp_path, "files", *options)
    steps, evaluation = (int(re.search(pattern, rows[row][0])[1]) for pattern, row in STEPS_AND_SECONDS)
    minutes, seconds = re.match(r"about (\d+):(\d\d) on cpu", rows["time"][0]).groups()
    assert 60 * int(minutes) + int(seconds) == pytest.approx(steps / 2 + evaluation, abs=1.5)
    monkeypatch.setattr(Forecast, "memory", lambda self, sequences: mock.Mock(peak=1e15))
    rows, _ = looked(tmp_path, "files", *options)
    assert rows["time"] == ["not forecast: a trial would not fit into the free memory"]


def test_of_a_large_corpus_a_part_is_read_and_that_is_said(notes, tmp_path, monkeypatch):
    whole, _ = looked(tmp_path, "files", "--input", "notes", "--name", "n", "--tokenizer", "bytes")
    monkeypatch.setattr(preview, "BUDGET", 60_000)
    part, _ = looked(tmp_path, "files", "--input", "notes", "--name", "n", "--tokenizer", "bytes")
    assert re.fullmatch(
        r"6\d\.\d kB of \d+\.\d kB, in \d\d of the files; what follows is an estimate from that", part["read"][0]
    )
    numbers = [int(re.search(r"about ([\d,]+)", rows["tokens"][0])[1].replace(",", "")) for rows in (whole, part)]
    assert numbers[1] == pytest.approx(numbers[0], rel=0.15)
    assert part["documents"][0].startswith("about ")
    again, _ = looked(tmp_path, "files", "--input", "notes", "--name", "n", "--tokenizer", "bytes")
    assert again | {"time": ""} == part | {"time": ""}


def test_files_that_validate_are_told_from_the_rest(notes, tmp_path):
    (tmp_path / "held").mkdir()
    for number in range(20):
        notes.joinpath(f"{number:03}.txt").rename(tmp_path / "held" / f"{number}.txt")
    share = sum(path.stat().st_size for path in (tmp_path / "held").iterdir())
    total = share + sum(path.stat().st_size for path in notes.iterdir())
    options = ("--input", "notes", "--validation", "held", "--name", "n", "--tokenizer", "bytes")
    tokens = looked(tmp_path, "files", *options)[0]["tokens"][0]
    of_all, validation = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", tokens))
    assert validation / of_all == pytest.approx(share / total, rel=0.01)


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tinyshakespeare.txt is not at hand")
def test_shakespeare_that_is_here_is_looked_at(tmp_path):
    rows, _ = looked(tmp_path, "shakespeare", "--input", SHAKESPEARE)
    assert rows["tokens"] == ["about 1,120,000, of which 112,000 validate"]
    assert rows["tokenizer"] == ["char; 1.00 bytes per token"]


def test_the_default_corpus_can_be_looked_at(tmp_path, monkeypatch):
    """Of 300 modules of 1,000 bytes a part is read, and their share of validation is the recipe's."""
    modules = [(f"{number}.py", f"{number:03} {'x = 1 ' * 166}") for number in range(300)]
    monkeypatch.setattr("gpt.corpus.recipes.python.texts", lambda: modules)
    monkeypatch.setattr(preview, "BUDGET", 30_000)
    rows, _ = looked(tmp_path, "python", "--tokenizer", "bytes")
    assert rows["found"] == ["300 files, 300.0 kB: .py 300"]
    assert rows["tokens"] == ["about 300,000, of which 12,000 validate"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--input", "none", "--name", "n"), "--input none: does not exist"),
        (("--input", "empty", "--name", "n"), "there is no text in the input"),
        (("--input", "notes", "--name", "n", "--tokenizer", "gtp2"), "--tokenizer gtp2"),
        (("--input", "notes", "--name", "n", "--validation-share", "0.9"), "must be above 0 and at most 0.5"),
        (
            ("--input", "notes", "--name", "n", "--min-characters", "9", "--max-characters", "8"),
            "--max-characters is 8",
        ),
        (("--input", "notes", "--name", "a/b"), "--name a/b: is no plain name"),
        (("--input", "notes", "--name", "n", "--out", "notes"), "notes: exists and is no dataset"),
        (("--input", "notes", "--name", "n", "--validation", "empty", "--validation-share", "0.1"), "has no effect"),
    ],
)
def test_what_preparing_would_refuse_is_refused(notes, tmp_path, options, said):
    (tmp_path / "empty").mkdir()
    assert said in looked(tmp_path, "files", *options, code=2)[1]


def test_a_text_that_is_too_short_to_train_on_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("a few words " * 10)
    rows, _ = looked(tmp_path, "files", "--input", "a.txt", "--name", "n", "--tokenizer", "bytes")
    said = "the validation split would have about 12 tokens, and the smallest window needs 17: give more text"
    assert rows["training"] == [said]
    assert "preset" not in rows


def test_as_json_the_same_is_said_in_one_object(notes, tmp_path):
    options = ("files", "--input", "notes", "--name", "n", "--tokenizer", "bytes")
    rows, _ = looked(tmp_path, *options)
    actual, output, errors = in_process(lambda: gpt_main(["prepare", *options, "--json", "--dry-run"]), tmp_path)
    assert actual == 0, errors
    [line] = output.splitlines()
    facts = json.loads(line)
    size = sum(path.stat().st_size for path in notes.iterdir())
    assert facts["found"] == {"files": 64, "bytes": size, "formats": {".txt": 62, ".bin": 1, ".md": 1}}
    assert facts["read"] == {
        "files": 64, "bytes": size, "of": {"files": 64, "bytes": size}, "all": True, "goes_on": False
    }  # fmt: skip
    [reason] = facts["left_out"]["reasons"]
    assert reason == {"count": 1, "reason": "binary: it has a zero byte", "as": "notes/300.bin"}
    assert facts["encodings"] == {"UTF-8": 62, "UTF-16-LE": 1}
    assert facts["documents"]["count"] == 64 and not facts["documents"]["estimated"]
    assert facts["duplicates"] == {"repeated": 1, "of": 64}
    assert facts["secrets"] == {"kinds": {"AWS access key": 1}, "places": ["AWS access key: notes/400.md, line 2"]}
    assert facts["addresses"] == {"count": 1, "estimated": False}
    assert (facts["tokenizer"]["name"], facts["tokenizer"]["size"]) == ("bytes", 257)
    said = [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", rows["tokens"][0])]
    assert said == [pytest.approx(facts["tokens"][name], rel=0.01) for name in ("total", "validation")]
    training = facts["training"]
    assert (training["seconds"], training["evaluation_seconds"]) == (186.2, 36.0)
    assert rows["length"][0].endswith(f"{training['steps']:,} steps of {training['batch_tokens']:,} tokens")
    assert rows["preset"] == [training["reason"]]


def test_as_json_is_no_way_of_preparing(notes, tmp_path):
    complaint = refused("data/prepare.py", "files", "--input", "notes", "--name", "n", "--json", cwd=tmp_path)
    assert "--json is of --dry-run, whose result it prints: give both, or leave it out" in complaint
    assert not (tmp_path / "data").exists()


@pytest.fixture
def examples(tmp_path):
    """400 examples, of which 20 are too long for 200 tokens, 10 of them already by their prompts; and 7 faults."""
    rng, lines = random.Random(0), []
    for number in range(400):
        prompt = f"{number}: " + "ask " * (5 if number >= 10 else 100)
        answer = " ".join(str(rng.randrange(10**6)) for _ in range(9 if number >= 20 else 90))
        lines.append(json.dumps({"prompt": prompt, "completion": answer}))
    lines += ["{}"] * 4 + ["[1]"] * 3
    rng.shuffle(lines)
    (tmp_path / "ex.jsonl").write_text("\n".join(lines))
    return ("instruct", "--input", "ex.jsonl", "--name", "n", "--max-tokens", "200", "--tokenizer", "bytes")


def test_of_prompts_and_answers_faults_and_the_share_that_is_learned_are_said(examples, tmp_path):
    rows, _ = looked(tmp_path, *examples)
    faults = "7 of the lines are no examples to learn from, as said above"
    assert rows["faults"] == [f"{faults}: preparing ends with an error, unless they are left out by --faulty skip"]
    rows, _ = looked(tmp_path, *examples, "--faulty", "skip")
    assert rows["faults"] == [f"{faults}: they are left out"]
    run_here("data/prepare.py", *examples, "--faulty", "skip", cwd=tmp_path)
    dataset = open_dataset(tmp_path / "data" / "n")
    splits = (dataset.train, dataset.validation)
    total, learned = sum(s.tokens for s in splits), sum(s.count_learned(0, s.tokens) for s in splits)
    assert rows["learned"] == [
        f"{learned / total:.1%} of the tokens: answers, and what ends them",
        "20 of 400 that were tried are cut to 200 tokens (--max-tokens)",
        "10 of them have no answer left after that, which is left out",
    ]
    assert int(re.search(r"about ([\d,]+)", rows["tokens"][0])[1].replace(",", "")) == pytest.approx(total, rel=5e-3)


def test_examples_need_an_end_and_that_is_said_before(examples, tmp_path):
    (tmp_path / "ex.jsonl").write_text(json.dumps({"prompt": "a" * 99, "completion": "b" * 99}))
    _, errors = looked(tmp_path, *examples[:-1], "char", code=2)
    assert "the char tokenizer has no end-of-text here, with which an answer ends" in errors


def test_a_part_of_the_examples_tells_how_many_tokens_all_have(examples, tmp_path, monkeypatch):
    examples = (*examples, "--faulty", "skip")
    whole, _ = looked(tmp_path, *examples)
    monkeypatch.setattr(preview, "BUDGET", 25_000)
    monkeypatch.setattr("gpt.corpus.beginnings.LEAST", 25_000)
    part, _ = looked(tmp_path, *examples)
    assert part["read"][0].startswith("2")
    assert part["faults"][0].startswith("about ")
    for row, close in (("tokens", 0.15), ("documents", 0.15), ("learned", 0.1)):
        numbers = [float(re.search(r"[\d,.]*\d", rows[row][0])[0].replace(",", "")) for rows in (whole, part)]
        assert numbers[1] == pytest.approx(numbers[0], rel=close), row


def test_the_option_is_listed_and_takes_no_value(notes, tmp_path):
    help_ = run_here("data/prepare.py", "files", "--help", cwd=tmp_path)
    assert "--dry-run" in help_ and "Prepare your own text" in help_
    complaint = refused("data/prepare.py", "files", "--dry-run", "notes", "--name", "n", cwd=tmp_path)
    assert "gpt prepare files --input notes --dry-run --name n" in complaint
