"""Adapters in PEFT's format, both ways: PEFT is the reference, and left out where it is not installed."""

import copy
import dataclasses
import functools
import json
import random
import re
import shlex
import sys

import pytest
import torch
from helpers import SHAPE, from_version, transformers
from safetensors.torch import load_file, save_file

from gpt import GPT, InputError, ModelConfig, Tokenizer, load_run
from gpt.interop import huggingface_export, peft, peft_config
from gpt.interop.peft import Base, base_of, read_adapter
from gpt.interop.peft_export import write_adapter
from gpt.model.lora import Adapter, LayerAdapter, LoRAConfig, add_adapter, merge, new_adapter

LAYERS, WIDTH, VOCAB = 3, 24, 61
CONFIG = ModelConfig(n_layer=LAYERS, n_head=2, n_embd=WIDTH, context_length=16, vocab_size=VOCAB)
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A GPT-2 of transformers, as it saves it, with weights so large that a mistake shows."""
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    shape = {"n_layer": LAYERS, "n_head": 2, "n_embd": WIDTH, "n_positions": 16, "vocab_size": VOCAB}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    MODELS[path] = model
    return path


MODELS = {}  # by their directories, as reading them takes longer than copying them


def their_base(path, kind="GPT2LMHeadModel"):
    return (
        copy.deepcopy(MODELS[path]) if kind == "GPT2LMHeadModel" else getattr(transformers, kind).from_pretrained(path)
    )


@functools.cache
def base_logits(path):
    return logits(MODELS[path])


def logits(model):
    ids = torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = model.eval()(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


def require_near(one, two):
    assert (one - two).abs().max() < 1e-5, (one - two).abs().max()


def theirs(base, to, kind="GPT2LMHeadModel", **settings):
    """An adapter of PEFT's with B ≠ 0, saved; the model that has it, as PEFT reads it again.

    What PEFT saves sorts its patterns, so that another one may be the first that fits.
    """
    library = pytest.importorskip("peft")
    model = library.get_peft_model(their_base(base, kind), library.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    model.create_or_update_model_card = lambda _: None  # takes longer than the weights
    model.save_pretrained(to)
    return library.PeftModel.from_pretrained(their_base(base, kind), to)


def ours(base, adapter, merged=False):
    model = load_run(base).model
    add_adapter(model, adapter)
    if merged:
        merge(model)
    return model


def require_both_ways(base, to, **settings):
    """PEFT's adapter has its logits here; written again and read by PEFT, and exported, the same."""
    library = pytest.importorskip("peft")
    expected = logits(theirs(base, to / "theirs", **settings))
    assert (expected - base_logits(base)).abs().max() > 1e-2  # it does something
    adapter = read_adapter(to / "theirs", CONFIG)
    model = ours(base, adapter)
    require_near(logits(model), expected)
    require_near(logits(ours(base, adapter, merged=True)), expected)
    write_adapter(adapter, CONFIG, Base(str(base), None), to / "ours")
    back = library.PeftModel.from_pretrained(their_base(base), to / "ours")
    require_near(logits(back), expected)
    require_near(logits(back.merge_and_unload()), expected)
    again = read_adapter(to / "ours", CONFIG)
    assert again.layers.keys() == adapter.layers.keys()
    for name, layer in adapter.layers.items():
        assert torch.equal(layer.A, again.layers[name].A)
        assert torch.equal(layer.B, again.layers[name].B)
        assert layer.scale == pytest.approx(again.layers[name].scale, rel=1e-12)
    return model, expected


