import pytest
import torch
from helpers import python_text, transformers, write_dataset
from safetensors.torch import load_file, save_file
from their_models import SHAPES, edit, random_ids, relative, their_model

from gpt import GPT, InputError, Tokenizer, generate, load_run
from gpt.commands.train_options import parse_train
from gpt.interop.huggingface_export import export
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER
from gpt.training.start import fit_to_dataset, initial_weights


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"activation_function": "silu"},
            "activation_function is 'silu', and only gelu_new, .* are computed; .* run it with",
        ),
        ({"activation_function": "quick_gelu"}, "activation_function is 'quick_gelu'"),
        ({"activation_function": ["relu"]}, r"activation_function is \['relu'\]"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_inner": 100}, r"blocks.0.mlp.fc_in.weight has shape \(128, 32\); its config.json means \(100, 32\)"),
        ({"n_inner": 0}, "`model.n_inner` is 0"),
        ({"scale_attn_by_inverse_layer_idx": 1}, "'scale_by_inverse_layer' is 1"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False where GPT-2 has True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"tie_word_embeddings": False}, "'lm_head.weight' is missing .* says tie_word_embeddings false"),
        ({"hidden_size": 64}, "says n_embd 32 and hidden_size 64, which are two names of one number"),
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


def test_damaged_and_missing_weights_are_refused(tmp_path):
    their_model(**SHAPES[0]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match=r"there is model-00001-.*, and no model.safetensors.index.json"):
        load_run(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="only safetensors are read, .*: name a directory that has some"):
        load_run(tmp_path)


def test_weights_that_are_no_numbers_of_a_model_are_refused(tmp_path):
    their_model(**SHAPES[0]).save_pretrained(tmp_path)
    file, weights = tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")
    save_file(weights | {"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int8)}, file)
    with pytest.raises(InputError, match="'ln_f.bias' is int8, so it is quantized"):
        load_run(tmp_path)
    save_file(weights | {"ln_f.bias": torch.zeros(32)}, file)
    with pytest.raises(InputError, match="has ln_f.bias twice, with the prefix transformer. and without"):
        load_run(tmp_path)
