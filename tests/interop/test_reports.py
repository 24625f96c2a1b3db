"""Public reports of GPT-2 files that were read wrongly, or not at all, each with the outcome that its authors wanted.

The reference is transformers, which writes the files and computes logits and greedy ids. What concerns adapters is in
test_peft.py, and rows of new tokens, which begin as the mean of the others, in test_forgot.py of commands.
"""

import contextlib
import json
import random
import shlex
import sys
from unittest import mock

import pytest
import torch
from helpers import assigned, from_version, ignored_scale, random_text, transformers
from safetensors.torch import load, load_file, save_file
from their_models import SHAPES, edit, random_ids, relative, their_model

from gpt import InputError, SamplingConfig, generate, load_run
from gpt.commands.train_options import parse_train
from gpt.generation.completion import TextEngine
from gpt.interop.huggingface_export import write_json
from gpt.interop.huggingface_tokenizer import read_tokenizer, recover_merges, write_tokenizer
from gpt.text.added import with_added
from gpt.text.chat_template import CHATML_SOURCE
from gpt.text.spelling import from_bytes
from gpt.text.templates import template_at
from gpt.text.tokenizer import END_OF_TEXT

TINY = SHAPES[0]


def require_equal(path, theirs=None):
    """Ours has the logits and greedy ids of the model that transformers makes of the same files."""
    theirs = theirs or transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert isinstance(theirs.eval(), transformers.GPT2LMHeadModel)
    ours, ids = load_run(path).model, random_ids(theirs.config.vocab_size, 2, theirs.config.n_positions)
    prompt = ids[0, :8]
    asked = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        assert relative(ours(ids), theirs(ids).logits) < 1e-5
        greedy = theirs.generate(prompt[None], **asked)[0, 8:].tolist()
    assert [*generate(ours, prompt.tolist(), max_tokens=24, temperature=0)] == greedy
    return ours


def saved(path, **settings):
    """A model of theirs in a directory, whose settings are that and TINY's."""
    theirs = their_model(**TINY | settings)
    theirs.save_pretrained(path)
    return theirs


# ---- what is computed ----


@ignored_scale
@pytest.mark.parametrize("upcast", [False, True])
def test_transformers_44397_inverse_layer_scaling_is_not_ignored(tmp_path, upcast):
    """It was, by one way to attend. stanford-crfm's models have it, and the other setting, which changes no result."""
    saved(tmp_path, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=upcast)
    ours = require_equal(tmp_path)
    edit(tmp_path / "config.json", scale_attn_by_inverse_layer_idx=False)
    ids = random_ids(100, 1, 64)
    assert relative(load_run(tmp_path).model(ids), ours(ids)) > 1e-3


def test_transformers_44380_upcasting_changes_no_result(tmp_path):
    saved(tmp_path, reorder_and_upcast_attn=True)
    eager = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    require_equal(tmp_path, eager)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gelu", "gelu-erf"),
        ("gelu_python", "gelu-erf"),
        ("gelu_new", "gelu"),
        ("gelu_fast", "gelu"),
        ("gelu_accurate", "gelu"),
        ("gelu_pytorch_tanh", "gelu"),
        pytest.param("gelu_python_tanh", "gelu", marks=from_version("transformers", "5.18", "knows it by no name")),
        ("relu", "relu"),
        ("relu2", "relu-squared"),
    ],
)
def test_cerebras_gpt_has_the_activation_that_its_config_names(tmp_path, theirs, ours):
    """Two GELUs differ by a hair, by more than rounding."""
    saved(tmp_path, activation_function=theirs, n_layer=1)
    model = require_equal(tmp_path)
    assert model.config.activation == ours
    edit(tmp_path / "config.json", activation_function="gelu" if ours == "gelu" else "gelu_new")
    ids = random_ids(100, 1, 64)
    assert relative(load_run(tmp_path).model(ids), model(ids)) > 3e-5


@pytest.mark.parametrize("n_inner", [50, 128, 32])
def test_vllm_n_inner_is_honored(tmp_path, n_inner):
    """Others write 4 × n_embd whatever it is."""
    saved(tmp_path, n_inner=n_inner)
    ours = require_equal(tmp_path)
    assert (ours.config.n_inner, ours.config.inner_dim) == (None if n_inner == 128 else n_inner, n_inner)


