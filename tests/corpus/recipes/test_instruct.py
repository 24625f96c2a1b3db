"""The recipe of prompts and answers with a chat template."""

import json
import re
from dataclasses import replace
from fractions import Fraction

import pytest
from helpers import ROOT, run_gpt

from gpt import InputError
from gpt.__main__ import COMMANDS
from gpt.apps.chat import HELP
from gpt.commands import preview
from gpt.corpus.content_split import SplitWhole
from gpt.corpus.examples import Examples
from gpt.corpus.instructions import example_of
from gpt.corpus.recipes.instruct import Instruct
from gpt.dataset.dataset import open_dataset
from gpt.dataset.mixture import mix_datasets
from gpt.text.chat_template import CHATML_SOURCE, PLAIN_SOURCE
from gpt.training.samples import answer_ends, sample_prompt

TALKS = [
    {"messages": [{"role": "user", "content": f"<|im_start|> ask {n}"}, {"role": "assistant", "content": f"told {n}"}]}
    for n in range(80)
]


@pytest.fixture
def home(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, TALKS)))
    return tmp_path


def prepare(home, *options, out="d", code=0):
    given = ("--input", "a.jsonl", "--name", "x", "--out", out, "--tokenizer", "bytes", *options)
    return run_gpt(home, "prepare", "instruct", *given, code=code)


def test_a_template_is_kept_with_the_dataset_and_its_tokens_are_in_the_vocabulary(home):
    prepare(home, "--template", "chatml")
    dataset = open_dataset(home / "d")
    assert dataset.tokenizer.special_tokens == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
    assert dataset.recipe["chat_template"] == CHATML_SOURCE
    ids = dataset.train.read(0, dataset.train.tokens).tolist()
    ends = ids.count(256)
    assert (ids.count(257), ids.count(258)) == (2 * ends, 2 * ends)  # none of those in the questions
    assert bytes(id for id in ids if id < 256).count(b"<|im_start|>") == ends
    prompt = sample_prompt(dataset)
    assert prompt == "<|im_start|>user\n<|im_start|> ask 0<|im_end|>\n<|im_start|>assistant\n"
    assert [id for id in prompt.ids(dataset.tokenizer) if id > 255] == [257, 258, 257]
    assert answer_ends(dataset) == ("<|im_end|>",)


def test_another_template_is_another_dataset(home):
    """A file's content is part of it."""
    prepare(home)
    assert open_dataset(home / "d").recipe["chat_template"] == PLAIN_SOURCE
    said = prepare(home, "--template", "chatml", code=2)
    assert "`template` was plain, and is chatml now".replace("`template`", "--template") in said
    (home / "own.jinja").write_text(CHATML_SOURCE)
    prepare(home, "--template", "own.jinja", out="e")
    (home / "own.jinja").write_text(f"{CHATML_SOURCE}{{# other #}}")
    assert "--template was own.jinja, SHA-256" in prepare(home, "--template", "own.jinja", out="e", code=2)
    assert "is neither plain nor chatml" in prepare(home, "--template", "chatlm", out="f", code=2)


def test_a_dry_run_counts_the_special_tokens(home, monkeypatch):
    monkeypatch.setattr(preview, "_training", lambda _: {"refused": "not of interest"})
    found = json.loads(prepare(home, "--template", "chatml", "--dry-run", "--json"))
    assert found["tokenizer"]["size"] == 259
    prepare(home, "--template", "chatml")
    dataset = open_dataset(home / "d")
    assert found["tokens"]["total"] == dataset.train.tokens + dataset.validation.tokens


def test_a_vocabulary_is_not_made_of_special_tokens(home):
    """Of the letters of those that are typed, only."""
    prepare(home, "--template", "chatml", "--tokenizer", "bpe:300")
    words = open_dataset(home / "d").tokenizer.ranks
    assert b" ask" in words
    assert not any(b"im_end" in word for word in words)
    assert any(b"start" in word for word in words)


def test_datasets_of_different_templates_are_not_mixed(home):
    for name in ("plain", "chatml"):
        prepare(home, "--template", name, "--tokenizer", "bytes", out=name)
    prepare(home, "--template", "chatml", "--max-tokens", "45", out="other")
    plain, chatml, other = (open_dataset(home / name) for name in ("plain", "chatml", "other"))
    mixed = mix_datasets([(chatml, Fraction(1, 4)), (other, Fraction(3, 4))])
    assert mixed.recipe["chat_template"] == CHATML_SOURCE
    alike = replace(plain, tokenizer=chatml.tokenizer)
    with pytest.raises(InputError, match="written with different chat templates, and a run has one"):
        mix_datasets([(chatml, Fraction(1, 2)), (alike, Fraction(1, 2))])


def test_the_settings_are_what_is_recorded(home):
    recipe = Instruct([home / "a.jsonl"], "x", template="chatml")
    assert recipe.steps() == {"examples": Examples(template=CHATML_SOURCE)}
    assert recipe.manifest_entry()["template"] == "chatml"
    assert recipe.manifest_entry().items() >= vars(SplitWhole(0.1, "move", 0.1)).items()


def test_the_examples_of_the_repository_are_sixty_and_name_what_is_there():
    """Each is an example; commands and options that are named exist, so that a renamed one is found here."""
    lines = (ROOT / "examples" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [[message["content"] for message in json.loads(line)["messages"]] for line in lines]
    assert len({question for question, _ in pairs}) == len(lines) == 60
    for line in lines:
        example_of(json.loads(line))
    answers = " ".join(answer for _, answer in pairs)
    assert {*re.findall(r"\bgpt (\w+)", answers)} <= {*COMMANDS, "does"}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gpt").rglob("*.py"))
    for option in {*re.findall(r"--([\w-]+)", answers)}:
        assert re.search(rf"\b{option.replace('-', '_')}\b", sources), option
    commands = {*re.findall(r"(?<![\w.])/[a-z]+\b(?!/)", answers)}
    assert "/undo" in commands and all(f"  {command} " in HELP for command in commands)
