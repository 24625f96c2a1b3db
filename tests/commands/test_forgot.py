"""`gpt forgot`, as a person calls it."""

import json
import re
from dataclasses import replace

import pytest
import torch
from helpers import run_gpt, saved_run, transformers, write_dataset

from gpt.commands.forgot import OTHER_TEXT, SEPARATOR
from gpt.runs.directory import read_config, write_config
from gpt.text.added import with_added
from gpt.text.tokenizer import Tokenizer


@pytest.fixture
def runs(tmp_path):
    return saved_run(tmp_path, "base"), saved_run(tmp_path, "tuned", noise=0.3)


def test_what_was_lost_on_the_package_s_text_is_that_of_gpt_eval(runs, tmp_path):
    base, tuned = runs
    output = run_gpt(tmp_path, "forgot", "--run", tuned, "--base", base)
    said = re.match(r"Forgotten: on this text the run is worse than its base, by \+([\d.]+) ± ([\d.]+) nats", output)
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", tuned, "--base", base, "--json"))
    assert found["sentence"] == output.splitlines()[0]
    arguments = ("--run", base, "--against", tuned, "--text", OTHER_TEXT, "--separator", SEPARATOR, "--json")
    one, two = json.loads(run_gpt(tmp_path, "eval", *arguments))["runs"]
    assert found["base"]["evaluation"] == one["evaluation"]
    assert found["run"]["evaluation"] == two["evaluation"]
    assert found["run"]["minus_the_first"] == two["minus_the_first"]
    assert float(said[1]) == pytest.approx(two["minus_the_first"]["loss"]["value"], abs=1e-4)
    assert float(said[2]) == pytest.approx(two["minus_the_first"]["loss"]["se"], abs=1e-4)
    assert found["run"]["minus_the_first"]["bits_per_byte"]["value"] > 0
    text = OTHER_TEXT.read_text(encoding="utf-8")
    separators = text.count(f"\n{SEPARATOR}\n")
    assert found["base"]["evaluation"]["text_bytes"] > 0.98 * len(text.encode()) - 10 * separators


def test_nothing_is_forgotten_by_the_same_weights_and_more_is_known_by_better_ones(runs, tmp_path):
    base, tuned = runs
    assert "Nothing forgotten that can be told" in run_gpt(tmp_path, "forgot", "--run", base, "--base", base)
    assert "Nothing forgotten: on this text the run is better" in run_gpt(
        tmp_path, "forgot", "--run", base, "--base", tuned
    )


def test_the_base_is_what_the_run_began_with(runs, tmp_path):
    base, tuned = runs
    assert "began with no other weights" in run_gpt(tmp_path, "forgot", "--run", tuned, code=2)
    write_config(tuned, replace(read_config(tuned), init_from=str(base)))
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", tuned, "--json"))
    assert found["base"]["source"] == f"{base}, step 1"


def test_other_text_may_be_a_file_or_a_dataset(runs, tmp_path):
    base, tuned = runs
    (tmp_path / "own.txt").write_text("Some other text. " * 40)
    both = ("--run", tuned, "--base", base)
    found = json.loads(run_gpt(tmp_path, "forgot", *both, "--text", "own.txt", "--json"))
    assert (found["data"], found["base"]["evaluation"]["tokens"]) == ("own.txt", 17 * 40)
    documents = [("train", "abc " * 60), ("validation", "The validation split. " * 20)]
    dataset = write_dataset(documents, "bytes", tmp_path / "data")
    found = json.loads(run_gpt(tmp_path, "forgot", *both, "--data", dataset.path, "--json"))
    assert found["base"]["evaluation"]["tokens"] == dataset.validation.tokens - 1
    refused = run_gpt(tmp_path, "forgot", *both, "--data", dataset.path, "--text", "own.txt", code=2)
    assert "--data and --text: each says what to evaluate on" in refused
    assert "say how to read --text" in run_gpt(tmp_path, "forgot", *both, "--separator", "==", code=2)


