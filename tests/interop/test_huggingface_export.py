"""Exports, loaded by transformers' own classes: our logits and ids there, and back again."""

import copy
import itertools
import json
from dataclasses import asdict, dataclass, replace
from functools import cache

import pytest
import torch
from helpers import SHAPE, VARIANTS, heard, ignored_scale, transformers, variant
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file

from gpt import GPT, InputError, ModelConfig, Tokenizer, generate, load_run
from gpt.interop import classes, huggingface_weights
from gpt.interop.huggingface import read_config
from gpt.interop.huggingface_export import export
from gpt.interop.modern_config import their_config
from gpt.model.positions import BASE
from gpt.presets import PRESETS
from gpt.text.added import with_added

TINY = ModelConfig(n_layer=3, n_head=4, n_embd=16, context_length=20, vocab_size=67, window_pattern="SL")
OPTIONS = {
    "positions": ("learned", "rope"),
    "normalization": ("layer", "rms"),
    "qk_norm": (False, True),
    "activation": ("gelu", "gelu-erf", "relu", "relu-squared"),
    "bias": (True, False),
    "tie_embeddings": (True, False),
    "n_kv_head": (None, 2),
    "sliding_window": (None, 5),
    "scale_by_inverse_layer": (False, True),
}
EVERY = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]
ROPE_RMS = {"positions": "rope", "normalization": "rms"}
MODERN = ROPE_RMS | {"activation": "relu-squared", "bias": False, "tie_embeddings": False}
EXPECTED = {
    "GPT2LMHeadModel": [
        {},
        {"activation": "relu-squared", "bias": False, "tie_embeddings": False},
        {"activation": "gelu-erf", "scale_by_inverse_layer": True, "n_inner": 50, "layer_norm_epsilon": 0.1},
    ],
    "GPTNeoXForCausalLM": [
        {"positions": "rope", "tie_embeddings": False},
        {"positions": "rope", "bias": False, "activation": "gelu-erf", "n_inner": 50, "layer_norm_epsilon": 0.1},
    ],
    "ArceeForCausalLM": [MODERN, ROPE_RMS | {"n_kv_head": 2, "activation": "relu", "n_inner": 50}],
    "ApertusForCausalLM": [
        MODERN | {"qk_norm": True, "layer_norm_epsilon": 0.1},
        MODERN | {"qk_norm": True, "n_kv_head": 1, "tie_embeddings": True, "activation": "gelu"},
    ],
    "Qwen2ForCausalLM": [MODERN | {"sliding_window": 5, "n_inner": 50, "layer_norm_epsilon": 0.1}],
    "Qwen3ForCausalLM": [MODERN | {"qk_norm": True, "sliding_window": 5, "n_kv_head": 2}],
}
EACH = [(name, change) for name, changes in EXPECTED.items() for change in changes]
COMPUTED = [  # by their class
    pytest.param(name, change, marks=ignored_scale if "scale_by_inverse_layer" in change else ())
    for name, change in EACH
]


def large(config):
    """A model with random weights so large that a mistake shows, norms and biases too."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def ids_of(config, rows=2):
    shape = (rows, config.context_length)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def logits(model, ids):
    with torch.inference_mode():
        found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


def require_near(one, two, tolerance=1e-5):
    assert (one - two).abs().max() <= tolerance * two.abs().max(), (one - two).abs().max() / two.abs().max()


def their_greedy(model, prompt, n, **others):
    found = model.generate(prompt, do_sample=False, max_new_tokens=n, eos_token_id=None, pad_token_id=0, **others)
    return found[:, prompt.size(1) :].tolist()


def require_same(config, to, with_code=False):
    """Ours → transformers → ours, from what was exported and from what transformers saves again; its class's name."""
    model, ids = large(config), ids_of(config)
    kind = export(model, Tokenizer.utf8_bytes(), to / "ours", with_code=with_code)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(to / "ours", trust_remote_code=with_code).eval()
    assert type(theirs).__name__ == kind.name
    expected = logits(model, ids)
    require_near(logits(theirs, ids), expected)
    prompt, n = ids[:1, :4], 12
    greedy = list(generate(model, prompt[0].tolist(), max_tokens=n, temperature=0))
    assert their_greedy(theirs, prompt, n) == [greedy]
    theirs.save_pretrained(to / "theirs")
    for path in (to / "ours", to / "theirs"):
        back = load_run(path).model
        require_near(logits(back, ids), expected, 1e-6)
        assert list(generate(back, prompt[0].tolist(), max_tokens=n, temperature=0)) == greedy
    return kind.name


