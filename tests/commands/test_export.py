"""`gpt export`, as a person calls it."""

from helpers import TINY, run_gpt, run_here


def test_gpt_export_writes_what_transformers_loads(trained, dataset, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    home, _ = trained
    refused = run_gpt(home, "export", "--run", "runs/python-nano", "--to", tmp_path / "exported", code=2)
    assert "cannot represent this model, which has model.positions rope" in refused
    exact = ("shakespeare-char-cpu", "--data", dataset.path, "--steps", 2, *TINY, "--run-dir", "runs/exact")
    run_here("train.py", *exact, cwd=tmp_path)
    run_gpt(tmp_path, "export", "--run", "runs/exact", "--to", tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert model.config.n_embd == 32
    assert tokenizer.encode("def f(x):") == list(b"def f(x):")
    assert "validation loss" in run_gpt(tmp_path, "eval", "--run", tmp_path / "exported", "--data", dataset.path)
