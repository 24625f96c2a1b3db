"""What others' converters make of an export, each where it is installed: CTranslate2's, and optimum's to ONNX."""

import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch
from helpers import SHAPE, python_text, transformers

from gpt import GPT, Tokenizer, generate
from gpt.interop.huggingface_export import export

SHAPES = {
    "gpt2": {},
    "gpt2-untied": {"tie_embeddings": False},
    "gptneox": {"positions": "rope", "tie_embeddings": False},
    "arcee": {"positions": "rope", "normalization": "rms", "activation": "relu-squared", "bias": False},
}


@pytest.fixture(scope="module")
def tokenizers():
    return {"bytes": Tokenizer.utf8_bytes(), "bpe": Tokenizer.train_bpe([python_text()[:60_000]], 512)}


def exported(to, shape, tokenizer):
    """An export, and (prompt, its ids, 64 greedy ids of ours) for 20 prompts."""
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, vocab_size=tokenizer.vocab_size, context_length=128, **SHAPES[shape])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2).add_(name.endswith("norm.weight"))
    export(model, tokenizer, to)
    prompts = [python_text()[start : start + 30 + start // 100] for start in range(0, 2000, 100)]
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    return [(p, i, list(generate(model, i, max_tokens=64, temperature=0))) for p, i in zip(prompts, ids, strict=True)]


def called(main, *arguments):
    """Call a command's main function as its name does."""
    with mock.patch.object(sys, "argv", [*map(str, arguments)]):
        main()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("shape", ["gpt2", "gpt2-untied", "gptneox"])
def test_ctranslate2_writes_the_same_ids(tmp_path, shape, kind, tokenizers):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs ctranslate2")
    from ctranslate2.converters.transformers import main

    if shape == "gptneox" and not hasattr(transformers.GPTNeoXConfig(), "rotary_pct"):
        pytest.skip("ctranslate2 asks a GPT-NeoX for rotary_pct, which transformers 5 has no longer")
    expected = exported(tmp_path / "exported", shape, tokenizers[kind])
    called(main, "ct2-transformers-converter", "--model", tmp_path / "exported", "--output_dir", tmp_path / "ct2")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    generator = ctranslate2.Generator(str(tmp_path / "ct2"), compute_type="float32", intra_threads=1)
    greedy = {"max_length": 64, "sampling_topk": 1, "include_prompt_in_result": False, "end_token": []}
    for prompt, ids, written in expected:
        assert theirs(prompt).input_ids == ids
        result = generator.generate_batch([theirs.convert_ids_to_tokens(ids)], **greedy)
        assert result[0].sequences_ids[0] == written
    assert len({token for _, _, written in expected for token in written}) > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("shape", ["gpt2", "arcee"])
def test_onnx_writes_the_same_ids(tmp_path, shape, kind, tokenizers):
    runtime = pytest.importorskip("optimum.onnxruntime", reason="needs optimum-onnx[onnxruntime]")
    from optimum.commands.optimum_cli import main

    expected = exported(tmp_path / "exported", shape, tokenizers[kind])
    options = ["--model", tmp_path / "exported", "--task", "text-generation-with-past", tmp_path / "onnx"]
    called(main, "optimum-cli", "export", "onnx", *options)
    model = runtime.ORTModelForCausalLM.from_pretrained(tmp_path / "onnx")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "onnx")
    for prompt, ids, written in expected:
        given = theirs(prompt, return_tensors="pt")
        assert given.input_ids[0].tolist() == ids
        result = model.generate(
            input_ids=given.input_ids,
            attention_mask=given.attention_mask,
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert result[0, len(ids) :].tolist() == written
    assert len({token for _, _, written in expected for token in written}) > 10
