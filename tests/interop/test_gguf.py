import random
import re
import sys
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise

import jinja2
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
)

from gpt import GPT, InputError, ModelConfig, Tokenizer, generate
from gpt.interop.gguf import write_gguf
from gpt.text.added import with_added
from gpt.text.spelling import from_bytes
from gpt.text.templates import named_source, template_of
from gpt.text.tokenizer import END_OF_TEXT, GPT2_PATTERN

gguf = pytest.importorskip("gguf", reason="needs gguf, of the extra `gguf`")

ARCEE = {"positions": "rope", "normalization": "rms", "activation": "relu-squared", "bias": False}
SHAPES = {
    "gpt2": {},
    "gpt2-untied": {"tie_embeddings": False},
    "gpt2-no-bias": {"bias": False},
    "gpt2-shared": {"n_kv_head": 2, "n_inner": 96},
    "gptneox": {"positions": "rope", "tie_embeddings": False},
    "gptneox-tied-shared-no-bias": {"positions": "rope", "n_kv_head": 2, "bias": False},
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
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2).add_(name.endswith("norm.weight"))
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
        if self.architecture != "arcee":
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.square().mean(-1, keepdim=True) + self.keys["attention.layer_norm_epsilon"]).sqrt()
            return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        x = x / (x.square().mean(-1, keepdim=True) + self.keys["attention.layer_norm_rms_epsilon"]).sqrt()
        return x * self.weights[f"{name}.weight"]

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def turned(self, x):
        """Turn (T, heads, D): in arcee, as in Llama, neighbors are pairs; in gptneox a number of each half."""
        T, _, D = x.shape
        assert self.keys["rope.dimension_count"] == D
        angles = torch.arange(T)[:, None] * self.keys["rope.freq_base"] ** (-torch.arange(0, D, 2).double() / D)
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]
        if self.architecture == "gptneox":
            turned = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * turn
            return torch.cat([turned.real, turned.imag], -1)
        return torch.view_as_real(torch.view_as_complex(x.reshape(T, -1, D // 2, 2).contiguous()) * turn).flatten(2)

    def attention(self, x, block):
        T, C = x.shape
        D = C // self.heads
        if self.architecture != "arcee":
            parts = self.linear(x, f"{block}.attn_qkv").split([C, self.kv_heads * D, self.kv_heads * D], -1)
        else:
            parts = [self.linear(x, f"{block}.attn_{kind}") for kind in "qkv"]
        q, k, v = (part.view(T, -1, D) for part in parts)
        if self.architecture != "gpt2":
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
        if self.architecture == "gptneox":
            assert self.keys["use_parallel_residual"] is False and "output.weight" in self.weights
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
    write_gguf(
        model,
        Tokenizer.utf8_bytes(),
        tmp_path / "model.gguf",
        "q8_0",
        {"general.name": "mine", "general.license": "mit"},
    )
    found = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()}
    tokens, types = found.pop("tokenizer.ggml.tokens"), found.pop("tokenizer.ggml.token_type")
    assert {name: value for name, value in found.items() if not name.startswith("GGUF.")} == {
        "general.architecture": "arcee",
        "general.type": "model",
        "general.name": "mine",
        "general.license": "mit",
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
        "tokenizer.ggml.merges": [
            f"{END_OF_TEXT} {END_OF_TEXT}"
        ],  # none would be refused there; this one never applies
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


class Vocabulary:
    """A file's, which encodes as llama.cpp does (llm_tokenizer_bpe_session): pieces, each merged by ranks."""

    def __init__(self, file):
        self.tokens = {token: number for number, token in enumerate(key(file, "tokenizer.ggml.tokens"))}
        merges = key(file, "tokenizer.ggml.merges")
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}

    def encode(self, text):
        ids = []
        for piece in regex.findall(GPT2_PATTERN, text):
            parts = list(from_bytes(piece.encode()))
            while pairs := [(self.ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in self.ranks]:
                place = min(pairs)[1]
                parts[place : place + 2] = [parts[place] + parts[place + 1]]
            ids += [self.tokens[part] for part in parts]
        return ids


@pytest.fixture(scope="module")
def own_bpe():
    return Tokenizer.train_bpe([python_text()[:60_000], *NASTY], 512)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_its_tokens_and_merges_encode_as_we_do(tmp_path, kind, own_bpe):
    tokenizer = own_bpe if kind == "bpe" else Tokenizer.utf8_bytes()
    write_gguf(model_of({}, tokenizer.vocab_size), tokenizer, tmp_path / "model.gguf")
    vocabulary, rng = Vocabulary(tmp_path / "model.gguf"), random.Random(0)
    for text in [*NASTY, *(random_text(rng, 100) for _ in range(10))]:
        assert vocabulary.encode(text) == tokenizer.encode(text), text


def test_rows_without_a_token_are_unused_tokens_and_added_ones_are_control(tmp_path):
    tokenizer = with_added(Tokenizer.utf8_bytes(), ["<|im_start|>", "<|im_end|>"])
    write_gguf(model_of({}, 262), tokenizer, tmp_path / "model.gguf")
    control, unused = gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    padding = ["[PAD259]", "[PAD260]", "[PAD261]"]
    assert key(tmp_path / "model.gguf", "tokenizer.ggml.tokens")[256:] == [*tokenizer.special_tokens, *padding]
    assert key(tmp_path / "model.gguf", "tokenizer.ggml.token_type")[255:] == [1, *[control] * 3, *[unused] * 3]


def test_a_chat_template_goes_along_with_what_ends_an_answer(tmp_path):
    """And nothing stands for a bos_token, as in training."""
    template = template_of(named_source("chatml").replace("{% for", "{{ bos_token }}{% for", 1))
    tokenizer = with_added(Tokenizer.utf8_bytes(), template.tokens)
    write_gguf(model_of({}, 259), tokenizer, tmp_path / "model.gguf", template=template)
    assert key(tmp_path / "model.gguf", "tokenizer.ggml.eot_token_id") == tokenizer.special_tokens["<|im_end|>"]
    assert key(tmp_path / "model.gguf", "tokenizer.ggml.eos_token_id") == tokenizer.end_of_text
    source = key(tmp_path / "model.gguf", "tokenizer.chat_template")
    talk = [{"role": "user", "content": "Why?"}]
    written = jinja2.Template(source).render(messages=talk, add_generation_prompt=True, bos_token=END_OF_TEXT)
    assert written == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"qk_norm": True}, "gpt2 cannot compute this model, which has model.qk_norm True;"),
        (
            VARIANTS["modern"],
            "arcee cannot compute this model, which has model.qk_norm True, .*model.ngram 3, model.value_",
        ),
        ({"activation": "relu-squared"}, "model.activation relu-squared"),
        ({"activation": "gelu-erf"}, "model.activation gelu-erf"),
        ({"scale_by_inverse_layer": True}, "model.scale_by_inverse_layer True"),
        ({"logit_softcap": 15.0}, "model.logit_softcap 15.0"),
        ({"sliding_window": 8}, "model.sliding_window 8"),
        ({"ngram": 2}, "model.ngram 2"),
        ({"value_embeddings": True}, "model.value_embeddings True"),
        (ARCEE | {"bias": True}, "arcee cannot compute this model, which has model.bias True;"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_named_and_nothing_is_written(tmp_path, change, named):
    with pytest.raises(InputError, match=f"`format` gguf: .*{named}"):
        write_gguf(model_of(change), Tokenizer.utf8_bytes(), tmp_path / "new" / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_new_setting_is_refused_until_it_is_allowed_by_name(tmp_path):
    @dataclass(frozen=True)
    class Extended(ModelConfig):
        alibi: bool = False

    model = model_of({"sliding_window": 48, "n_kv_head": 4, "dropout": 0.5, "ngram_buckets": 7})
    model.config = Extended(**asdict(model.config), alibi=True)
    with pytest.raises(InputError, match="which has model.alibi True;"):
        write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf")
    model.config = replace(model.config, alibi=False)
    write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (Tokenizer.char("abc", True), "has no vocabulary of characters, .*`tokenizer` bytes, bpe:4096 or gpt2"),
        (Tokenizer("bpe", Tokenizer.utf8_bytes().ranks, GPT2_PATTERN, end_of_text=False), "has no <|endoftext|>, "),
        (
            Tokenizer("bpe", [*Tokenizer.utf8_bytes().ranks, END_OF_TEXT.encode()], GPT2_PATTERN),
            "two of this tokenizer are '<|endoftext|>'",
        ),
    ],
)
def test_a_vocabulary_that_llama_cpp_cannot_read_is_refused(tmp_path, tokenizer, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        write_gguf(model_of({}, tokenizer.vocab_size), tokenizer, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "dtype", "held"),
    [
        (65519, "float16", True),
        (65520, "float16", False),
        (65520, "q8_0", True),
        (9e6, "q8_0", False),
        (9e6, "float32", True),
        (torch.inf, "float32", False),
        (torch.nan, "float16", False),
    ],
)
def test_a_value_that_a_type_cannot_hold_is_refused_before_writing(tmp_path, value, dtype, held):
    model = model_of({})
    with torch.no_grad():
        model.blocks[1].mlp.fc_in.weight[3, 4] = -value
    if held:
        write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf", dtype)
        return
    with pytest.raises(InputError, match="`dtype`: blk.1.ffn_up.weight has a value of"):
        write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf", dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "model.gguf").write_text("dear")
    with pytest.raises(InputError, match="model.gguf: exists; choose a new file"):
        write_gguf(model_of({}), Tokenizer.utf8_bytes(), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_text() == "dear"


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=re.escape("pip install 'gpt[gguf]'")):
        write_gguf(model_of({}), Tokenizer.utf8_bytes(), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
def test_a_file_that_reads_back_otherwise_is_not_kept(tmp_path, monkeypatch, dtype):
    def write_wrong(writer, array):
        wrong = array.copy()
        if array.shape[0] == 96:  # of the matrices, attn_qkv's
            wrong.reshape(-1)[7] = 77
        write(writer, wrong)

    write = gguf.GGUFWriter.write_tensor_data
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", write_wrong)
    with pytest.raises(InputError, match="read back, it differs from what was written, first in blk.0.attn_qkv"):
        write_gguf(model_of({}), Tokenizer.utf8_bytes(), tmp_path / "model.gguf", dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_reads_back_otherwise_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_bool", lambda *_: None)
    with pytest.raises(InputError, match="first in tokenizer.ggml.add_bos_token"):
        write_gguf(model_of({}), Tokenizer.utf8_bytes(), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


# ---- the command ----


def test_gpt_export_writes_a_gguf_file(tmp_path):
    run = saved_run(tmp_path, "mine")
    said = run_gpt(tmp_path, "export", "--run", run, "--to", "out", "--format", "gguf", "--dtype", "q8_0")
    assert said.startswith("out/model-q8_0.gguf: ") and "in q8_0, and the same when it is read back" in said
    assert "llama-server -m out/model-q8_0.gguf" in said
    run_gpt(
        tmp_path,
        "export",
        "--run",
        run,
        "--to",
        "there/mine.gguf",
        "--format",
        "gguf",
        "--license",
        "mit",
        "--language",
        "en",
    )
    assert key(tmp_path / "there" / "mine.gguf", "general.name") == "mine"
    assert key(tmp_path / "there" / "mine.gguf", "general.file_type") == gguf.LlamaFileType.ALL_F32
    assert key(tmp_path / "there" / "mine.gguf", "general.license") == "mit"
    assert key(tmp_path / "there" / "mine.gguf", "general.languages") == ["en"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "gguf", "--adapter"), "--adapter: adapters are written for PEFT, not in GGUF"),
        (("--format", "gguf", "--with-code"), "--with-code: llama.cpp runs no code of a model's own"),
        (("--format", "gguf", "--no-proof"), "--proof: is of transformers; a GGUF file is always read back"),
        (("--dtype", "float16"), "--dtype float16: is for --format gguf"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    assert message in run_gpt(tmp_path, "export", "--to", "out", *options, code=2)


# ---- llama.cpp itself ----


def loaded(file, context=128):
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, which compiles llama.cpp")
    numbers = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    threads = {"n_threads": 1, "n_threads_batch": 1}
    return llama_cpp.Llama(str(file), n_ctx=context, logits_all=True, verbose=False, **threads, **numbers)


def continued(llama, ids, tokens):
    drawn = llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
    return list(islice(drawn, tokens))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_writes_the_same_ids(tmp_path, shape, own_bpe):
    """On 20 prompts that no rounding decides: llama.cpp looks GELU up in a table of float16."""
    tokenizer = own_bpe if "shared" in shape else Tokenizer.utf8_bytes()
    model = model_of(SHAPES[shape], tokenizer.vocab_size, context_length=128, n_layer=3)  # which fewer texts repeat
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    llama, seen, written = loaded(tmp_path / "model.gguf"), 0, set()
    for start in range(0, 2000, 50):
        prompt = tokenizer.encode(python_text()[start : start + 30])
        ids = list(generate(model, prompt, max_tokens=64, temperature=0))
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids[:-1]]))[0, len(prompt) - 1 :]
        best = logits.topk(2).values
        if (best[:, 0] - best[:, 1]).min() > 2e-3 * logits.std():
            assert continued(llama, prompt, 64) == ids
            seen, written = seen + 1, written.union(ids)
        if seen == 20:
            break
    assert seen == 20
    assert len(written) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("q8_0", 5e-2)])