FORMS = {
    "PEFT's own": {},
    "one": {"target_modules": ["c_attn"]},
    "two layers by one name": {"target_modules": ["c_proj"], "r": 3, "lora_alpha": 5},
    "a square layer": {"target_modules": ["attn.c_proj"]},
    "all four": {"target_modules": ["c_attn", "c_proj", "c_fc"], "lora_alpha": 32, "r": 16},
    "whole names": {"target_modules": ["transformer.h.1.attn.c_attn", "transformer.h.2.mlp.c_fc"]},
    "an expression": {"target_modules": r".*\.h\.[02]\.(attn|mlp)\.c_(attn|proj)"},
    "an expression of one": {"target_modules": r"transformer\.h\.1\.mlp\.c_proj"},
    "all linear": {"target_modules": "all-linear"},
    "all linear, in capitals": {"target_modules": "All-Linear", "exclude_modules": ["c_fc"]},
    "excluded by an expression": {"target_modules": ["c_attn", "c_fc"], "exclude_modules": r".*h\.0\..*"},
    "a layer": {"target_modules": ["c_attn"], "layers_to_transform": 1},
    "layers": {"target_modules": ["c_attn", "mlp.c_proj"], "layers_to_transform": [0, 2]},
    "layers of a list": {"target_modules": ["c_fc"], "layers_to_transform": [2], "layers_pattern": "h"},
    "layers of lists": {"target_modules": ["c_fc"], "layers_to_transform": [2], "layers_pattern": ["blocks", "h"]},
    "a whole name beside layers": {
        "target_modules": ["c_fc", "transformer.h.0.attn.c_attn"],
        "layers_to_transform": [2],
    },
    "rank-stabilized": {"target_modules": ["c_attn"], "use_rslora": True, "r": 5, "lora_alpha": 3},
    "ranks by pattern": {"target_modules": "all-linear", "rank_pattern": {"c_attn": 2, r"h\.1\.mlp\.c_fc": 7}},
    "alphas by pattern": {
        "target_modules": ["c_attn", "c_proj"],
        "alpha_pattern": {"mlp.c_proj": 1, "c_proj": 64, "^transformer.h.0.attn.c_attn": 3},
    },
    "both, rank-stabilized": {
        "target_modules": ["c_proj", "c_fc"],
        "use_rslora": True,
        "rank_pattern": {"attn.c_proj": 1, r"h\.2\.mlp\..*": 6},
        "alpha_pattern": {"fc": 100, "c_fc": 2, r"h.\d.mlp.c_proj": 0.5},
    },
    "fan_in_fan_out": {"target_modules": ["c_attn", "attn.c_proj"], "fan_in_fan_out": True},
    "begun by Gauss": {"target_modules": ["c_fc"], "init_lora_weights": "gaussian"},
    "begun at random": {"target_modules": ["c_fc"], "init_lora_weights": False},
    "begun orthogonally": {"target_modules": ["c_fc"], "init_lora_weights": "orthogonal", "r": 4},
    "MiCA": {"target_modules": ["c_fc"], "init_lora_weights": "MiCA", "r": 4},
    "what changes training alone": {
        "target_modules": ["c_fc"],
        "lora_dropout": 0.3,
        "ensure_weight_tying": False,
        "qalora_group_size": 32,
        "megatron_core": "another",
    },
}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=from_version("peft", "0.20", "begins no adapter so") if form == "MiCA" else ())
        for form in FORMS
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_each_form_of_targets_gives_equal_logits_both_ways(base, tmp_path, form):
    require_both_ways(base, tmp_path, **FORMS[form])


