import json

import pytest
import torch
from helpers import python_text, transformers, write_dataset
from safetensors.torch import load_file, save_file

from gpt import GPT, InputError, Tokenizer, generate, load_run
from gpt.commands.train_options import parse_train
from gpt.interop.huggingface import read_config, read_weights
from gpt.interop.huggingface_export import export
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER
from gpt.training.start import fit_to_dataset, initial_weights

SHAPES = [
    {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 100},
    {"n_layer": 3, "n_head": 5, "n_embd": 40, "n_positions": 80, "vocab_size": 513},
    {"n_layer": 1, "n_head": 1, "n_embd": 16, "n_positions": 70, "vocab_size": 7, "layer_norm_epsilon": 1e-3},
]


def their_model(**shape):
    """GPT2LMHeadModel with weights large enough that a mistake shows."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def relative(result, reference):
    return ((result - reference).norm() / reference.norm()).item()


def random_ids(vocab_size, *shape):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_their_weights_give_their_logits(tmp_path, shape):
    theirs = their_model(**shape)
    theirs.save_pretrained(tmp_path)
    ours = load_run(tmp_path).model
    ids = random_ids(shape["vocab_size"], 3, shape["n_positions"])
    with torch.inference_mode():
        assert relative(ours(ids), theirs(ids).logits) < 1e-5


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_greedy_generation_gives_their_ids(tmp_path, shape):
    theirs = their_model(**shape)
    theirs.save_pretrained(tmp_path)
    prompt = random_ids(shape["vocab_size"], 8).tolist()
    room = shape["n_positions"] - len(prompt)
    expected = theirs.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=min(64, room), eos_token_id=None, pad_token_id=0
    )
    ids = list(generate(load_run(tmp_path).model, prompt, max_tokens=min(64, room), temperature=0))
    assert ids == expected[0, len(prompt) :].tolist()


@pytest.mark.process  # its vocabulary alone has 39 million weights
@pytest.mark.parametrize("layers", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_gpt2s_own_shape_both_ways(tmp_path, layers):
    """GPT-2's width, heads, context and vocabulary: their weights to us, and ours to them; some greedy ids."""
    theirs = their_model(n_layer=layers)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_run(tmp_path / "theirs").model
    ids = random_ids(50257, 1, 128)
    prompt = ids[0, :10]
    with torch.inference_mode():
        reference = theirs(ids).logits
        assert relative(ours(ids), reference) < 1e-5
    greedy = theirs.generate(prompt[None], do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
    del theirs
    assert list(generate(ours, prompt.tolist(), max_tokens=12, temperature=0)) == greedy[0, 10:].tolist()
    export(ours, Tokenizer.utf8_bytes(), tmp_path / "ours")
    with torch.inference_mode():
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
        assert relative(again(ids).logits, reference) < 1e-5


def test_weights_are_read_with_and_without_the_prefix_and_with_old_masks(tmp_path):
    theirs = their_model(**SHAPES[0])
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    reference = {name: tensor.clone() for name, tensor in read_weights(tmp_path, read_config(tmp_path)).items()}
    weights = {name.removeprefix("transformer."): tensor.clone() for name, tensor in load_file(file).items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    weights["lm_head.weight"] = weights["wte.weight"].clone()
    save_file(weights, file)
    plain = read_weights(tmp_path, read_config(tmp_path))
    assert all(torch.equal(plain[name], reference[name]) for name in reference)


def test_sharded_weights_are_read(tmp_path):
    theirs = their_model(**SHAPES[1])
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ids = random_ids(513, 1, 30)
    with torch.inference_mode():
        assert relative(load_run(tmp_path).model(ids), theirs(ids).logits) < 1e-5


def test_a_padded_vocabulary_is_cropped_when_training_goes_on(tmp_path, bpe, said):
    """Their weights have rows beyond their tokenizer; --init-from takes those that mean something."""
    theirs = their_model(n_layer=1, n_head=1, n_embd=8, n_positions=16, vocab_size=640)
    theirs.save_pretrained(tmp_path / "padded")
    bpe.save(tmp_path / "padded" / OUR_TOKENIZER)
    documents = [("train", python_text()[:5000]), ("validation", python_text()[5000:9000])]
    bpe.save(tmp_path / "bpe.json")
    dataset = write_dataset(documents, str(tmp_path / "bpe.json"), tmp_path / "data")
    config = parse_train(["--init-from", str(tmp_path / "padded"), "--data", str(tmp_path / "data")]).config
    config = fit_to_dataset(config, dataset)
    assert "vocabulary: 600 ids; those that pad it to 640 are left out" in said
    model = GPT(config.model)
    model.load_state_dict(initial_weights(config)[0])
    assert torch.equal(model.token_embedding.weight, theirs.transformer.wte.weight[:600])


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_inner": 100}, "n_inner is 100"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"n_layer": 3}, "the weight 'h.2.ln_1.weight' is missing"),
        ({"n_layer": 1}, "has weights that GPT-2 does not: h.1.attn.c_attn.bias"),
        ({"vocab_size": 101}, "token_embedding.weight has shape"),
        ({"n_head": 3}, "`model.n_embd` is 32"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(tmp_path, change, message):
    their_model(**SHAPES[0]).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", **change)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path)


def test_an_untied_head_is_refused(tmp_path):
    their_model(**SHAPES[0]).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"lm_head.weight": torch.zeros(100, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="lm_head.weight differs from wte.weight"):
        load_run(tmp_path)


def test_pickled_and_damaged_weights_are_refused(tmp_path):
    their_model(**SHAPES[0]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="only safetensors are read"):
        load_run(tmp_path)
