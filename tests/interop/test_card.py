"""The card of an exported model, as the hub's own library reads it."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from gpt.interop.card import RUNNERS, Card, Result, plain, write_card

CARD = Card(
    name="stories",
    what="A language model.",
    proof="It is the run's model.",
    sections={"Model": [("layers", "2")]},
    not_for=("Facts.",),
    prompt="Once 'upon'\n",
)


@pytest.fixture
def written(tmp_path):
    """Writes a card for a config.json, and gives what the hub's library reads, and its text."""

    def write(card=CARD, **config):
        given = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"}
        (tmp_path / "config.json").write_text(json.dumps(given | config), encoding="utf-8")
        write_card(tmp_path, card)
        return ModelCard.load(tmp_path / "README.md").data, (tmp_path / "README.md").read_text(encoding="utf-8")

    return write


def test_what_nobody_stated_is_left_out(written):
    data, text = written()
    assert data.to_dict() == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["gpt2"]}
    assert "None was stated when it was exported" in text
    assert "## Proof\n\nIt is the run's model." in text and "| layers | 2 |" in text and "- Facts." in text


def test_results_are_read_with_their_errors(written):
    results = [Result("loss", "validation loss", 1.25, 0.5), Result("perplexity", "perplexity", 3.5, None)]
    data, _ = written(replace(CARD, data=("mine",), results=results, license="mit", language="en"))
    assert (data.license, data.language, data.model_name) == ("mit", "en", "stories")
    found = [(each.metric_type, each.metric_value, each.metric_args) for each in data.eval_results]
    assert found == [("loss", 1.25, {"standard_error": 0.5}), ("perplexity", 3.5, None)]
    assert {(each.task_type, each.dataset_name, each.dataset_split) for each in data.eval_results} == {
        ("text-generation", "mine", "validation")
    }


def test_data_and_base_on_the_hub_are_named_as_there(written):
    card = replace(CARD, data=("tinystories",), hub_data=("roneneldan/TinyStories",), base="openai-community/gpt2")
    data, _ = written(replace(card, relation="finetune", results=[Result("loss", "loss", 1.0, None)]))
    assert (data.datasets, data.base_model) == (["roneneldan/TinyStories"], "openai-community/gpt2")
    assert data.base_model_relation == "finetune"
    assert data.eval_results[0].dataset_type == "roneneldan/TinyStories"
    data, _ = written(replace(CARD, relation="finetune"))
    assert "base_model_relation" not in data.to_dict()  # a relation to nothing


@pytest.mark.parametrize(
    ("kind", "program", "words"),
    [
        ("GPT2LMHeadModel", "vLLM", "yes"),
        ("ArceeForCausalLM", "llama.cpp", "yes"),
        ("ApertusForCausalLM", "vLLM", "--model-impl transformers"),
        ("ApertusForCausalLM", "llama.cpp", "no"),
        ("Qwen3ForCausalLM", "llama.cpp", "**no: it converts it, and then computes SiLU"),
        ("GPTNeoXForCausalLM", "CTranslate2", "yes"),
        ("Qwen2ForCausalLM", "llama.cpp", "**no"),
        ("NobodyKnowsForCausalLM", "vLLM", "unknown"),
    ],
)
def test_who_computes_it_goes_by_its_class(written, kind, program, words):
    _, text = written(architectures=[kind])
    assert f"class `{kind}`" in text
    [line] = [line for line in text.splitlines() if line.startswith(f"| {program} |")]
    assert words in line


def test_every_class_has_a_word_for_every_program():
    assert {len(known) for known in RUNNERS.values()} == {6}


def test_a_setting_that_others_may_not_know_is_not_promised(written):
    doubted = replace(CARD, doubts=["model.activation relu", "model.n_inner 96"])
    _, text = written(doubted)
    assert "| transformers | yes |" in text
    words = "unknown: it may not know model.activation relu, model.n\\_inner 96"
    assert all(f"| {program} | {words} |" in text for program in ("vLLM", "SGLang", "llama.cpp", "CTranslate2"))
    _, text = written(doubted, architectures=["Qwen3ForCausalLM"])
    assert "| vLLM | through transformers" in text and "| llama.cpp | **no: it converts it" in text
    _, text = written(doubted, auto_map={})
    assert "may not know" not in text  # nobody has the class


def test_code_of_its_own_is_said(written):
    data, text = written(auto_map={"AutoModelForCausalLM": "modeling_gpt.GPT"}, model_type="gpt-run")
    assert data.tags == ["gpt-run", "custom_code"]
    assert text.count("trust_remote_code=True") == 3  # model, tokenizer, and the table
    assert "| vLLM | no: no class of theirs has this architecture |" in text


def test_adapters_are_pefts(written):
    card = replace(CARD, adapter_of="../base", base="openai-community/gpt2", relation="adapter")
    data, text = written(replace(card, more={"base_model_sha256": "abc"}))
    assert (data.library_name, data.base_model_relation, data["base_model_sha256"]) == ("peft", "adapter", "abc")
    assert "base = '../base'" in text and "Which programs" not in text


def test_names_cannot_change_the_page_or_the_metadata(written):
    name = "x\n---\nlicense: mit\n# | <b>`"
    data, text = written(replace(CARD, name=name, data=(name,), results=[Result("loss", "loss", 1.0, None)]))
    assert data.license is None and data.model_name == "x␊---␊license: mit␊# | <b>`"
    assert "\n# x␊---␊license: mit␊\\# \\| &lt;b>\\`\n" in text
    assert plain("a_b|c") == "a\\_b\\|c"


@pytest.mark.parametrize("prompt", ["Once 'upon'\n", 'a "quoted" \\ one', "東京"])
@pytest.mark.parametrize("chat", [False, True])
def test_the_lines_of_python_are_python(written, prompt, chat):
    _, text = written(replace(CARD, prompt=prompt, is_chat=chat))
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert repr(prompt) in code and ("apply_chat_template" in code) == chat