@pytest.mark.filterwarnings("ignore")
def test_exported_it_has_the_same_logits(base, tmp_path):
    model, expected = require_both_ways(base, tmp_path, **FORMS["both, rank-stabilized"])
    tokenizer = Tokenizer.char(map(chr, range(40, 40 + VOCAB)), end_of_text=False)
    huggingface_export.export(model, tokenizer, tmp_path / "exported")
    require_near(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")), expected)


def drawn(rng):
    """Settings as somebody may choose them."""
    names = [*LINEAR, "c_attn", "c_fc", "c_proj", "transformer.h.1.mlp.c_fc"]
    expressions = [rf".*h\.\d\.{re.escape(rng.choice(LINEAR))}", r".*c_(attn|fc)", r"transformer\.h\.[12]\.mlp\.c_.*"]
    settings = {"r": rng.randint(1, 6), "lora_alpha": rng.choice([1, 2.5, 8, 32]), "use_rslora": rng.random() < 0.4}
    targets = rng.choice([rng.sample(names, rng.randint(1, 4)), rng.choice(expressions), "all-linear"])
    settings["target_modules"] = targets
    if isinstance(targets, list) and rng.random() < 0.4:
        settings["layers_to_transform"] = rng.choice([1, [0, 1], [1, 2]])
    patterns = [*LINEAR, "c_proj", r".*\.1\..*", "h.2.attn.c_attn", "attn", r"mlp\..*"]
    settings["rank_pattern"] = {name: rng.randint(1, 7) for name in rng.sample(patterns, rng.randint(0, 3))}
    settings["alpha_pattern"] = {name: rng.choice([1, 3, 20]) for name in rng.sample(patterns, rng.randint(0, 3))}
    if rng.random() < 0.4:
        settings["exclude_modules"] = rng.choice([["attn.c_proj"], r".*h\.0\.mlp.*"])
    return settings


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore")
def test_drawn_settings_give_equal_logits_both_ways(base, tmp_path, seed):
    require_both_ways(base, tmp_path, **drawn(random.Random(seed)))


# ---- files as they may come, against the plain formula: these need no PEFT ----


def written(path, config=None, dtype=torch.float32, name="", prefix="transformer.", layers=("h.1.attn.c_attn",)):
    """A directory of PEFT's, by hand: adapters of rank 2 of these layers; its tensors."""
    path.mkdir(exist_ok=True)
    basic = {"peft_type": "LORA", "target_modules": ["c_attn"], "layers_to_transform": 1, "r": 2, "lora_alpha": 3}
    (path / "adapter_config.json").write_text(json.dumps(basic | (config or {})))
    shapes = {"c_attn": (24, 72), "attn.c_proj": (24, 24), "c_fc": (24, 96), "mlp.c_proj": (96, 24)}
    tensors, generator = {}, torch.Generator().manual_seed(3)
    for layer in layers:
        inputs, outputs = next(shape for end, shape in shapes.items() if layer.endswith(end))
        for part, shape in (("A", (2, inputs)), ("B", (outputs, 2))):
            key = f"base_model.model.{prefix}{layer}.lora_{part}{name}.weight"
            tensors[key] = torch.randn(shape, generator=generator).to(dtype)
    save_file(tensors, path / "adapter_model.safetensors")
    return list(tensors.values())


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"name": ".default"},
        {"name": ".my-name"},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16, "name": ".x"},
        {"prefix": "", "config": {"task_type": "FEATURE_EXTRACTION", "layers_pattern": ["h"]}},
        {"config": {"fan_in_fan_out": True, "lora_dropout": 0.5, "inference_mode": False, "megatron_core": "x"}},
        {"config": {"a_key_of_later": None, "another": False, "a_third": {}, "use_dora": False, "modules_to_save": []}},
    ],
    ids=str,
)
def test_files_are_read_as_the_formula_says(tmp_path, form):
    a, b = written(tmp_path, **form)
    ((name, layer),) = read_adapter(tmp_path, CONFIG).layers.items()
    assert name == "blocks.1.attention.qkv"
    assert layer.A.dtype == layer.B.dtype == torch.float32
    assert torch.equal(layer.A, a.float())
    assert torch.equal(layer.B, b.float())
    assert layer.scale == 3 / 2


def test_merged_it_is_the_sum_of_base_and_product(base, tmp_path):
    a, b = written(tmp_path)
    plain = load_run(base).model.state_dict()
    found = ours(base, read_adapter(tmp_path, CONFIG), merged=True).state_dict()
    expected = plain["blocks.1.attention.qkv.weight"].double() + 1.5 * b.double() @ a.double()
    assert (found.pop("blocks.1.attention.qkv.weight") - expected).abs().max() < 1e-5
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