@pytest.mark.parametrize(("name", "change"), COMPUTED)
def test_each_class_computes_what_ours_does_both_ways(tmp_path, name, change):
    assert require_same(replace(TINY, **change), tmp_path) == name


@pytest.mark.parametrize(("name", "change"), EACH)
def test_the_config_comes_back(tmp_path, name, change):
    """All of it but what changes no result: a bias that is zero, and how a pattern of windows is written."""
    config = replace(TINY, **change)
    export(GPT(config), Tokenizer.utf8_bytes(), tmp_path / "e")
    found = read_config(tmp_path / "e")
    pattern = {"window_pattern": "SLS" if name.startswith("Qwen") else "S"}
    bias = {} if name[:3] != "GPT" else {"bias": True}
    assert found == replace(config, **pattern, **bias)


@pytest.mark.slow  # 104 combinations
def test_every_combination_that_a_class_can_say_makes_the_round_trip(tmp_path):
    known = [change for change in EVERY if classes.class_of(replace(TINY, **change))]
    names = [require_same(replace(TINY, **change), tmp_path / str(i)) for i, change in enumerate(known)]
    assert {name: names.count(name) for name in EXPECTED} == {
        "GPT2LMHeadModel": 32,  # activation, bias, head, scale
        "GPTNeoXForCausalLM": 16,
        "ArceeForCausalLM": 32,  # and shared keys
        "ApertusForCausalLM": 16,  # no biases
        "Qwen2ForCausalLM": 4,  # and one activation
        "Qwen3ForCausalLM": 4,
    }


def test_only_what_no_class_says_is_refused():
    """By a rule of its own, beside the allow-lists: each combination has the class that it should, or none."""
    for change in EVERY:
        config = replace(TINY, **change)
        windows, shared, rms = config.sliding_window is not None, config.n_kv_head is not None, config.normalization
        scaled = config.scale_by_inverse_layer
        squared = config.activation == "relu-squared"
        expected = None
        if config.positions == "learned" and rms == "layer" and not (windows or shared or config.qk_norm):
            expected = "GPT2LMHeadModel"
        elif scaled:
            expected = None
        elif config.positions == "rope" and rms == "layer" and not (windows or shared or config.qk_norm):
            expected = "GPTNeoXForCausalLM"
        elif config.positions == "rope" and rms == "rms" and not windows and not config.qk_norm:
            expected = "ArceeForCausalLM"
        elif config.positions == "rope" and rms == "rms" and not windows and not config.bias:
            expected = "ApertusForCausalLM"
        elif config.positions == "rope" and rms == "rms" and windows and not config.bias and squared:
            expected = "Qwen3ForCausalLM" if config.qk_norm else "Qwen2ForCausalLM"
        kind = classes.class_of(config)
        assert (kind and kind.name) == expected, change


SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context_length": 32, "vocab_size": 67, "ngram_buckets": 50}


def test_every_preset_makes_the_round_trip(tmp_path):
    """By a class where one computes it, by its own code where it has n-grams; those that differ in size, once."""
    configs = {replace(preset().model, **SMALL, dropout=0.0): name for name, preset in PRESETS.items()}
    for config, preset in configs.items():
        name = require_same(config, tmp_path / preset, with_code=config.ngram > 1)
        modern = "ApertusForCausalLM" if config.ngram == 1 else "GPTForCausalLM"
        assert name == (modern if config.positions == "rope" else "GPT2LMHeadModel"), preset
    assert len(configs) == 4


