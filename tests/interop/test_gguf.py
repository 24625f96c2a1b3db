import json
import random
import re
import sys
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import regex
import torch
from helpers import (
    SHAPE,
    VARIANTS,
    assigned,
    heard,
    python_text,
    random_text,
    run_gpt,
    saved_run,
    transformers,
    variant,
)

from gpt import GPT, InputError, ModelConfig, Tokenizer, generate
from gpt.interop import gguf as ours
from gpt.interop.gguf import architecture_of, write_gguf
from gpt.text.added import with_added
from gpt.text.templates import named_source, template_of
from gpt.text.tokenizer import END_OF_TEXT, GPT2_PATTERN

gguf = pytest.importorskip("gguf", reason="needs gguf, of the extra `gguf`")

ARCEE = {"positions": "rope", "normalization": "rms", "activation": "relu-squared", "bias": False}
SHAPES = {
    "gpt2": {},
    "gpt2-untied": {"tie_embeddings": False},
    "gpt2-no-bias": {"bias": False},
    "gpt2-shared": {"n_kv_head": 2},
    "arcee": ARCEE | {"tie_embeddings": False},
    "arcee-tied-shared": ARCEE | {"n_kv_head": 2},
}
NASTY = [
    "I'll don't we've they're I'm he'd it's 'S 'LL''s ' s",
    "  two  spaces   and \t tab \n\n\nnew\r\nlines  \n  end  ",
    "1234567890 3.14159 0x1F ½ ² ٣ Ⅷ 一二三",
    "naïve façade Ünïcödé ß ŒŁ — “quotes” … «ça» ñandú",
    "日本語のテキスト 한국어 العربية עברית ไทย हिन्दी",
    "🙂🙂 👩‍👩‍👧 🏳️‍🌈 e\u0301 a\u030a \u200d\u200b\ufeff",
    "\u00a0\u2003\u3000 \u0085\u2028\u2029 x\x00\x01\x7f y",
    "def f(x):\n    return x**2  # ==>\n\n\n\n",
    f"{END_OF_TEXT} <|im_start|> [PAD3] </s> <s>",
    " ",
    "\n",
    "a",
]


def model_of(changes, vocab_size=257, **more):
    """A model with weights of a size at which a mistake shows."""
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, vocab_size=vocab_size, **changes, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def ids_of(vocab_size, *shape):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


def relative(result, reference):
    return ((result - reference).norm() / reference.norm()).item()


def key(file, name):
    return gguf.GGUFReader(file).fields[name].contents()


class Graph:
    """What llama.cpp computes of a file, by its graphs of gpt2 and arcee (src/models/), in float64."""

    def __init__(self, file):
        reader = gguf.GGUFReader(file)
        self.weights = {
            tensor.name: torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).double()
            for tensor in reader.tensors
        }
        self.architecture = reader.fields["general.architecture"].contents()
        self.keys = {name.partition(".")[2]: field.contents() for name, field in reader.fields.items()}
        self.heads, self.kv_heads = self.keys["attention.head_count"], self.keys["attention.head_count_kv"]

    def norm(self, x, name):
        if self.architecture == "gpt2":
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.square().mean(-1, keepdim=True) + self.keys["attention.layer_norm_epsilon"]).sqrt()
            return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        x = x / (x.square().mean(-1, keepdim=True) + self.keys["attention.layer_norm_rms_epsilon"]).sqrt()
        return x * self.weights[f"{name}.weight"]

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def turned(self, x):
        """Llama's own turning: neighbors are pairs. (T, heads, D) → the same."""
        T, _, D = x.shape
        assert self.keys["rope.dimension_count"] == D
        angles = torch.arange(T)[:, None] * self.keys["rope.freq_base"] ** (-torch.arange(0, D, 2).double() / D)
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.view_as_real(torch.view_as_complex(x.reshape(T, -1, D // 2, 2).contiguous()) * turn).flatten(2)

    def attention(self, x, block):
        T, C = x.shape
        D = C // self.heads
        if self.architecture == "gpt2":
            parts = self.linear(x, f"{block}.attn_qkv").split([C, self.kv_heads * D, self.kv_heads * D], -1)
        else:
            parts = [self.linear(x, f"{block}.attn_{kind}") for kind in "qkv"]
        q, k, v = (part.view(T, -1, D) for part in parts)
        if self.architecture == "arcee":
            q, k = self.turned(q), self.turned(k)
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, 1) for part in (k, v))
        scores = torch.einsum("thd,shd->hts", q, k) / D**0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
        return self.linear(torch.einsum("hts,shd->thd", scores.softmax(-1), v).reshape(T, C), f"{block}.attn_output")

    def activated(self, x):
        if self.architecture == "arcee":
            return x.clamp(min=0).square()
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))

    def __call__(self, ids):
        x = self.weights["token_embd.weight"][ids]
        if self.architecture == "gpt2":
            x = x + self.weights["position_embd.weight"][: len(ids)]
        for layer in range(self.keys["block_count"]):
            block = f"blk.{layer}"
            x = x + self.attention(self.norm(x, f"{block}.attn_norm"), block)
            inner = self.activated(self.linear(self.norm(x, f"{block}.ffn_norm"), f"{block}.ffn_up"))
            x = x + self.linear(inner, f"{block}.ffn_down")
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self.norm(x, "output_norm") @ head.T


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 2e-3), ("q8_0", 5e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpps_graph_computes_the_same_of_the_file(tmp_path, shape, dtype, error):
    model, ids = model_of(SHAPES[shape]).double(), ids_of(257, 40)
    write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf", dtype)
    graph = Graph(tmp_path / "model.gguf")
    assert graph.architecture == shape.partition("-")[0]
    with torch.inference_mode():
        assert relative(graph(ids), model(ids[None])[0]) < error


@pytest.mark.parametrize("shape", ["gpt2", "gpt2-untied", "gpt2-no-bias"])
def test_transformers_reads_the_file_as_the_same_gpt2(tmp_path, shape):
    model, ids = model_of(SHAPES[shape]), ids_of(257, 2, 40)
    write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file="model.gguf",
        n_positions=48,  # it takes the key context_length for n_ctx alone
        tie_word_embeddings=model.config.tie_embeddings,
    )
    with torch.inference_mode():
        assert relative(theirs(ids).logits, model(ids)) < 1e-5


