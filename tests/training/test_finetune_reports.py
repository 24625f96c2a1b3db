"""What users of other programs reported of fine-tuning, each with the input that would show it here.

Each test is named by repository and number. Lengths, small texts and early stops have tests beside this file, too;
files of other programs have theirs in tests/interop.
"""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import Training, require_equal, run_gpt, run_here, run_sample, weights, write_dataset
from safetensors.torch import load_file, save_file

from gpt import InputError
from gpt.choices import IGNORE_INDEX
from gpt.config import CheckpointConfig, EvaluationConfig
from gpt.dataset.loader import Batch
from gpt.runs import checkpoint
from gpt.runs.checkpoint import load_best, load_newest
from gpt.runs.directory import read_config
from gpt.runs.integrity import weights_sha256
from gpt.runs.load import load_run
from gpt.tracking.jsonl import read_metrics
from gpt.training.checkpointing import begin
from gpt.training.finetuning import Forecast
from gpt.training.state import TrainState

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def no_trial(monkeypatch):
    monkeypatch.setattr(Forecast, "seconds", lambda *_: None)


@pytest.fixture
def tuning(tiny_config, trained_run):
    """Some steps from the weights of a run, evaluated before the first."""
    evaluation = EvaluationConfig(every=4, at_start=True, sample_tokens=0)
    return replace(tiny_config, init_from=str(trained_run), steps=8, evaluation=evaluation)


def begun(make_training, config, name="tuned"):
    training = make_training(config, name)
    training.state = begin(training.run, training.trainer, training.validation)
    return training


def test_nanogpt_161_what_is_sampled_is_the_tuned_model_and_the_log_names_what_it_began_with(
    make_training, tuning, trained_run, dataset, said, tmp_path
):
    source = load_run(trained_run)
    digest = weights_sha256(source.model.state_dict())
    training = begun(make_training, tuning)
    assert f"weights: {trained_run}, step 30, SHA-256 {digest}" in said
    assert read_config(training.run).init_sha256 == digest
    assert training.fit()
    first = read_metrics(training.run)[0]
    assert (first["step"], first["train_loss"]) == (0, None)
    base = json.loads((source.path / "checkpoints" / "step-00000030" / "state.json").read_text())
    assert first["val_loss"] == base["evaluation"]["loss"]
    tuned = load_run(training.run)
    assert weights_sha256(tuned.model.state_dict()) != digest
    sample = run_sample(tmp_path, "--run", training.run, "--max-tokens", 2, "--prompt", "def", "--json")
    assert json.loads(sample)["run"] == f"{training.run}, step 8"


def test_lerobot_3459_and_peft_574_a_base_that_changed_meanwhile_is_refused_by_its_hash(
    make_training, tuning, trained_run
):
    training = begun(make_training, tuning)
    kept = read_config(training.run)
    begun(make_training, replace(kept, run_dir=None), "again")
    shutil.rmtree(trained_run / "checkpoints")
    make_training(replace(tuning, init_from="scratch", steps=3), "other").fit()
    shutil.copytree(training.run.parent / "other" / "checkpoints", trained_run / "checkpoints")
    with pytest.raises(
        InputError, match=f"with the SHA-256 {kept.init_sha256}, and .* has others now, with [0-9a-f]{{64}}"
    ):
        begun(make_training, replace(kept, run_dir=None), "changed")


def test_the_hash_is_of_the_weights_and_not_of_their_file(trained_run, tmp_path):
    weights = load_newest(trained_run).model
    digest = weights_sha256(weights)
    save_file(dict(reversed(weights.items())), tmp_path / "a.safetensors", metadata={"a": "b"})
    assert weights_sha256(load_file(tmp_path / "a.safetensors")) == digest
    assert (
        weights_sha256(
            {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in weights.items()}
        )
        == digest
    )
    name = next(iter(weights))
    assert weights_sha256(weights | {name: weights[name] + 1e-6}) != digest
    assert weights_sha256({f"{key}x": tensor for key, tensor in weights.items()}) != digest


def test_transformers_24103_and_peft_394_whoever_reads_the_run_gets_its_best(
    make_training, tuning, tmp_path, monkeypatch
):
    """It stops early, and neither its last weights nor those that were within the errors are taken."""
    evaluation = replace(tuning.evaluation, every=1, min_gain=1e9)
    config = replace(
        tuning, evaluation=evaluation, early_stopping_patience=3, checkpoint=CheckpointConfig(every=1, keep=9)
    )
    config = replace(config, model=replace(config.model, vocab_size=257))
    training = begun(make_training, config)
    assert training.fit()
    best, last = load_best(training.run), load_newest(training.run)
    assert (best.state["step"], last.state["step"]) == (0, 3)
    assert last.state["within_error"]
    require_equal(load_run(training.run).model.state_dict() | best.model, best.model)
    run_gpt(tmp_path, "export", "--run", training.run, "--to", tmp_path / "exported")
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert torch.equal(exported["transformer.wte.weight"], best.model["token_embedding.weight"])
    result = json.loads(run_gpt(tmp_path, "eval", "--run", training.run, "--json"))
    assert result["runs"][0]["evaluation"]["loss"] == pytest.approx(best.state["evaluation"]["loss"], abs=1e-5)
    sample = run_sample(tmp_path, "--run", training.run, "--max-tokens", 1, "--prompt", "x", "--json")
    assert json.loads(sample)["run"] == f"{training.run}, step 0"
    again = begun(make_training, replace(config, init_from=str(training.run)), "again")
    require_equal(weights(again), best.model)


