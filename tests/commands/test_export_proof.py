"""That transformers computes what was exported: a real export passes, and one in which anything is wrong does not."""

import json
import math
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from helpers import saved_run, write_dataset
from safetensors.torch import load_file, save_file

from gpt import GPT, ModelConfig, Tokenizer, load_run
from gpt.commands.export_prompts import BUILT_IN, OWN, PROMPTS, TEXTS, Prompts, prompts_for
from gpt.commands.export_proof import TOLERANCE, NotProved, Proof, _judged, prove
from gpt.interop.huggingface_export import export


@pytest.fixture
def tokenizer():
    return Tokenizer.utf8_bytes()


@pytest.fixture
def prompts(tokenizer):
    return prompts_for(None, tokenizer)


@pytest.fixture
def exported(model, tokenizer, tmp_path):
    export(model, tokenizer, tmp_path / "exported")
    return tmp_path / "exported"


def change_weights(exported, change):
    weights = load_file(exported / "model.safetensors")
    change(weights)
    save_file(weights, exported / "model.safetensors", metadata={"format": "pt"})


def change_json(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


# ---- what is right ----


def test_a_real_export_is_proved(model, tokenizer, prompts, exported):
    proof = prove(model, tokenizer, prompts, exported)
    assert proof.passed and proof.faults == ()
    assert (proof.equal + proof.ties, proof.prompt_tokens, proof.new_tokens, proof.window) == (20, 24, 24, 48)
    assert 0 < proof.difference < proof.tolerance == TOLERANCE * proof.largest
    ids = torch.tensor([tokenizer.encode(TEXTS[0])[:24]])
    assert proof.largest >= model(ids).abs().max() > 1
    words = proof.in_words
    assert f"transformers {version('transformers')}" in words and "of 20 are continued by the same 24 greedy" in words
    assert f"{proof.difference:.1e}" in words and f"{proof.tolerance:.1e}" in words


def test_64_tokens_are_drawn_where_the_context_holds_them(tokenizer, prompts, tmp_path):
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=140, vocab_size=257)).eval()
    export(model, tokenizer, tmp_path / "exported")
    proof = prove(model, tokenizer, prompts, tmp_path / "exported")
    shortest = min(len(text.encode()) for text in TEXTS)
    assert proof.passed and (proof.prompt_tokens, proof.new_tokens, proof.window) == (min(64, shortest), 64, 140)


@pytest.mark.parametrize("context", [1, 2])
def test_the_smallest_contexts_are_proved(context, tokenizer, prompts, tmp_path):
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=context, vocab_size=257)).eval()
    export(model, tokenizer, tmp_path / "exported")
    proof = prove(model, tokenizer, prompts, tmp_path / "exported")
    assert proof.passed and (proof.prompt_tokens, proof.new_tokens) == (1, context - 1)


def test_files_in_bfloat16_are_held_against_rounded_weights(model, tokenizer, prompts, exported):
    change_weights(exported, lambda weights: weights.update({n: w.bfloat16() for n, w in weights.items()}))
    change_json(exported / "config.json", dtype="bfloat16")
    assert prove(model, tokenizer, prompts, exported).passed
    assert model.dtype == torch.float32


# ---- what is wrong ----


def test_one_changed_weight_fails_with_figures(model, tokenizer, prompts, exported):
    change_weights(exported, lambda weights: weights["transformer.h.1.mlp.c_fc.weight"][3, 5].add_(0.5))
    proof = prove(model, tokenizer, prompts, exported)
    assert not proof.passed and proof.difference > 100 * proof.tolerance
    assert f"logits differ by up to {proof.difference:.1e}; {proof.tolerance:.1e} is allowed" in proof.faults
    assert proof.in_words.startswith("FAILED. Loaded again by transformers")


def test_other_continuations_fail_with_the_place_where_they_part(model, tokenizer, prompts, exported):
    change_weights(exported, lambda weights: weights["transformer.wte.weight"].neg_())
    proof = prove(model, tokenizer, prompts, exported)
    assert any("continuations have other ids: number 1 from its token" in fault for fault in proof.faults)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_another_activation_fails(activation, model, tokenizer, prompts, exported):
    change_json(exported / "config.json", activation_function=activation)
    proof = prove(model, tokenizer, prompts, exported)
    assert not proof.passed and proof.difference > proof.tolerance


def test_a_weight_that_is_no_number_fails(model, tokenizer, prompts, exported):
    change_weights(exported, lambda weights: weights["transformer.wpe.weight"][0, 0].fill_(math.nan))
    proof = prove(model, tokenizer, prompts, exported)
    assert not proof.passed and "inf" in proof.in_words


def test_a_position_beyond_the_prompts_is_looked_at(tokenizer, prompts, tmp_path):
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=200, vocab_size=257)).eval()
    export(model, tokenizer, tmp_path / "exported")
    change_weights(tmp_path / "exported", lambda weights: weights["transformer.wpe.weight"][190, 3].add_(1.0))
    proof = prove(model, tokenizer, prompts, tmp_path / "exported")
    assert proof.equal == 20 and not proof.passed