@pytest.mark.parametrize("shape", ["gpt2", "gptneox", "arcee"])
def test_llama_cpp_computes_the_rounded_weights(tmp_path, shape, dtype, error):
    model, ids = model_of(SHAPES[shape], context_length=128), ids_of(257, 100)
    write_gguf(model, Tokenizer.utf8_bytes(), tmp_path / "model.gguf", dtype)
    llama = loaded(tmp_path / "model.gguf")
    llama.eval(ids.tolist())
    logits = torch.tensor(llama.scores[:100])
    assert relative(logits, Graph(tmp_path / "model.gguf")(ids).float()) < error
    with torch.inference_mode():
        assert relative(logits, model(ids[None])[0]) < error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "bpe", "gpt2"])
def test_llama_cpp_encodes_and_decodes_as_we_do(tmp_path, kind, own_bpe):
    tokenizer = own_bpe if kind == "bpe" else {"bytes": Tokenizer.utf8_bytes, "gpt2": Tokenizer.gpt2}[kind]()
    write_gguf(model_of({}, tokenizer.vocab_size + 3), tokenizer, tmp_path / "model.gguf")
    llama, rng = loaded(tmp_path / "model.gguf"), random.Random(0)
    assert llama.token_eos() == tokenizer.end_of_text
    for text in [*NASTY, *(assigned(random_text(rng, 300)) for _ in range(200))]:
        ids = llama.tokenize(text.encode(), add_bos=True, special=False)
        assert ids == tokenizer.encode(text), text
        assert b"".join(llama.detokenize([token]) for token in ids).decode() == text
