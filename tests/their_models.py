"""Small models of GPT2LMHeadModel, with random weights."""

import json

import torch
from helpers import transformers

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


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