def test_llama_cpp_5032_n_ctx_is_the_context_where_n_positions_is_missing(tmp_path):
    theirs = saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(
        tmp_path / "config.json", {key: value for key, value in config.items() if key != "n_positions"} | {"n_ctx": 64}
    )
    require_equal(tmp_path, theirs)
    edit(tmp_path / "config.json", n_positions=64, n_ctx=1024)
    require_equal(tmp_path)


def test_sizes_are_read_by_their_other_names(tmp_path):
    """As transformers does, whose attributes have them."""
    saved(tmp_path)
    other = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    other |= {"n_positions": "max_position_embeddings"}
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {other.get(key, key): value for key, value in config.items()})
    require_equal(tmp_path)


def test_a_model_with_such_settings_is_fine_tuned_with_them(tmp_path):
    saved(
        tmp_path,
        scale_attn_by_inverse_layer_idx=True,
        activation_function="relu",
        n_inner=50,
        tie_word_embeddings=False,
    )
    command = ["--init-from", str(tmp_path), "--batch-tokens", "64"]
    model = parse_train(command).config.model
    assert (model.scale_by_inverse_layer, model.activation, model.n_inner, model.tie_embeddings) == (
        True,
        "relu",
        50,
        False,
    )
    for flag in (["--model.n-inner", "64"], ["--model.activation", "gelu"], ["--model.no-scale-by-inverse-layer"]):
        with pytest.raises(InputError, match="cannot become"):
            parse_train([*command, *flag])


# ---- heads ----


@from_version("transformers", "5.18", "ties the head all the same")
def test_peft_2777_a_head_that_a_merge_left_different_is_read_as_it_is(tmp_path, said):
    """Although the config still says that it is tied; transformers does so, too."""
    saved(tmp_path)
    weights = load((tmp_path / "model.safetensors").read_bytes())
    weights |= {"lm_head.weight": torch.randn(100, 32, generator=torch.Generator().manual_seed(3))}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    ours = require_equal(tmp_path)
    assert torch.equal(ours.head_weight, weights["lm_head.weight"])
    assert sum("lm_head.weight differs from wte.weight" in line for line in said) == 1
    assert not parse_train(["--init-from", str(tmp_path), "--batch-tokens", "64"]).config.model.tie_embeddings


def test_transformers_45127_an_untied_head_is_read(tmp_path, said):
    theirs = saved(tmp_path, tie_word_embeddings=False)
    assert not torch.equal(theirs.lm_head.weight, theirs.transformer.wte.weight)
    assert not require_equal(tmp_path, theirs).config.tie_embeddings
    assert not any("differs" in line for line in said)


@pytest.mark.parametrize("kept", ["both", "head"])
def test_a_tied_head_may_lie_in_the_file_as_well_or_alone(tmp_path, kept):
    """Programs save shared weights twice, or once, by their last name."""
    theirs = saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    if kept == "head":
        del weights["transformer.wte.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert require_equal(tmp_path, theirs).config.tie_embeddings


# ---- files of weights ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shards", [False, True])
def test_transformers_12007_old_files_are_read(tmp_path, dtype, shards):
    """Megatron's have mask buffers, no prefix, short dtypes, and a vocabulary that is padded."""
    theirs = their_model(**TINY | {"vocab_size": 128}).to(dtype)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB" if shards else "1GB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == shards
    for file in files:
        weights = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
        if "h.0.attn.c_attn.weight" in weights:
            weights |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8)}
            weights |= {"h.0.attn.masked_bias": torch.tensor(-1e4)}
        save_file(weights, file, {"format": "pt"})
    if shards:
        index = tmp_path / "model.safetensors.index.json"
        names = json.loads(index.read_text())["weight_map"]
        edit(index, weight_map={name.removeprefix("transformer."): file for name, file in names.items()})
    require_equal(tmp_path, theirs.float())


def test_a_shard_that_is_missing_or_lacks_a_weight_is_named(tmp_path):
    their_model(**TINY).save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    other = next(file for file in names.values() if file != names["transformer.ln_f.bias"])
    edit(index, weight_map=names | {"transformer.ln_f.bias": other})
    with pytest.raises(
        InputError, match=f"{other}: has no transformer.ln_f.bias, which model.safetensors.index.json says"
    ):
        load_run(tmp_path)
    (tmp_path / other).unlink()
    with pytest.raises(
        InputError, match=rf"{other}: is missing, with \d+ weights that model.safetensors.index.json names"
    ):
        load_run(tmp_path)


