"""Adapters that are put on one base after another: of runs here, and of PEFT's."""

from dataclasses import replace

import pytest
import torch
from adapter_files import adapters_of_a_base, save_peft
from helpers import heard, require_equal, variant

from gpt import InputError, Tokenizer, load_run
from gpt.device import Target
from gpt.interop import huggingface_export
from gpt.runs import checkpoint
from gpt.runs.adapters import Adapters, find, load_adapter
from gpt.runs.directory import read_config
from gpt.runs.integrity import weights_sha256
from gpt.runs.load import read_source

PLAIN = Target("cpu", torch.float32, prepacked=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return adapters_of_a_base(tmp_path)


def names(adapters):
    return [str(path) for path in adapters.list()]


def test_those_of_the_base_are_listed_and_those_that_were_given(home):
    adapters = Adapters.open(["one", "elsewhere"], PLAIN)
    assert names(adapters) == ["runs/one", "elsewhere", "runs/theirs", "runs/two"]
    assert adapters.list()[next(iter(adapters.list()))].startswith("rank 2, attention.qkv")
    assert names(Adapters.of(load_run("base"), PLAIN)) == ["runs/one", "runs/theirs", "runs/two"]
    assert names(Adapters.open([home / "runs" / "two"], PLAIN)) == [str(home / "runs/two"), "runs/one", "runs/theirs"]


@pytest.mark.parametrize("prepacked", [False, True])
def test_they_are_switched_on_weights_that_are_read_once(home, monkeypatch, prepacked):
    ids = torch.arange(20).unsqueeze(0)
    expected = {name: load_run(name, prepacked=prepacked).model(ids) for name in ("base", "one", "two")}
    assert not torch.equal(expected["one"], expected["two"])
    adapters = Adapters.of(load_run("one"), PLAIN._replace(prepacked=prepacked))
    before = weights_sha256(adapters.base.weights)
    monkeypatch.setattr("gpt.runs.adapters.read_base", None)
    for name in ("two", "none", "one", "theirs", "two", "none"):
        loaded = adapters.load(name)
        assert loaded.tokenizer.vocab_size == 257
        if name in expected or name == "none":
            assert torch.equal(loaded.model(ids), expected["base" if name == "none" else name]), name
        assert adapters.current is None if name == "none" else adapters.current.name == name
    assert weights_sha256(adapters.base.weights) == before


def test_one_of_ours_on_its_base_is_the_run_itself(home):
    one = load_run("one")
    for loaded in (load_adapter("one"), load_adapter("runs/one", "base")):
        require_equal(loaded.model.state_dict(), one.model.state_dict())
        assert (loaded.source, loaded.path) == (one.source, one.path)


def test_one_of_theirs_is_put_on_a_run_and_the_difference_is_said(home):
    weights = load_run("base").model.state_dict()
    with heard() as lines:
        loaded = load_adapter("theirs", "base")
    assert not lines
    assert loaded.source == "runs/base, step 3, with the adapter runs/theirs"
    found = loaded.model.state_dict()
    assert torch.equal(found["blocks.1.attention.qkv.weight"], weights["blocks.1.attention.qkv.weight"])
    assert found["blocks.1.attention.qkv.lora_A"].shape == (2, 32)
    save_peft(home / "other", base_model_name_or_path="openai-community/gpt2", revision="abc")
    with heard() as lines:
        load_adapter("other", "base")
    wanted = "other: was trained on openai-community/gpt2@abc, and is put on runs/base, step 3, whose shapes fit"
    assert lines == [wanted]


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
def test_the_short_name_of_a_base_on_the_hub_is_its_name(home, name):
    save_peft(home / "other", base_model_name_or_path=name)
    base = replace(read_source("base"), name="openai-community/gpt2@abc")
    with heard() as lines:
        Adapters(base, PLAIN, ["other"]).load("other")
    assert not lines


def test_one_of_theirs_finds_its_base(home):
    exported = home / "exported"
    model = variant("gpt2")
    huggingface_export.export(model, Tokenizer.utf8_bytes(), exported)
    save_peft(home / "third", base_model_name_or_path=str(exported))
    with heard() as lines:
        loaded = load_adapter("third")
    assert not lines
    assert loaded.path == exported
    assert torch.equal(loaded.model.state_dict()["token_embedding.weight"], model.token_embedding.weight)
    with pytest.raises(InputError, match="theirs: does not say by base_model_name_or_path for what it is: name that"):
        load_adapter("theirs")


def test_another_base_is_refused_by_hash_or_by_shapes(home):
    own = read_config(find("another base's")).init_from
    message = f"base's: is for the weights of {own} with the SHA-256 .*, and runs/base has others now"
    with pytest.raises(InputError, match=message):
        load_adapter("another base's", "base")
    adapters = Adapters.open(["one"], PLAIN)
    with pytest.raises(InputError, match="`adapter` runs/another base's: was trained on .* with the SHA-256"):
        adapters.load("another base's")
    save_peft(home / "runs" / "wider", width=40)
    with pytest.raises(
        InputError, match="wider: maps 40 numbers to 96 at blocks.1.attention.qkv, and .* has 32 and 96"
    ):
        adapters.load("wider")
    with pytest.raises(InputError, match="wider: maps"):
        Adapters.open(["one", "wider"], PLAIN)
    assert "runs/wider" not in names(adapters)
    assert adapters.current is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"adapter": "nothing"}, "nothing: there is no such directory; name a run that trained adapters"),
        ({"adapter": "."}, ".: is neither a run nor an adapter of PEFT's"),
        ({"adapter": "base"}, "`adapter` runs/base: holds whole weights, and no adapter"),
        ({"source": "one", "adapter": "theirs"}, "`run` one: has adapters itself"),
        (
            {"source": "one", "adapter": "two"},
            "runs/two: is for the weights of .*/runs/base with .*, and runs/one has others",
        ),
    ],
)
def test_what_is_no_adapter_or_no_base_is_refused(home, given, words):
    with pytest.raises(InputError, match=words):
        load_adapter(**given)


def test_a_run_that_saved_nothing_yet_is_not_listed(home):
    for path in checkpoint.list_checkpoints(home / "runs" / "one"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert names(Adapters.open(["two"], PLAIN)) == ["runs/two", "runs/theirs"]
    with pytest.raises(InputError, match="runs/one: has no checkpoint yet"):
        Adapters.open(["two", "one"], PLAIN)
