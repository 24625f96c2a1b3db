"""`gpt export`, as a person calls it."""

import json

import pytest
import torch
from adapter_files import adapters_of_a_base
from helpers import TINY, run_gpt, run_here

from gpt import generate, load_run
from gpt.commands.export import named_base
from gpt.runs.adapters import load_adapter
from gpt.runs.directory import read_config


def test_gpt_export_writes_what_transformers_loads(trained, dataset, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    home, _ = trained
    refused = run_gpt(home, "export", "--run", "runs/python-nano", "--to", tmp_path / "exported", code=2)
    assert "no class of Hugging Face's computes this model, which has model.ngram 3; Apertus" in refused
    assert "--with-code writes the model's own code" in refused
    exact = ("shakespeare-char-cpu", "--data", dataset.path, "--steps", 2, *TINY, "--run-dir", "runs/exact")
    run_here("train.py", *exact, cwd=tmp_path)
    run_gpt(tmp_path, "export", "--run", "runs/exact", "--to", tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert model.config.n_embd == 32
    assert tokenizer.encode("def f(x):") == list(b"def f(x):")
    assert "validation loss" in run_gpt(tmp_path, "eval", "--run", tmp_path / "exported", "--data", dataset.path)


def test_a_run_with_ngrams_writes_the_same_text_in_transformers(trained, tmp_path):
    """The default run of `make train`, but for its size: exported with its code, it is the same model there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    home, _ = trained
    both = run_gpt(
        home, "export", "--run", "runs/python-nano", "--to", tmp_path / "x", "--adapter", "--with-code", code=2
    )
    assert "--adapter: goes with a class of transformers, not --with-code" in both
    said = run_gpt(home, "export", "--run", "runs/python-nano", "--to", tmp_path / "coded", "--with-code")
    assert f'as GPTForCausalLM; load it with AutoModelForCausalLM.from_pretrained("{tmp_path}/coded", trust_re' in said
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "coded", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "coded", trust_remote_code=True)
    ours = load_run(home / "runs" / "python-nano")
    assert ours.config.ngram == 3
    ids = tokenizer("def f(", return_tensors="pt").input_ids
    theirs = model.generate(ids, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=0)[0].tolist()
    prompt = ours.tokenizer.encode("def f(")
    assert theirs == prompt + list(generate(ours.model, prompt, max_tokens=20, temperature=0))
    assert tokenizer.decode(theirs) == ours.tokenizer.decode(theirs)
    assert load_run(tmp_path / "coded").config.ngram == 3  # and is read here again


def test_gpt_export_writes_adapters_beside_their_base(tmp_path, monkeypatch):
    """PEFT reads both, where it is installed, and has the logits of the run."""
    monkeypatch.chdir(tmp_path)
    adapters_of_a_base(tmp_path)
    run_gpt(tmp_path, "export", "--run", "one", "--to", "out", "--adapter")
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 6, {})
    assert config["base_model_name_or_path"] == str(tmp_path / "out" / "base")
    assert read_config(tmp_path / "runs" / "one").init_sha256 in (tmp_path / "out/adapter/README.md").read_text()
    ids = torch.arange(40).unsqueeze(0)
    expected = load_run("one").model(ids)
    assert (load_run("base").model(ids) - expected).abs().max() > 0.01
    assert (load_adapter("out/adapter").model(ids) - expected).abs().max() < 1e-5
    for given, words in [(("base",), "has no adapters"), (("one",), "exists and is not empty")]:
        assert words in run_gpt(tmp_path, "export", "--run", *given, "--to", "out", "--adapter", code=2)
    peft = pytest.importorskip("peft")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter").eval()
    assert (theirs(ids).logits - expected).abs().max() < 1e-5


def test_a_base_on_the_hub_is_named_as_it_is_there(tmp_path):
    assert named_base("openai-community/gpt2@607a30d", tmp_path / "base") == ("openai-community/gpt2", "607a30d")
    assert named_base(str(tmp_path), tmp_path / "base") == (str(tmp_path / "base"), None)