REFUSED = {
    "DoRA": {"use_dora": True},
    "modules_to_save ['lm_head']": {"modules_to_save": ["lm_head"]},
    "tokens that were trained": {"trainable_token_indices": [5]},
    "lora_bias True": {"lora_bias": True},
    "bias is 'all'": {"bias": "all"},
    "bias is 'lora_only'": {"bias": "lora_only"},
    "peft_type is 'LOHA'": {"peft_type": "LOHA"},
    "peft_type is None": {"peft_type": None},
    "task_type is 'SEQ_CLS'": {"task_type": "SEQ_CLS"},
    "single parameters": {"target_parameters": ["c_attn.weight"]},
    "Megatron": {"megatron_config": {"tensor_model_parallel_size": 1}},
    "layers that stand twice": {"layer_replication": [[0, 2], [1, 3]]},
    "aLoRA": {"alora_invocation_tokens": [1, 2]},
    "use_qalora": {"use_qalora": True},
    "use_bdlora": {"use_bdlora": {"nblocks": 1}},
    "arrow_config": {"arrow_config": {"top_k": 3}},
    "a_key_of_later 3, which is not known": {"a_key_of_later": 3},
    "target_modules has transformer.wte": {"target_modules": ["c_attn", "wte"], "layers_to_transform": None},
    "target_modules has lm_head": {"target_modules": ["c_attn", "lm_head"], "layers_to_transform": None},
    "init_lora_weights is 'pissa_niter_4'": {"init_lora_weights": "pissa_niter_4"},
    **{
        f"init_lora_weights is '{start}', by which the base itself was changed": {"init_lora_weights": start}
        for start in ("pissa", "olora", "corda", "loftq", "lora_ga")
    },
    "init_lora_weights is 'later', which is not known": {"init_lora_weights": "later"},
    **{f"has {key} True: {called} cannot": {key: True} for key, called in peft_config._CALLED.items()},
    "r is 0": {"r": 0},
    "r is True": {"r": True},
    "lora_alpha is '16'": {"lora_alpha": "16"},
    "lora_alpha is inf": {"lora_alpha": float("inf")},
    "rank_pattern c_attn is 2.0": {"rank_pattern": {"c_attn": 2.0}},
    "its adapter_config.json means 4": {"rank_pattern": {"c_attn": 4}},
    "'c_attn(' is no regular expression": {"target_modules": "c_attn(", "layers_to_transform": None},
    "is no regular expression (the repetition": {
        "target_modules": "a{99999999999999999999}",
        "layers_to_transform": None,
    },
    "is no regular expression": {"target_modules": "(" * 5000 + ")" * 5000, "layers_to_transform": None},
    "(a|t|[a-z.]|.)*[0-9]' takes more than 0.05 seconds": {
        "target_modules": "(a|t|[a-z.]|.)*[0-9]",
        "layers_to_transform": None,
    },
    "*[0-9])$' takes more than 0.05 seconds": {"alpha_pattern": {"(a|t|[a-z.]|.)*[0-9]": 3}},
    "*[0-9]' takes more than 0.05 seconds": {"exclude_modules": "(a|t|[a-z.]|.)*[0-9]"},
    "repeats something 1,000,000,000 times": {"rank_pattern": {"(?:(?:x{1000}){1000}){1000}": 3}},
    "has 10,0": {"rank_pattern": {"x" * 10_001: 3}},
    "which is not read here": {"rank_pattern": {"(?:c_attn){e<=1}": 3}},  # fuzzy in regex, letters in re
    "lora_alpha is 1000000": {"lora_alpha": 10**400},
    "r is 1000000": {"r": 10**400, "use_rslora": True},
    "cannot go with a regular expression": {"target_modules": ".*c_attn"},
    "needs layers_to_transform": {"layers_to_transform": None, "layers_pattern": "h"},
    "names no linear layer": {"target_modules": ["attn"]},
    "adapts transformer.h.0.attn.c_attn, and": {"layers_to_transform": [0, 1]},
    "which its adapter_config.json does not adapt": {"target_modules": ["c_fc"], "layers_to_transform": [1]},
    "target_modules is 3": {"target_modules": 3},
    "layers_to_transform is": {"layers_to_transform": ["1"]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_it_has_and_we_have_not_is_refused_by_name(tmp_path, monkeypatch, words):
    monkeypatch.setattr(peft_config, "MOST_SECONDS", 0.05 if "0.05" in words else 3.0)
    layers = ("h.1.attn.c_attn", "h.1.mlp.c_fc") if "does not adapt" in words else ("h.1.attn.c_attn",)
    written(tmp_path, REFUSED[words], layers=layers)
    with pytest.raises(InputError, match=re.escape(words)):
        read_adapter(tmp_path, CONFIG)


def test_each_field_that_peft_has_is_read_or_refused_by_name(tmp_path):
    """So that a new one is noticed here; and what PEFT writes of all its defaults is read."""
    library = pytest.importorskip("peft")
    known = peft_config._READ | peft_config._WITHOUT_EFFECT | peft_config._CALLED.keys()
    assert {field.name for field in dataclasses.fields(library.LoraConfig)} - known == set()
    written(tmp_path)
    library.LoraConfig(target_modules=["c_attn"], layers_to_transform=[1], r=2, lora_alpha=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config.keys() - known == set()
    assert list(read_adapter(tmp_path, CONFIG).layers) == ["blocks.1.attention.qkv"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"base_model.model.transformer.h.1.attn.c_attn.lora_magnitude_vector": torch.ones(72)}, "lora_magnitude"),
        ({"base_model.model.transformer.wte.weight": torch.ones(61, 24)}, "wte.weight, which is no lora_A"),
        ({"base_model.model.transformer.wte.lora_embedding_A": torch.ones(2, 61)}, "lora_embedding_A"),
        ({"base_model.model.transformer.h.9.mlp.c_fc.lora_A.weight": torch.ones(2, 24)}, "only lora_A for"),
        ({"base_model.model.transformer.h.1.attn.c_attn.lora_A.b.weight": torch.ones(2, 24)}, "several adapters"),
        ({"base_model.model.transformer.h.1.attn.c_attn.lora_A.weight": torch.full((2, 24), torch.nan)}, "finite"),
        ({"base_model.model.transformer.h.1.attn.c_attn.lora_A.weight": torch.ones(24)}, "no matrix"),
        ({"base_model.model.transformer.h.1.attn.c_attn.lora_A.weight": torch.ones(2, 24).int()}, "no matrix"),
    ],
)
def test_other_weights_are_refused_by_name(tmp_path, extra, words):
    written(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file(load_file(file) | extra, file)
    with pytest.raises(InputError, match=re.escape(words)):
        read_adapter(tmp_path, CONFIG)


def test_another_base_is_refused(base, tmp_path):
    written(tmp_path, {"layers_to_transform": [7]}, layers=["h.7.attn.c_attn"])
    with pytest.raises(InputError, match="h.7.attn.c_attn, and the base has no such linear layer: it is for another"):
        read_adapter(tmp_path, CONFIG)
    written(tmp_path)
    model = load_run(base).model
    wider = Adapter({"blocks.1.attention.qkv": LayerAdapter(torch.ones(2, 32), torch.ones(96, 2), 1.0)})
    with pytest.raises(InputError, match="it is for another model"):
        add_adapter(model, wider)
    with pytest.raises(InputError, match="for the exact GPT-2; this has model.positions rope"):
        read_adapter(tmp_path, dataclasses.replace(SHAPE, positions="rope"))


def test_damaged_files_are_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        read_adapter(tmp_path, CONFIG)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="adapter_model.safetensors: is missing$"):
        read_adapter(tmp_path, CONFIG)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="adapter_config.json: cannot be read as PEFT's config"):
        read_adapter(tmp_path, CONFIG)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path, monkeypatch):
    directory = tmp_path / "an adapter's"
    a, b = written(directory)
    tensors = load_file(directory / "adapter_model.safetensors")
    torch.save(tensors, directory / "adapter_model.bin")
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="pickled; convert it by: ") as refused:
        read_adapter(directory, CONFIG)
    program, option, code, *arguments = shlex.split(str(refused.value).partition("convert it by: ")[2])
    assert (program, option) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    (layer,) = read_adapter(directory, CONFIG).layers.values()
    assert torch.equal(layer.A, a)
    assert torch.equal(layer.B, b)