def test_another_tokenizer_fails(model, tokenizer, prompts, exported):
    content = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    (exported / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    proof = prove(model, tokenizer, prompts, exported)
    assert proof.faults == (proof.faults[0],) and "the tokenizers differ on " in proof.faults[0]
    assert not any(text[:10] in proof.in_words for text in TEXTS)  # figures, not texts


def test_another_vocabulary_fails(model, tokenizer, prompts, exported):
    change_weights(exported, lambda w: w.update({"transformer.wte.weight": w["transformer.wte.weight"][:200].clone()}))
    change_json(exported / "config.json", vocab_size=200, bos_token_id=None, eos_token_id=None)
    assert "it scores 200 tokens, and the run's model 257" in prove(model, tokenizer, prompts, exported).faults


def test_what_cannot_be_loaded_fails_without_naming_a_path(model, tokenizer, prompts, exported, tmp_path):
    (exported / "model.safetensors").unlink()
    proof = prove(model, tokenizer, prompts, exported)
    assert not proof.passed and "could not load or compute it (OSError" in proof.in_words
    assert str(tmp_path) not in proof.in_words


# ---- ties ----


def test_continuations_that_part_at_a_tie_are_no_difference(prompts):
    """Rounding decides between two logits that are equal within the tolerance, and this is said."""
    found = Proof("transformers 5", prompts, 24, 24, equal=18, difference=1e-6, largest=2.0)
    tied = _judged(found, [(3, 7, 1e-6), (5, 1, 2e-5)])
    assert tied.passed and tied.ties == 2
    assert "18 of 20 are continued by the same 24 greedy tokens, and 2 part where both models have two" in tied.in_words
    real = _judged(found, [(3, 7, 1e-6), (5, 1, 3e-5)])
    assert real.ties == 1
    assert real.faults == ("1 of 20 continuations have other ids: number 5 from its token 1 on, "
                           "where two logits are 3.0e-05 apart",)  # fmt: skip
    assert not _judged(found, [(3, 7, math.nan)]).passed


# ---- where there is nothing to ask ----


def test_without_transformers_it_is_said_how_to_get_it(model, tokenizer, prompts, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = prove(model, tokenizer, prompts, exported)
    assert isinstance(found, NotProved) and found.passed is None
    assert "transformers is not installed" in found.in_words and "pip install 'transformers>=4.56'" in found.in_words


@pytest.mark.parametrize(("installed", "kind", "words"), [("4.40.1", "gpt2", "too old"), (None, "odd", "not know odd")])
def test_a_transformers_that_cannot_know_the_class_is_no_failure(
    installed, kind, words, model, tokenizer, prompts, exported, monkeypatch
):
    import transformers

    monkeypatch.setattr(transformers, "__version__", installed or transformers.__version__)
    change_json(exported / "config.json", model_type=kind)
    found = prove(model, tokenizer, prompts, exported)
    assert isinstance(found, NotProved) and words in found.why


# ---- prompts ----


def test_prompts_are_of_the_validation_data(dataset, tiny_config):
    own = dataset.tokenizer.decode(dataset.validation.read(0, dataset.validation.tokens).tolist())
    prompts = prompts_for(tiny_config, dataset.tokenizer)
    assert prompts.source == OWN and len(prompts.texts) == len(set(prompts.texts)) == PROMPTS
    assert all(text in own and len(text) >= 8 and "<|endoftext|>" not in text for text in prompts.texts)


def test_prompts_are_built_in_where_the_data_is_gone_or_of_another_tokenizer(dataset, tiny_config, tmp_path, bpe):
    gone = replace(tiny_config, data=tmp_path / "gone")
    for config, tokenizer in [(None, dataset.tokenizer), (gone, dataset.tokenizer), (tiny_config, bpe)]:
        assert prompts_for(config, tokenizer) == Prompts(list(TEXTS), BUILT_IN)


def test_documents_that_are_too_short_give_no_prompts(short_documents, tiny_config):
    config = replace(tiny_config, data=short_documents.path)
    found = prompts_for(config, short_documents.tokenizer)
    assert found.source == BUILT_IN or all(len(text) >= 8 for text in found.texts)


@pytest.mark.parametrize("characters", ["abc defghij,.T", "東京の"])
def test_prompts_have_only_characters_of_the_vocabulary(characters, tmp_path):
    tokenizer = Tokenizer.char(characters, end_of_text=True)
    prompts = prompts_for(None, tokenizer)
    assert all(len(tokenizer.encode(text)) >= 8 for text in prompts.texts) and len(prompts.texts) == PROMPTS


def test_a_run_of_characters_is_proved(tmp_path):
    tokenizer = Tokenizer.char("abc defghij,.T", end_of_text=False)
    run = load_run(saved_run(tmp_path, "run", noise=0.2, tokenizer=tokenizer))
    export(run.model, tokenizer, tmp_path / "exported")
    assert prove(run.model, tokenizer, prompts_for(None, tokenizer), tmp_path / "exported").passed


def test_prompts_end_where_a_document_does(tmp_path, tiny_config):
    pieces = [("validation" if i % 2 else "train", f"Document {i} says something of its own.") for i in range(60)]
    data = write_dataset(pieces, "bytes", tmp_path / "data")
    prompts = prompts_for(replace(tiny_config, data=data.path), data.tokenizer)
    assert prompts.source == OWN and not any("<|" in text for text in prompts.texts)
    assert all("Document" not in text[1:] for text in prompts.texts)