def test_the_keys_say_what_the_model_is(tmp_path):
    model = model_of(SHAPES["arcee-tied-shared"])
    write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf", "q8_0", name="mine")
    found = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()}
    tokens, types = found.pop("tokenizer.ggml.tokens"), found.pop("tokenizer.ggml.token_type")
    assert {name: value for name, value in found.items() if not name.startswith("GGUF.")} == {
        "general.architecture": "arcee",
        "general.type": "model",
        "general.name": "mine",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "arcee.vocab_size": 257,
        "arcee.context_length": 48,
        "arcee.embedding_length": 32,
        "arcee.block_count": 2,
        "arcee.feed_forward_length": 128,
        "arcee.attention.head_count": 4,
        "arcee.attention.head_count_kv": 2,
        "arcee.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "arcee.rope.dimension_count": 8,
        "arcee.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    assert (tokens[ord("A")], tokens[ord(" ")], tokens[256]) == ("A", "Ġ", END_OF_TEXT)
    assert types == [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL]


def test_norms_biases_and_positions_stay_in_float32_and_rows_that_do_not_fit_are_named(tmp_path):
    model = model_of({}, n_embd=48)
    with heard() as lines:
        write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf", "q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert types.pop("position_embd.weight") == "F32"
    assert {kind for name, kind in types.items() if "norm" in name or "bias" in name} == {"F32"}
    assert {types[f"blk.1.{name}.weight"] for name in ("attn_qkv", "attn_output", "ffn_up")} == {"F16"}
    assert types["blk.1.ffn_down.weight"] == "Q8_0"  # 4 · 48 is a multiple of 32
    assert "token_embd.weight, blk.*.attn_qkv.weight, blk.*.attn_output.weight, blk.*.ffn_up.weight" in lines[-1]


# ---- text ----


def encoded(file, text):
    """Encode as llama.cpp does (llm_tokenizer_bpe_session): pieces, each merged by the merges' ranks."""
    tokens = {token: number for number, token in enumerate(key(file, "tokenizer.ggml.tokens"))}
    fields = gguf.GGUFReader(file).fields
    merges = fields["tokenizer.ggml.merges"].contents() if "tokenizer.ggml.merges" in fields else []
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    alphabet = transformers.models.gpt2.tokenization_gpt2.bytes_to_unicode()
    ids = []
    for piece in regex.findall(GPT2_PATTERN, text):
        parts = [alphabet[byte] for byte in piece.encode()]
        while len(parts) > 1:
            rank, place = min(
                (ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(parts, parts[1:], strict=False))
            )
            if rank == len(ranks):
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [tokens[part] for part in parts]
    return ids
