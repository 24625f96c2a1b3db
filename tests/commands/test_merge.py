"""`gpt merge`, and what of adapters other commands read: the same logits, merged, exported and not."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import run_gpt, same

from gpt import load_run
from gpt.config import OptimizerConfig
from gpt.files import read_json
from gpt.model.lora import LoRAConfig, lora_layers, merged_weights
from gpt.runs.checkpoint import list_checkpoints
from gpt.runs.directory import read_config

IDS = torch.arange(32).unsqueeze(0)
NAN = torch.full((32,), torch.nan)


@pytest.fixture
def on_base(make_training, tiny_config, finished):
    """A run that trained adapters on the exact GPT-2; B is far from zero."""
    base = finished(replace(tiny_config, steps=2), "base")
    config = replace(
        tiny_config,
        steps=4,
        init_from=str(base),
        lora=LoRAConfig(rank=4),
        model=replace(tiny_config.model, dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=3e-2, warmup_steps=1),
        evaluation=replace(tiny_config.evaluation, every=0),
    )
    training = make_training(config, "on-base")
    training.fit()
    return training.run


def logits(source, **options):
    with torch.no_grad():
        return load_run(source, **options).model(IDS)


def test_merged_exported_and_apart_have_the_same_logits(on_base, tmp_path):
    from transformers import AutoModelForCausalLM

    apart = logits(on_base)
    told = run_gpt(tmp_path, "merge", "--run", "on-base", "--to", "merged", "--device", "cpu")
    change = float(told.split("largest change of a logit ")[1].split(",")[0])
    assert change < 1e-5 and "written: merged" in told
    assert "before: +" in told or "before: -" in told
    merged = tmp_path / "merged"
    run_gpt(tmp_path, "export", "--run", on_base, "--to", "exported")
    run_gpt(tmp_path, "export", "--run", merged, "--to", "exported-2")
    found = [logits(merged), logits(tmp_path / "exported"), logits(on_base, prepacked=True)]
    with torch.no_grad():
        found += [AutoModelForCausalLM.from_pretrained(tmp_path / n)(IDS).logits for n in ("exported", "exported-2")]
    assert (apart - logits(tmp_path / "base")).abs().max() > 0.01
    for each in found:
        torch.testing.assert_close(each, apart, rtol=0, atol=1e-5)


def test_a_merged_run_is_a_run_as_any_other(on_base, tmp_path, dataset):
    run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", "--device", "cpu")
    config, base = read_config(tmp_path / "merged"), read_config(tmp_path / "base")
    assert config.optimizer != read_config(on_base).optimizer  # but that of the weights, which goes on with them
    assert config == replace(
        read_config(on_base), lora=LoRAConfig(), run_dir=config.run_dir, optimizer=base.optimizer,
        batch_tokens=base.batch_tokens,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "base")
    assert "validation loss" in run_gpt(tmp_path, "eval", "--run", "merged", "--device", "cpu")
    assert run_gpt(tmp_path, "sample", "--run", "merged", "--prompt", "x", "--max-tokens", 3, "--device", "cpu")
    assert run_gpt(tmp_path, "score", "--run", "merged", "--text", "x = 1", "--device", "cpu")
    flags = ("--steps", 1, "--device", "cpu", "--run-dir", "again", "--batch-tokens", 192, "--lora.rank", 2)
    run_gpt(tmp_path, "train", "finetune", "--init-from", "merged", "--data", dataset.path, *flags)


def test_a_merge_that_predicts_worse_is_refused_and_writes_nothing(on_base, tmp_path, monkeypatch):
    """Whatever it is that makes it so; a loss that is no number is no better."""
    from gpt.commands import merge

    monkeypatch.setattr(merge, "MOST_WORSE", -1.0)
    refused = run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", "--dtype", "bfloat16", code=2)
    assert "merged and rounded to bfloat16, its validation loss would be" in refused
    assert "nothing was written: use --dtype float32" in refused
    refused = run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", code=2)
    assert "go on with base and adapters apart" in refused
    monkeypatch.setattr(merge, "MOST_WORSE", 1e-3)
    monkeypatch.setattr(merge, "merged_weights", lambda model: merged_weights(model) | {"final_norm.bias": NAN})
    assert "nan where 0.001 is allowed" in run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", code=2)
    assert not (tmp_path / "merged").exists()


def test_rounding_to_bfloat16_is_measured_against_base_and_adapters_apart(on_base, tmp_path):
    model = load_run(on_base).model
    rounded = {name: tensor.bfloat16().float() for name, tensor in merged_weights(model).items()}
    told = run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", "--dtype", "bfloat16", "--device", "cpu")
    assert same(load_run(tmp_path / "merged").model.state_dict(), rounded)
    [checkpoint] = list_checkpoints(tmp_path / "merged")
    whole = sum(tensor.numel() for tensor in rounded.values())
    assert (checkpoint / "model.safetensors").stat().st_size < 2 * whole + 10_000
    assert float(told.split("largest change of a logit ")[1].split(",")[0]) > 1e-4


def test_what_cannot_be_merged_is_refused(on_base, tmp_path):
    def refusal(*options):
        return run_gpt(tmp_path, "merge", "--device", "cpu", *options, code=2)

    assert "has no adapters to be merged" in refusal("--run", "base", "--to", "merged")
    assert "exists and is not empty" in refusal("--run", on_base, "--to", "base")
    config = read_json(on_base / "config.json")
    config["config"]["data"] = "elsewhere"
    (on_base / "config.json").write_text(json.dumps(config))
    assert "elsewhere: is not there, and merged weights are compared" in refusal("--run", on_base, "--to", "merged")
    told = run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", "--unchecked", "--device", "cpu")
    assert "largest change of a logit" in told and "validation loss" not in told
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(on_base), rtol=0, atol=1e-5)


def test_adapters_that_no_step_made_better_are_not_merged(on_base, tmp_path, monkeypatch):
    from gpt.commands import merge

    loaded = load_run(on_base)
    monkeypatch.setattr(merge, "load_run", lambda *_, **__: replace(loaded, state=loaded.state | {"step": 0}))
    refused = run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", code=2)
    assert f"use {tmp_path / 'base'} itself, or merge a later --checkpoint, such as last" in refused
    assert not (tmp_path / "merged").exists()


def test_an_engine_and_scores_read_adapters_as_they_are(on_base, tmp_path):
    assert list(lora_layers(load_run(on_base).model))
    run_gpt(tmp_path, "merge", "--run", on_base, "--to", "merged", "--device", "cpu")
    scores = [
        json.loads(run_gpt(tmp_path, "score", "--run", run, "--text", "import os", "--json", "--device", "cpu"))
        for run in (on_base, "merged")
    ]
    one, two = (score["scores"] for score in scores)
    for a, b in zip(one, two, strict=True):
        assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-5)