def test_the_base_is_named_as_a_run_takes_it(tmp_path):
    written(tmp_path)
    assert base_of(tmp_path) == (None, None)
    assert base_of(tmp_path).source is None
    written(tmp_path, {"base_model_name_or_path": "openai-community/gpt2", "revision": "abc"})
    assert base_of(tmp_path).source == "openai-community/gpt2@abc"
    assert peft.is_adapter(tmp_path)
    assert not peft.is_adapter(tmp_path / "none")


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_its_head_has_names_of_its_own(base, tmp_path):
    settings = {"target_modules": ["c_attn", "mlp.c_proj"]}
    model = theirs(base, tmp_path, "GPT2Model", **settings)
    hidden = model(torch.arange(16).unsqueeze(0)).last_hidden_state
    adapted = ours(base, read_adapter(tmp_path, CONFIG))
    weight = adapted.token_embedding.weight
    require_near(adapted(torch.arange(16).unsqueeze(0)), hidden.detach() @ weight.t())


ROTARY = {"positions": "rope", "n_kv_head": 1}
RMS = ROTARY | {"normalization": "rms", "activation": "relu-squared", "bias": False}
MODERN = {
    "GPTNeoXForCausalLM": {"positions": "rope"},
    "ArceeForCausalLM": RMS,
    "ApertusForCausalLM": RMS | {"qk_norm": True},
    "Qwen3ForCausalLM": RMS | {"qk_norm": True, "sliding_window": 5},
}


@pytest.mark.parametrize("targets", [LoRAConfig().targets, ("attention.qkv",)], ids=["all", "qkv"])
@pytest.mark.parametrize("kind", MODERN)
def test_adapters_of_modern_models_are_split_as_their_layers_are(tmp_path, kind, targets):
    """Queries, keys and values, or gate and up, each get their rows of B and a copy of A."""
    library = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(CONFIG, **MODERN[kind])).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert huggingface_export.export(model, Tokenizer.utf8_bytes(), tmp_path / "base").name == kind
    adapter = new_adapter(model, LoRAConfig(rank=2, alpha=6.0, targets=targets))
    adapter = Adapter({name: layer._replace(B=torch.randn_like(layer.B)) for name, layer in adapter.layers.items()})
    write_adapter(adapter, model.config, Base(str(tmp_path / "base"), None), tmp_path / "adapter")
    alone = logits(model)
    add_adapter(model, adapter)
    theirs = library.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    expected = logits(model)
    assert (expected - alone).abs().max() > 0.1
    for found in (logits(theirs), logits(theirs.merge_and_unload())):
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    with pytest.raises(InputError, match=r"for the exact GPT-2; this has model.positions rope"):
        read_adapter(tmp_path / "adapter", model.config)