def test_models_of_different_contexts_see_as_much(tmp_path):
    base, tuned = saved_run(tmp_path, "base"), saved_run(tmp_path, "tuned", noise=0.1, context=24)
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", tuned, "--base", base, "--json"))
    assert found["base"]["evaluation"]["context_length"] == found["run"]["evaluation"]["context_length"] == 24


def test_a_base_of_another_tokenizer_and_context_is_compared_by_the_bits_per_byte(tmp_path, bpe):
    base = saved_run(tmp_path, "base", context=24)
    tuned = saved_run(tmp_path, "tuned", tokenizer=bpe, noise=0.1)
    for one, other in ((base, tuned), (tuned, base)):
        found = json.loads(run_gpt(tmp_path, "forgot", "--run", one, "--base", other, "--json"))
        assert [*found["run"]["minus_the_first"]] == ["bits_per_byte"]
        assert " bits per byte " in found["sentence"]


def test_what_a_run_began_with_needs_no_tokenizer_of_its_own(tmp_path):
    """Its ids are those of the run."""
    shape = transformers.GPT2Config(vocab_size=257, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(shape).save_pretrained(tmp_path / "hf")
    run = saved_run(tmp_path, "run")
    write_config(run, replace(read_config(run), init_from=str(tmp_path / "hf")))
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", run, "--json"))
    assert found["base"]["source"] == str(tmp_path / "hf")
    assert {*found["run"]["minus_the_first"]} == {"loss", "bits_per_byte"}
    refused = run_gpt(tmp_path, "forgot", "--run", run, "--base", tmp_path / "hf", code=2)
    assert "holds no tokenizer" in refused


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_base_gets_rows_for_the_special_tokens_of_the_run_in_any_precision(tmp_path, dtype):
    if dtype != "float32" and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("float16 and int8 need FBGEMM")
    base = saved_run(tmp_path, "base")
    grown = with_added(Tokenizer.utf8_bytes(), ["<|im_start|>", "<|im_end|>"])
    tuned = saved_run(tmp_path, "tuned", tokenizer=grown)
    write_config(tuned, replace(read_config(tuned), init_from=str(base)))
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", tuned, "--dtype", dtype, "--json"))
    alone = json.loads(run_gpt(tmp_path, "forgot", "--run", base, "--base", base, "--dtype", dtype, "--json"))
    assert {*found["run"]["minus_the_first"]} == {"loss", "bits_per_byte"}
    # Two rows more, which are the mean of the others, have some of the probability.
    assert 0 < found["base"]["evaluation"]["loss"] - alone["base"]["evaluation"]["loss"] < 0.05


def test_a_base_is_measured_inside_documents_where_the_run_was_trained_so(runs, tmp_path):
    base, tuned = saved_run(tmp_path, "plain"), saved_run(tmp_path, "masked")
    write_config(tuned, replace(read_config(tuned), windows="packed", document_mask=True))
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", tuned, "--base", base, "--json"))
    assert [found[which]["evaluation"]["document_mask"] for which in ("base", "run")] == [True, True]
    assert found["run"]["minus_the_first"]["loss"]["value"] == 0  # by the same weights
    assert ", inside documents, weights" in run_gpt(tmp_path, "forgot", "--run", tuned, "--base", base)
    (tmp_path / "own.txt").write_text("abc cab. " * 40)
    chars = saved_run(tmp_path, "chars", tokenizer=Tokenizer.char("abc .", end_of_text=False))
    found = json.loads(run_gpt(tmp_path, "forgot", "--run", tuned, "--base", chars, "--text", "own.txt", "--json"))
    assert found["base"]["evaluation"]["document_mask"] is False  # which can tell no documents apart


def test_a_vocabulary_without_the_text_s_characters_is_told(tmp_path):
    run = saved_run(tmp_path, "chars", tokenizer=Tokenizer.char("abc ", end_of_text=True))
    said = run_gpt(tmp_path, "forgot", "--run", run, "--base", run, code=2)
    assert "other_text.txt" in said
    assert "name other text, with --text or --data" in said


def test_the_text_of_the_package_has_enough_documents_for_an_error():
    text = OTHER_TEXT.read_text(encoding="ascii")
    assert 10_000 <= len(text) <= 20_000
    assert text.count(f"\n{SEPARATOR}\n") == 9