# ---- the model's own code ----


@pytest.mark.parametrize("name", VARIANTS)
def test_the_code_computes_every_variant(tmp_path, name):
    config = replace(TINY, **VARIANTS[name])
    assert require_same(config, tmp_path, with_code=True) == "GPTForCausalLM"


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A model with all options, and theirs by its own code."""
    model, to = variant("modern"), tmp_path_factory.mktemp("code") / "exported"
    export(model, Tokenizer.utf8_bytes(), to, with_code=True)
    return model, transformers.AutoModelForCausalLM.from_pretrained(to, trust_remote_code=True).eval()


def test_the_code_generates_alike_with_and_without_a_cache_padded_and_by_beams(coded):
    model, theirs = coded
    ids, pad = ids_of(SHAPE)[:, :11], 0
    expected = [list(generate(model, row.tolist(), max_tokens=20, temperature=0)) for row in (ids[0], ids[1, 5:])]
    assert their_greedy(theirs, ids[:1], 20, use_cache=False) == expected[:1]
    padded = torch.cat([ids[:1], ids[1:].clone()])
    padded[1, :5] = pad
    mask = torch.ones_like(padded)
    mask[1, :5] = 0
    for use_cache in (True, False):
        assert their_greedy(theirs, padded, 20, attention_mask=mask, use_cache=use_cache) == expected
    beams = [their_greedy(theirs, ids[:1], 12, num_beams=3, use_cache=use_cache) for use_cache in (True, False)]
    assert beams[0] == beams[1]
    torch.manual_seed(0)
    drawn = theirs.generate(ids[:1], do_sample=True, max_new_tokens=20, pad_token_id=0)
    assert drawn.shape == (1, 31)


def test_the_code_has_the_loss_and_refuses_what_does_not_fit(coded):
    model, theirs = coded
    ids = ids_of(SHAPE)
    loss = model(ids[:, :-1], targets=ids[:, 1:]).item() / (ids.size(0) * (ids.size(1) - 1))
    assert theirs(ids, labels=ids).loss.item() == pytest.approx(loss, rel=1e-5)
    theirs.train()(ids, labels=ids).loss.backward()
    theirs.eval()
    assert all(parameter.grad is not None for parameter in theirs.parameters())
    with pytest.raises(ValueError, match="49 positions do not fit into the model's context of 48"):
        theirs(torch.zeros(1, 49, dtype=torch.int64))
    cache = transformers.DynamicCache()
    theirs(ids[:1, :5], cache=cache)
    with pytest.raises(ValueError, match="n-grams reach back"):
        theirs(ids[:1, 5:6], cache=cache)


def test_the_code_comes_along_when_it_is_saved_again_with_more_tokens(coded, tmp_path):
    _, theirs = coded
    theirs = copy.deepcopy(theirs)
    theirs.resize_token_embeddings(300)
    theirs.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    ids = ids_of(SHAPE)
    assert logits(again, ids).shape[-1] == 300
    require_near(logits(again, ids)[..., :257], logits(theirs, ids)[..., :257], 1e-6)
    if theirs.value_embedding is not None:
        rows = again.value_embedding.table.weight
        require_near(rows[257:], rows[:257].mean(0).expand(43, -1), 1e-6)
        theirs.value_embedding.requires_grad_(False)
        theirs.resize_token_embeddings(200)
        assert len(theirs.value_embedding.table.weight) == 200
        assert not theirs.value_embedding.table.weight.requires_grad


def test_the_code_is_not_run_untrusted_and_its_config_is_checked(tmp_path):
    export(variant("ngram"), Tokenizer.utf8_bytes(), tmp_path / "e", with_code=True)
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "e", trust_remote_code=False)
    for change, words in [
        ({"windows": [3, 4]}, "windows is"),
        ({"ngram": "many"}, "'ngram' is 'many'"),
        ({"n_layer": 3}, "its weights do not fit its config.json"),
    ]:
        kept = edit(tmp_path / "e" / "config.json", **change)
        with pytest.raises(InputError, match=words):
            load_run(tmp_path / "e")
        (tmp_path / "e" / "config.json").write_text(kept)
    edit(tmp_path / "e" / "config.json", remove="value_embeddings")  # as exports did before there were any
    assert load_run(tmp_path / "e").model.config.ngram == 3
    edit(tmp_path / "e" / "config.json", remove="ngram")
    with pytest.raises(InputError, match="has no ngram; only what `with_code` wrote can be read"):
        load_run(tmp_path / "e")


# ---- what is refused, and what is said ----


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"normalization": "rms"}, "model.normalization rms; GPT2LMHeadModel"),
        ({"qk_norm": True}, "model.qk_norm True; GPT2LMHeadModel"),
        ({"logit_softcap": 15.0}, "model.logit_softcap 15.0; GPT2LMHeadModel"),
        ({"n_kv_head": 2}, "model.n_kv_head 2; GPT2LMHeadModel"),
        ({"sliding_window": 8}, "model.sliding_window 8; GPT2LMHeadModel"),
        ({"ngram": 2, "sliding_window": 8}, "model.sliding_window 8, model.ngram 2; GPT2LMHeadModel"),
        (MODERN | {"qk_norm": True, "ngram": 3}, "model.ngram 3; ApertusForCausalLM"),
        (MODERN | {"qk_norm": True, "sliding_window": 8, "logit_softcap": 15.0}, "model.logit_softcap 15.0; Qwen3For"),
        (MODERN | {"qk_norm": True, "bias": True}, "model.qk_norm True; ArceeForCausalLM"),
        (MODERN | {"qk_norm": True, "sliding_window": 1}, "model.sliding_window 1; ApertusForCausalLM"),
    ],
)
def test_what_no_class_computes_is_named_and_nothing_is_written(tmp_path, change, named):
    model = GPT(ModelConfig(n_layer=1, n_head=4, n_embd=16, context_length=16, vocab_size=257, **change))
    with pytest.raises(InputError, match=f"computes this model, which has {named}.* `with_code` writes"):
        export(model, Tokenizer.utf8_bytes(), tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "change"), [*EACH, ("GPTForCausalLM", VARIANTS["modern"])])
def test_a_new_setting_is_refused_until_it_is_allowed_by_name(tmp_path, name, change):
    @dataclass(frozen=True)
    class Extended(ModelConfig):
        alibi: bool = False

    model, with_code = large(replace(TINY, **change)), name == "GPTForCausalLM"
    model.config = Extended(**asdict(model.config), alibi=True)
    with pytest.raises(InputError, match=r"this model, which has model.alibi True"):
        export(model, Tokenizer.utf8_bytes(), tmp_path / "exported", with_code=with_code)
    assert list(tmp_path.iterdir()) == []
    model.config = replace(model.config, alibi=False)
    assert export(model, Tokenizer.utf8_bytes(), tmp_path / "exported", with_code=with_code).name == name


def test_a_program_that_may_not_know_a_setting_is_warned_of(tmp_path):
    warned = {}
    for i, (name, change) in enumerate(EACH):
        with heard() as lines:
            export(GPT(replace(TINY, **change)), Tokenizer.utf8_bytes(), tmp_path / str(i))
        warned.setdefault(name, []).append(any("other programs may compute something else" in line for line in lines))
    assert warned == {
        "GPT2LMHeadModel": [False, True, True],
        "GPTNeoXForCausalLM": [False, False],
        "ArceeForCausalLM": [False, True],
        "ApertusForCausalLM": [False, False],
        "Qwen2ForCausalLM": [True],
        "Qwen3ForCausalLM": [True],
    }


def test_what_only_sounds_like_a_departure_is_none(tmp_path):
    """As many key heads as heads, a window as long as the context, n-grams of one."""
    config = replace(TINY, n_kv_head=4, sliding_window=20, zero_init_residual=True, ngram_buckets=7, dropout=0.5)
    assert classes.class_of(config) is classes.GPT2
    assert classes.class_of(replace(config, **MODERN, qk_norm=True)) is classes.APERTUS
    assert require_same(replace(config, bias=False), tmp_path) == "GPT2LMHeadModel"


def test_an_export_never_overwrites(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="exists and is not empty"):
        export(GPT(TINY), Tokenizer.utf8_bytes(), tmp_path)
    (tmp_path / "empty").mkdir()
    export(GPT(TINY), Tokenizer.utf8_bytes(), tmp_path / "empty")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="link: exists and is not empty"):
        export(GPT(TINY), Tokenizer.utf8_bytes(), tmp_path / "link")


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(tmp_path, monkeypatch):
    """safetensors has an exception of its own for it."""

    def full(*arguments, **_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(huggingface_weights, "save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors: could not be written .*No space left"):
        export(GPT(TINY), Tokenizer.utf8_bytes(), tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_config_json_has_the_names_that_other_programs_read(tmp_path):
    export(GPT(TINY), Tokenizer.utf8_bytes(), tmp_path / "gpt2")
    gpt2 = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    assert (gpt2["n_ctx"], gpt2["n_positions"], gpt2["pad_token_id"]) == (20, 20, None)
    export(GPT(replace(TINY, **MODERN, qk_norm=True, sliding_window=5)), Tokenizer.utf8_bytes(), tmp_path / "qwen")
    qwen = json.loads((tmp_path / "qwen" / "config.json").read_text())
    assert (qwen["rope_theta"], qwen["rope_scaling"]) == (BASE, None)  # transformers 4
    assert qwen["rope_parameters"] == {"rope_type": "default", "rope_theta": BASE}  # transformers 5
    assert qwen["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    assert (qwen["sliding_window"], qwen["use_sliding_window"], qwen["head_dim"]) == (5, True, 4)


def test_added_tokens_and_a_padded_vocabulary_are_exported(tmp_path, bpe):
    tokenizer = with_added(bpe, ["<|user|>", "<|done|>"])
    for i, change in enumerate(({}, MODERN, {"tie_embeddings": False})):
        model = large(replace(TINY, vocab_size=640, **change))
        export(model, tokenizer, tmp_path / str(i))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / str(i)).eval()
        read = transformers.AutoTokenizer.from_pretrained(tmp_path / str(i))
        assert theirs.config.vocab_size == 640
        assert len(read) == tokenizer.vocab_size == bpe.vocab_size + 2 < 640
        assert read.convert_tokens_to_ids("<|done|>") == bpe.vocab_size + 1
        require_near(logits(theirs, ids_of(model.config)), logits(model, ids_of(model.config)))


# ---- reading what the classes can do, and ours cannot ----


def edit(path, remove=None, **changes):
    kept = path.read_text()
    content = json.loads(kept) | changes
    content.pop(remove, None)
    path.write_text(json.dumps(content))
    return kept


@cache
def exported(home, name):
    to = home / name
    export(large(replace(TINY, **EXPECTED[name][0])), Tokenizer.utf8_bytes(), to)
    return to, (to / "config.json").read_text(), load((to / "model.safetensors").read_bytes())


@pytest.fixture
def of_class(tmp_path):
    def make(name):
        return exported(tmp_path, name)

    return make


WORDS = {
    "hidden_act": ("silu", "hidden_act is 'silu' where a"),
    "intermediate_size": (100, "its weights do not fit its config.json"),
    "vocab_size": ("many", "'vocab_size' is 'many'"),
    "num_hidden_layers": (4, "the weight '.*layers.3.*' is missing|layer_types is"),
    "rope_theta": (5e5, "rope_theta is 500000.0"),
    "rope_scaling": ({"rope_type": "yarn"}, "rope_scaling is"),
    "rope_parameters": ({"rope_type": "llama3", "rope_theta": 1e4}, "rope_parameters is"),
    "num_attention_heads": (3, "`model.n_embd` is 16; it must be a multiple of"),
}
OWN = {
    "GPTNeoXForCausalLM": {
        "use_parallel_residual": (True, "use_parallel_residual is True"),
        "rotary_pct": (0.25, "rotary_pct is 0.25"),
        "attention_bias": (False, "attention_bias is False"),
    },
    "ArceeForCausalLM": {"mlp_bias": (True, "mlp_bias is True"), "head_dim": (8, "head_dim is 8")},
    "ApertusForCausalLM": {"attention_bias": (True, "attention_bias is True")},
    "Qwen2ForCausalLM": {"layer_types": (["full_attention"] * 3, "use_sliding_window is True")},
    "Qwen3ForCausalLM": {"use_sliding_window": (False, "use_sliding_window|sliding_window is 5")},
}


@pytest.mark.parametrize("name", OWN)
def test_a_config_beyond_ours_is_refused_by_name(of_class, name):
    to, kept, _ = of_class(name)
    for key, (value, words) in (WORDS | OWN[name]).items():
        edit(to / "config.json", **{key: value})
        with pytest.raises(InputError, match=words):
            load_run(to)
        (to / "config.json").write_text(kept)
    for missing in ("hidden_act", "intermediate_size"):
        edit(to / "config.json", remove=missing)
        with pytest.raises(InputError, match=f"{missing} is None"):
            load_run(to)
        (to / "config.json").write_text(kept)


@pytest.mark.parametrize(
    ("name", "weight", "words"),
    [
        ("ApertusForCausalLM", "model.layers.1.self_attn.q_norm.weight", "must be 1 throughout"),
        ("Qwen2ForCausalLM", "model.layers.0.self_attn.k_proj.bias", "must be 0 throughout"),
        ("Qwen3ForCausalLM", "model.layers.2.mlp.gate_proj.weight", "differ from each other"),
    ],
)
def test_weights_that_ours_lack_are_refused_by_name(of_class, name, weight, words):
    to, _, weights = of_class(name)
    save_file(weights | {weight: weights[weight] + 0.5}, to / "model.safetensors")
    with pytest.raises(InputError, match=f"{weight.rpartition('.')[0]}.*{words}"):
        load_run(to)
    save_file(weights | {"model.layers.0.new": torch.zeros(1)}, to / "model.safetensors")
    with pytest.raises(InputError, match=f"has weights that {name} does not: model.layers.0.new"):
        load_run(to)
    save_file({key: tensor for key, tensor in weights.items() if key != weight}, to / "model.safetensors")
    with pytest.raises(InputError, match=f"the weight '{weight}' is missing"):
        load_run(to)
    save_file(weights | {weight: torch.zeros(3, 5)}, to / "model.safetensors")
    with pytest.raises(InputError, match="shape|differ|size mismatch|throughout"):
        load_run(to)


def test_a_head_that_differs_from_a_tied_embedding_is_refused(tmp_path):
    export(large(replace(TINY, **ROPE_RMS, bias=False)), Tokenizer.utf8_bytes(), tmp_path / "e")
    weights = load_file(tmp_path / "e" / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    save_file(weights | {"lm_head.weight": head}, tmp_path / "e" / "model.safetensors")
    load_run(tmp_path / "e")
    save_file(weights | {"lm_head.weight": head + 1}, tmp_path / "e" / "model.safetensors")
    with pytest.raises(InputError, match="its head differs from its embedding"):
        load_run(tmp_path / "e")


def test_a_config_of_transformers_4_is_read(of_class):
    """Which has no rope_parameters; what it means by that, Apertus' own default among it, is compared."""
    for name in OWN:
        to, kept, _ = of_class(name)
        edit(to / "config.json", remove="rope_parameters")
        load_run(to)
        key = "rotary_emb_base" if name == "GPTNeoXForCausalLM" else "rope_theta"
        content = json.loads((to / "config.json").read_text())
        del content[key]
        (to / "config.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="rope_parameters is"):
            load_run(to)
        (to / "config.json").write_text(kept)
    assert their_config(classes.APERTUS, replace(TINY, **EXPECTED["ApertusForCausalLM"][0]))["rope_theta"] == BASE
