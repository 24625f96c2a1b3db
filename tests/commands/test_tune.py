"""`gpt tune`, as a person calls it, on a model of a moment."""

import json
import re
from dataclasses import replace

import pytest
from helpers import python_text, run_gpt, write_dataset

from gpt.commands import train, tune
from gpt.commands.train_options import parse_train
from gpt.presets import preset
from gpt.tracking.jsonl import read_metrics
from gpt.training import summary
from gpt.tuning.trial import Trials

BASE = """
preset = "nano"
batch_tokens = 128
log_every = 1

[model]
n_head = 2
n_embd = 16
context_length = 32
ngram_buckets = 64

[evaluation]
sample_tokens = 0
every = 0
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    return tmp_path / "base.toml"


def called(home, *arguments, code=0):
    return run_gpt(home, "tune", "--config", home / "base.toml", "--device", "cpu", *arguments, code=code)


def journal(home, name="mine.jsonl"):
    return [json.loads(line) for line in (home / name).read_text().splitlines()]


@pytest.fixture
def whole_text(monkeypatch):
    """As on a fast machine: all of the validation text judges."""
    monkeypatch.setattr(tune, "tokens_to_judge", lambda *_: 10**9)


@pytest.fixture
def short(monkeypatch):
    """As of a small text: no training has more than 12 steps, however much time there is."""
    monkeypatch.setattr(Trials, "most_steps", lambda *_: 12)


@pytest.mark.process
@pytest.mark.usefixtures("base", "whole_text", "short")
def test_what_it_writes_is_trained_by_train_py_to_the_same_loss(tmp_path, dataset, said, monkeypatch):
    options = ("--data", dataset.path, "--minutes", 1, "--candidates", 5, "--out", tmp_path / "mine.toml")
    output = called(tmp_path, *options)
    assert re.search(r"^written: .*mine.toml; all 17 trainings: .*mine.jsonl$", output, re.M)
    plan, *trainings, finding = journal(tmp_path)
    assert plan["data"] == {str(dataset.path): dataset.fingerprint}
    assert plan["rungs"] == [5, 4] and len(plan["candidates"]) == 5 and plan["candidates"][0] == {}
    assert [one["rung"] for one in trainings] == [1] * 5 + [2] * 12
    assert finding["confirmed"] and finding["seeds"] == 3
    comments = [line for line in (tmp_path / "mine.toml").read_text().splitlines() if line.startswith("#")]
    assert comments[0].startswith("# Written by gpt tune: 5 candidates, 17 trainings within 1 minutes on cpu")
    words = re.sub(r"\n# ", " ", "\n".join(comments))
    surely = f"surely better than the preset nano with {tmp_path / 'base.toml'}" in words
    assert surely == (finding["candidate"] == 0)

    config = parse_train(["--config", str(tmp_path / "mine.toml")]).config
    changes = plan["candidates"][finding["candidate"]]
    assert config.optimizer.learning_rate == changes.get("optimizer.learning_rate", 0.02)
    assert config.model.n_embd == changes.get("model.n_embd", 16)
    # A tuning trains as train.py does: with the seed of the last trainings, it comes to their loss, to the last bit.
    monkeypatch.setattr(summary, "draw_losses", lambda run: run)  # which takes longest
    told = next(one for one in trainings if one["rung"] == 2 and one["candidate"] == finding["candidate"])
    given = ["--config", tmp_path / "mine.toml", "--seed", told["seed"], "--run-dir", tmp_path / "run"]
    assert train.main([*map(str, given), "--device", "cpu", "--evaluation.tokens", "100000"]) == 0
    last = read_metrics(tmp_path / "run")[-1]
    assert (last["step"], last["val_loss"]) == (told["steps"], told["loss"])


@pytest.mark.process
@pytest.mark.usefixtures("base", "short")
def test_of_several_vocabularies_the_best_is_found(tmp_path, bpe, said):
    """The same documents in bytes and in 600 pieces: all candidates are one or the other."""
    text = python_text()
    documents = [("validation" if i % 5 == 0 else "train", text[600 * i :][:600]) for i in range(60)]
    one, two = (write_dataset(documents, kind, tmp_path / str(n)) for n, kind in enumerate(("bytes", bpe)))
    options = ("--data", one.path, two.path, "--vary", "vocabulary", "--minutes", 1, "--out", tmp_path / "mine.toml")
    called(tmp_path, *options)
    plan, *trainings, finding = journal(tmp_path)
    assert plan["candidates"] == [{}, {"data": str(two.path), "model.vocab_size": 600}]
    assert len(trainings) == 6
    by_candidate = [[one["bits_per_byte"]["reports"] for one in trainings if one["candidate"] == n] for n in (0, 1)]
    difference = finding["minus_the_preset"]["value"]
    assert difference == pytest.approx((sum(by_candidate[1]) - sum(by_candidate[0])) / 3)
    config = parse_train(["--config", str(tmp_path / "mine.toml")]).config
    assert config.data == (two.path if finding["candidate"] else one.path)
    assert config.model.vocab_size == preset("nano").model.vocab_size  # which stands in the dataset


@pytest.mark.process
@pytest.mark.usefixtures("base", "short")
@pytest.mark.parametrize("after", [0, 1, 4])
def test_ctrl_c_keeps_what_is_known(tmp_path, dataset, monkeypatch, after):
    honest, done = Trials.train, []

    def interrupted(*given):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(honest(*given))
        return done[-1]

    monkeypatch.setattr(Trials, "train", interrupted)
    out = tmp_path / "mine.toml"
    told = called(tmp_path, "--data", dataset.path, "--minutes", 1, "--candidates", 6, "--out", out, code=130)
    assert [entry["kind"] for entry in journal(tmp_path)] == ["plan", *["training"] * after, "finding"]
    if not after:
        assert f"interrupted: nothing is known yet, and {out} is not written" in told and not out.exists()
        return
    assert f"interrupted: {out} is written: " in told
    finding = journal(tmp_path)[-1]
    assert not finding["confirmed"]
    assert ("not confirmed" in " ".join(out.read_text().split())) == (after > 1)
    assert parse_train(["--config", str(out)]).config.steps == done[finding["candidate"]].steps


@pytest.mark.process
@pytest.mark.usefixtures("base", "short")
def test_the_same_seed_tries_the_same(tmp_path, dataset, monkeypatch):
    """Another one others; and what is there is replaced on request only."""
    monkeypatch.setattr(Trials, "train", _nothing)
    options = ("--data", dataset.path, "--minutes", 1, "--candidates", 6, "--out", tmp_path / "mine.toml")
    tried = []
    for more in ((), ("--replace",), ("--replace", "--seed", 2)):
        called(tmp_path, *options, *more, code=130)
        tried.append(journal(tmp_path)[0]["candidates"])
    assert tried[0] == tried[1] != tried[2]
    assert "mine.jsonl is there already; choose another name, or give --replace" in called(tmp_path, *options, code=2)


def _nothing(*_):
    raise KeyboardInterrupt


@pytest.mark.process
@pytest.mark.usefixtures("base")
def test_too_few_minutes_are_refused_before_anything_is_written(tmp_path, dataset):
    told = called(tmp_path, "--data", dataset.path, "--minutes", 0.0001, "--out", tmp_path / "mine.toml", code=2)
    assert re.search(r"--minutes 0.0001: are too few for 8 candidates here, .*: give at least [\d.]+, or fewer", told)
    assert not [*tmp_path.glob("mine.*")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--minutes", 0), "--minutes is 0.0; it must be above 0"),
        (("--minutes", "nan"), "--minutes is nan; it must be above 0"),
        (("--candidates", 1), "--candidates is 1; it must be at least 2"),
        (("--seed", -1), "--seed is -1; it must be from 0 to 2^62 - 1"),
        (("--out", "mine"), "--out mine: is to be a TOML file: call it mine.toml"),
        (("--data", "nothing"), "nothing: "),
        (("--data", "DATA", "nano"), "--data nano: is a preset, and no dataset; name it first, before all options"),
        (("--data", "DATA=0.5"), "DATA=0.5"),
        (("finetune",), "finetune: what suits trained weights, and how long, is planned by gpt train finetune itself"),
        (("nanoo",), "unknown preset 'nanoo'; did you mean 'nano'?"),
        (
            ("--data", "DATA", "--vary", "vocabulary"),
            "--vary vocabulary: needs several --data: the same text, prepared",
        ),
        (("--vary", "rate"), "rate"),
    ],
)
def test_mistakes_are_named(tmp_path, dataset, base, options, words):
    given = [str(option).replace("DATA", str(dataset.path)) for option in options]
    told = called(tmp_path, *given, code=2)
    assert words.replace("DATA", str(dataset.path)) in told
    assert not [*tmp_path.glob("*.jsonl")]


def test_a_mixture_and_trained_weights_are_refused(tmp_path, dataset, base):
    base.write_text(f"{BASE}\n".replace("preset =", f'data = ["{dataset.path}=1", "x=2"]\npreset ='))
    assert "is a mixture; a tuning takes one dataset" in called(tmp_path, code=2)
    base.write_text(f"steps = 3\ninit_from = {json.dumps(str(tmp_path / 'run'))}\n")
    assert "run" in called(tmp_path, code=2)


def test_it_begins_with_what_train_py_would(dataset, said, tmp_path, monkeypatch):
    """With the preset's settings, or those that suit the size of the text, and the first dataset's vocabulary."""
    monkeypatch.chdir(tmp_path)
    config, datasets = tune.begun("shakespeare-char-cpu", [dataset.path], None, "cpu")
    wanted = preset("shakespeare-char-cpu")
    model = replace(wanted.model, vocab_size=257)
    assert config == replace(wanted, data=dataset.path, device="cpu", model=model)
    assert [*datasets] == [dataset.path]
    config, _ = tune.begun("", [dataset.path], None, "cpu")
    assert (config.preset, config.batch_tokens, config.optimizer.learning_rate) == ("nano-deep", 1024, 0.01)
    assert config.model.context_length == 128
    small, _ = tune.begun("gpt2-small-corpus", [dataset.path], None, "cpu")
    assert small.optimizer.weight_decay == 2.5  # by the size of the text, as train.py has it