class Trap:
    """What a pickle can do: write a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (self.file, "w")


def pickled(theirs, path, shards):
    """Save weights as torch does, with the head that is the embedding, in one file or two."""
    weights = theirs.state_dict()
    names = sorted(weights)
    parts = [names[::2], names[1::2]] if shards else [names]
    for number, part in enumerate(parts, 1):
        name = f"pytorch_model-{number:05}-of-00002.bin" if shards else "pytorch_model.bin"
        torch.save({name: weights[name] for name in part}, path / name)


@pytest.mark.parametrize("shards", [False, True])
def test_aprender_267_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path, shards):
    """Which works, and gives what transformers reads."""
    home = tmp_path / "a model's"
    theirs = saved(home)
    (home / "model.safetensors").unlink()
    pickled(theirs, home, shards)
    with pytest.raises(
        InputError, match="only safetensors are read, .* can run code: convert it by: python -c"
    ) as refused:
        load_run(home)
    python, flag, code, directory = shlex.split(str(refused.value).partition("convert it by: ")[2])
    assert (python, flag, directory) == ("python", "-c", str(home))
    with mock.patch.object(sys, "argv", ["-c", directory]):
        exec(code, {})
    require_equal(home, theirs)
    require_equal(home)


def test_rank_llm_398_beside_safetensors_a_pickle_is_not_opened(tmp_path):
    theirs = saved(tmp_path)
    torch.save({"transformer.wte.weight": Trap(str(tmp_path / "sprung"))}, tmp_path / "pytorch_model.bin")
    require_equal(tmp_path, theirs)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="convert it by") as refused:
        load_run(tmp_path)
    code = shlex.split(str(refused.value).partition("convert it by: ")[2])[2]
    with (
        mock.patch.object(sys, "argv", ["-c", str(tmp_path)]),
        pytest.raises(Exception, match="weights_only|Weights only"),
    ):
        exec(code, {})
    assert not (tmp_path / "sprung").exists()


def test_of_a_model_on_the_hub_without_safetensors_the_commands_are_told(tmp_path):
    """Its pickled weights are not downloaded."""
    home = tmp_path / "models--cerebras--Cerebras-GPT-111M" / "snapshots" / "abc123"
    saved(home)
    (home / "model.safetensors").unlink()
    commands = "hf download cerebras/Cerebras-GPT-111M --revision abc123 --local-dir Cerebras-GPT-111M && python -c .* "
    with pytest.raises(InputError, match=f"{commands}Cerebras-GPT-111M; then name Cerebras-GPT-111M$"):
        load_run(home)


# ---- tokenizers ----


def texts(count=60):
    return [assigned(random_text(random.Random(seed), 60)) for seed in range(count)]


def legacy(tokenizer, to, as_json=False, pairs=False):
    """Write a tokenizer of ours, without what was added to it, as transformers once did: vocab.json and merges.txt."""
    words = {from_bytes(token): id for id, token in enumerate(tokenizer.ranks)}
    vocabulary = words | {END_OF_TEXT: tokenizer.end_of_text}
    merges = [(from_bytes(left), from_bytes(right)) for left, right in recover_merges(tokenizer.ranks)]
    to.mkdir(exist_ok=True)
    write_json(to / "config.json", {"model_type": "gpt2"})
    if as_json:
        end = {"id": tokenizer.end_of_text, "content": END_OF_TEXT, "special": True, "normalized": False}
        end |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        listed = [[*pair] if pairs else " ".join(pair) for pair in merges]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        content = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None}
        content |= {"added_tokens": [end], "pre_tokenizer": byte_level, "decoder": byte_level}
        write_json(to / "tokenizer.json", content | {"model": {"type": "BPE", "vocab": vocabulary, "merges": listed}})
    else:
        write_json(to / "vocab.json", vocabulary)
        lines = ["#version: 0.2", *map(" ".join, merges), ""]
        (to / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return to


def require_same_ids(path, vocab_size=0):
    """Ours has the ids of transformers' tokenizer, for texts that hold no special token."""
    ours, theirs = read_tokenizer(path, vocab_size), transformers.AutoTokenizer.from_pretrained(path)
    assert len(theirs) == ours.vocab_size
    assert {name: theirs.convert_tokens_to_ids(name) for name in ours.special_tokens} == ours.special_tokens
    for text in texts():
        assert theirs.encode(text) == ours.encode(text), repr(text)
    return ours


@pytest.mark.parametrize("form", ["vocab.json and merges.txt", "merges as strings", "merges as pairs"])
def test_each_form_of_the_files_is_the_same_tokenizer(tmp_path, bpe, form):
    path = legacy(bpe, tmp_path, as_json="as" in form, pairs=form == "merges as pairs")
    assert require_same_ids(path).fingerprint == bpe.fingerprint