def test_trl_6668_and_1053_a_batch_without_a_target_is_skipped_by_name_and_changes_nothing(make_training, tuning):
    training = begun(make_training, tuning)
    batch, before = training.loader.batch(0), weights(training)
    empty = Batch(batch.inputs, torch.full_like(batch.targets, IGNORE_INDEX))
    record = training.trainer.step(TrainState(), empty)
    assert (record["skipped"], record["samples"]) == ("none of its targets counts", [0, 1, 2, 3, 4, 5])
    require_equal(before, weights(training))


def test_transformers_34191_and_trl_2175_accumulating_is_one_batch(make_training, tuning):
    """Rows of very unequal numbers of targets, one at a time and all at once."""
    config, found = replace(tuning, model=replace(tuning.model, dropout=0.0)), []
    for size in (1, 6):
        training = begun(make_training, replace(config, micro_batch_size=size), f"at-{size}")
        batch = training.loader.batch(0)
        for row, targets in enumerate(batch.targets):
            targets[: 6 * row] = IGNORE_INDEX
        record = training.trainer.step(TrainState(), batch)
        found.append((record["train_loss"], record["gradient_norm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize(("characters", "fits"), [(5, False), (100, False), (400, True)])
def test_gpt_2_simple_103_a_text_shorter_than_a_window_is_tuned_on_or_refused_with_the_least_size(
    trained_run, tmp_path, characters, fits
):
    (tmp_path / "mine.txt").write_text(("the cat sat on a mat, and the dog ate it. " * 10)[:characters])
    given = ("files", "--input", "mine.txt", "--name", "mine", "--tokenizer", trained_run)
    said = run_here("data/prepare.py", *given, cwd=tmp_path, code=0 if fits else 2)
    if not fits:
        assert "the smallest window needs 17" in said
        return
    flags = ("--init-from", trained_run, "--data", "data/mine", "--device", "cpu")
    output = run_here("train.py", "finetune", *flags, cwd=tmp_path)
    assert "to learn from" in output
    assert re.search(r"learned by step \d+, of validation: ", output)


def test_nanogpt_97_and_gpt_2_simple_30_what_over_fits_says_so_stops_and_keeps_its_best(
    make_training, tuning, tmp_path, said
):
    """A few hundred bytes, at a rate at which they are soon known by heart."""
    text = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 2
    dataset = write_dataset(
        [("train", text), ("validation", "A tale of two cities, and of what they were like then.")],
        "bytes",
        tmp_path / "d",
    )
    config = replace(
        tuning, data=dataset.path, steps=400, batch_tokens=192, early_stopping_patience=3, cooldown=0.1,
        evaluation=replace(tuning.evaluation, min_gain=1.0), optimizer=replace(tuning.optimizer, learning_rate=0.01),
        checkpoint=CheckpointConfig(every=0), run_dir=make_training(tuning, "mine").run,
    )  # fmt: skip
    training = Training(config, dataset, config.run_dir)
    training.state = begin(config.run_dir, training.trainer, training.validation)
    assert training.fit()
    losses = {r["step"]: r["val_loss"] for r in read_metrics(training.run) if "val_loss" in r}
    assert training.state.step < 100
    assert load_best(training.run).state["evaluation"]["loss"] == min(losses.values()) < losses[0]
    assert any("no longer improves" in line or "without a new best" in line for line in said)


def test_nanogpt_210_the_first_steps_in_float16_are_numbers(make_training, tuning):
    training = begun(make_training, replace(tuning, dtype="float16", steps=4))
    assert training.fit()
    records = read_metrics(training.run)
    assert all(math.isfinite(record["train_loss"]) for record in records[1:])
    assert not any("skipped" in record for record in records)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--model.n-layer", 3), "model.n_layer is 1 and cannot become 3"),
        (("--model.context-length", 64, "--batch-tokens", 128), "model.context_length is 32 and cannot become 64"),
        (("--model.positions", "rope"), "model.positions is learned and cannot become rope"),
    ],
)
def test_what_contradicts_the_weights_is_refused(trained_run, dataset, tmp_path, flags, reason):
    given = ("finetune", "--init-from", trained_run, "--data", dataset.path, "--device", "cpu", *flags)
    said = run_here("train.py", *given, cwd=tmp_path, code=2)
    assert reason in said
    assert "only its dropout can be changed, and its context made smaller" in said


def test_another_tokenizer_and_weights_that_are_no_numbers_are_refused(trained_run, dataset, tmp_path):
    other = write_dataset([("train", "abcd " * 100), ("validation", "dcba " * 100)], "char", tmp_path / "other")
    given = ("finetune", "--init-from", trained_run, "--device", "cpu")
    assert "prepare the data with " in run_here("train.py", *given, "--data", other.path, cwd=tmp_path, code=2)
    state = load_newest(trained_run)
    shutil.rmtree(trained_run / "checkpoints")
    state.model["final_norm.weight"][3] = math.nan
    checkpoint.save(trained_run, state.model, {}, state.state)
    said = run_here("train.py", *given, "--data", dataset.path, cwd=tmp_path, code=2)
    assert "final_norm.weight has numbers that are not finite" in said