PAD = {"content": "<pad>", "special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
FORMS = {
    "added_tokens.json": {"added_tokens.json": {"<pad>": 600}, "special_tokens_map.json": {"pad_token": "<pad>"}},
    "special_tokens_map.json": {"special_tokens_map.json": {"pad_token": PAD}},
    "tokenizer_config.json": {"tokenizer_config.json": {"pad_token": "<pad>"}},
    "added_tokens_decoder": {"tokenizer_config.json": {"added_tokens_decoder": {"600": PAD}, "pad_token": "<pad>"}},
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_transformers_24372_a_pad_token_that_was_added_is_read_in_each_form(tmp_path, bpe, form, as_json):
    path = legacy(bpe, tmp_path, as_json)
    for name, content in FORMS[form].items():
        write_json(path / name, content)
    assert require_same_ids(path).fingerprint == with_added(bpe, ["<pad>"]).fingerprint


def test_tokens_that_are_named_without_an_id_get_the_next_ones_in_transformers_order(tmp_path, bpe):
    path = legacy(bpe, tmp_path)
    more = {"additional_special_tokens": ["<|user|>", "<pad>"], "eos_token": "</s>", "bos_token": "<s>"}
    write_json(path / "special_tokens_map.json", more)
    assert require_same_ids(path).added == ("<s>", "</s>", "<|user|>", "<pad>")


def test_what_transformers_saves_of_a_tokenizer_with_added_tokens_is_read(tmp_path, bpe):
    theirs = transformers.AutoTokenizer.from_pretrained(legacy(bpe, tmp_path / "old"))
    theirs.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<|user|>"]})
    theirs.save_pretrained(tmp_path / "new")
    write_json(tmp_path / "new" / "config.json", {"model_type": "gpt2"})
    assert require_same_ids(tmp_path / "new").added == ("<pad>", "<|user|>")


@pytest.mark.parametrize("added", [("<pad>",), ("<pad>", "<|user|>")])
def test_transformers_8472_a_token_that_was_never_trained_is_not_drawn(tmp_path, bpe, added):
    """Its random row wins every softmax; what is computed is transformers' all the same."""
    theirs = saved(tmp_path, vocab_size=600 + len(added))
    weights = load_file(tmp_path / "model.safetensors")
    theirs.transformer.wte.weight.data[600:] = 0
    theirs.transformer.ln_f.weight.data[:] = 0
    theirs.transformer.ln_f.bias.data[:] = 1
    theirs.transformer.wte.weight.data[600:] = 50
    theirs.save_pretrained(tmp_path)
    assert weights.keys() == load_file(tmp_path / "model.safetensors").keys()
    legacy(bpe, tmp_path / "tokenizer")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "tokenizer" / name).rename(tmp_path / name)
    write_json(tmp_path / "special_tokens_map.json", {"additional_special_tokens": [*added]})
    run = load_run(tmp_path)
    assert run.tokenizer.added == added
    prompt = run.tokenizer.encode("def ")
    assert [*generate(run.model, prompt, max_tokens=3, temperature=0)] == [600] * 3
    engine = TextEngine(run.model, run.tokenizer, ends=run.answer_ends)
    for temperature in (0.0, 1.0):
        sampling = SamplingConfig(max_tokens=12, temperature=temperature, seed=1)
        [*_, last] = engine.complete(["def "], sampling)
        assert not any(name in last[2].text for name in added)


def test_a_token_for_which_the_model_has_no_row_is_left_out(tmp_path, bpe, said):
    """Many add a pad token and never resize their model."""
    path = legacy(with_added(bpe, []), tmp_path)
    write_json(path / "tokenizer_config.json", {"pad_token": "<pad>"})
    assert read_tokenizer(path, 601).added == ("<pad>",)
    assert read_tokenizer(path, 600).fingerprint == bpe.fingerprint
    assert any("its tokenizer has <pad>, for which its model has no row; left out" in line for line in said)
    with pytest.raises(InputError, match="has 1 tokens more than its model"):
        read_tokenizer(path, 599)


def test_an_added_word_is_refused_by_name(tmp_path, bpe):
    """Which transformers finds in a text."""
    path = legacy(bpe, tmp_path)
    write_json(path / "added_tokens.json", {"covid19": 600})
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert theirs.encode("a covid19")[-1] == 600
    with pytest.raises(InputError, match="added token 'covid19', which is not special: .* additional_special_tokens"):
        read_tokenizer(path, 601)
    write_json(path / "special_tokens_map.json", {"additional_special_tokens": ["covid19"]})
    assert read_tokenizer(path, 601).added == ("covid19",)


def test_files_that_contradict_each_other_are_refused(tmp_path, bpe):
    path = legacy(bpe, tmp_path, as_json=True)
    write_json(path / "tokenizer_config.json", {"added_tokens_decoder": {"700": PAD | {"content": END_OF_TEXT}}})
    with pytest.raises(InputError, match="its files give .* the ids 700 and 599; take the wrong one out"):
        read_tokenizer(path, 600)
    for odd in ({"added_tokens_decoder": [1]}, {"added_tokens_decoder": {"x": PAD}}, {"additional_special_tokens": 5}):
        write_json(path / "tokenizer_config.json", odd)
        with pytest.raises(InputError, match="is not what transformers writes"):
            read_tokenizer(path, 600)


@from_version("transformers", "5.18", "puts no space there, or another one")
@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer_config.json", "beside vocab.json"])
def test_a_space_before_every_text_is_refused_by_name(tmp_path, bpe, where):
    path = legacy(bpe, tmp_path, as_json="vocab" not in where)
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    if where == "tokenizer.json":
        byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        edit(path / "tokenizer.json", pre_tokenizer=byte_level)
    else:
        write_json(path / "tokenizer_config.json", {"add_prefix_space": True})
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert theirs.encode("the") == bpe.encode(" the")
    with pytest.raises(InputError, match="has add_prefix_space true, .* set it to false there"):
        read_tokenizer(path, 600)


def test_tokens_around_every_text_are_told(tmp_path, bpe, said):
    path = legacy(bpe, tmp_path)
    write_json(path / "tokenizer_config.json", {"add_bos_token": True})
    assert transformers.AutoTokenizer.from_pretrained(path).encode("a") == [bpe.end_of_text, *bpe.encode("a")]
    assert read_tokenizer(path, 600).encode("a") == bpe.encode("a")
    assert any("add_bos_token or add_eos_token puts special tokens around every text" in line for line in said)


@pytest.mark.parametrize("kind", ["RobertaProcessing", "BertProcessing", "Sequence"])
def test_tokens_around_every_text_are_told_of_each_post_processor(tmp_path, bpe, said, kind):
    """A template is not the only one that does it."""
    write_tokenizer(bpe, tmp_path, 64)
    (tmp_path / "gpt_tokenizer.json").unlink()
    end = [END_OF_TEXT, bpe.end_of_text]
    step = {"type": "RobertaProcessing", "sep": end, "cls": end, "trim_offsets": True, "add_prefix_space": False}
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    steps = {"type": kind, "processors": [level, step]} if kind == "Sequence" else step | {"type": kind}
    edit(tmp_path / "tokenizer.json", post_processor=steps)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert theirs.encode("a") == [bpe.end_of_text, *bpe.encode("a"), bpe.end_of_text]
    assert read_tokenizer(tmp_path, 600).encode("a") == bpe.encode("a")
    assert any("its post_processor puts special tokens around every text" in line for line in said)


# ---- chat templates ----

TOOLS = "{% for message in messages %}{{ message['role'] }}{% endfor %}"


@pytest.mark.parametrize("form", ["file", "config", "list", "both"])
def test_a_chat_template_is_read_in_each_form(tmp_path, bpe, form):
    path = legacy(bpe, tmp_path)
    several = [{"name": "tool_use", "template": TOOLS}, {"name": "default", "template": CHATML_SOURCE}]
    if form in ("file", "both"):
        (path / "chat_template.jinja").write_text(CHATML_SOURCE)
    known = {"config": CHATML_SOURCE, "list": several, "both": TOOLS}
    if form in known:
        write_json(path / "tokenizer_config.json", {"chat_template": known[form]})
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    with contextlib.suppress(ImportError):
        theirs = transformers.AutoTokenizer.from_pretrained(path)
        written = theirs.apply_chat_template(messages, tokenize=False)
        assert written.startswith("<|im_start|>user")
    assert template_at(path).source == CHATML_SOURCE


@pytest.mark.parametrize("odd", [[{"name": "tool_use", "template": TOOLS}], [5], 5, [{"name": "default"}]])
def test_templates_of_which_none_is_the_default_are_refused(tmp_path, odd):
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": odd})
    with pytest.raises(InputError, match=r"and none is named default: write the one to use as chat_template\.jinja"):
        template_at(tmp_path)
