import math
from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, variant

from gpt import GPT, ModelConfig
from gpt.model.attention import CausalSelfAttention
from gpt.model.positions import POSITIONS
from gpt.model.values import ValueEmbedding

CONFIG = replace(SHAPE, value_embeddings=True)


@pytest.mark.parametrize(("n_layer", "layers"), [(1, [0]), (2, [1]), (3, [0, 2]), (12, [1, 3, 5, 7, 9, 11])])
def test_the_last_layer_has_one_and_every_second_before_it(n_layer, layers):
    config = replace(CONFIG, n_layer=n_layer, n_kv_head=2)
    assert [*config.value_layers] == layers
    assert [*replace(config, value_embeddings=False).value_layers] == []
    found = ValueEmbedding(config)(torch.tensor([[1, 2, 3]]))
    assert [layer for layer, values in enumerate(found) if values] == layers
    assert all(values[0].shape == (1, 3, config.kv_dim) for values in found if values)


def test_each_layer_has_a_table_of_its_own():
    config = replace(CONFIG, n_layer=4)
    embedding, ids = ValueEmbedding(config), torch.tensor([[5, 0, 5]])
    tables = embedding.table.weight.view(config.vocab_size, 2, config.kv_dim)
    found = embedding(ids)
    for layer, table in ((1, 0), (3, 1)):
        assert torch.equal(found[layer][0], tables[ids, table])


def test_a_new_model_computes_as_without_them():
    """As its tables begin with zeros."""
    torch.manual_seed(1)
    plain = GPT(replace(CONFIG, value_embeddings=False)).eval()
    torch.manual_seed(1)
    model = GPT(CONFIG).eval()
    model.load_state_dict(plain.state_dict() | {"value_embedding.table.weight": model.value_embedding.table.weight})
    ids = torch.randint(CONFIG.vocab_size, (2, 9))
    assert torch.equal(model(ids), plain(ids))
    assert not model.value_embedding.table.weight.any()


def test_they_are_added_to_values_alone():
    """Against the formula, in float64: softmax(q·kᵀ / √D)·(v + e), position by position."""
    config, T = replace(CONFIG, n_head=2, n_kv_head=1, n_embd=8), 5
    attention = CausalSelfAttention(0, 8, 2, 1).double()
    x, e = torch.randn(1, T, 8).double(), torch.randn(1, T, 4).double()
    scheme = POSITIONS["learned"](8, 2, config.context_length)
    found = attention(x, scheme, scheme.prepare(torch.arange(T)), None, e)
    query, key, value = attention.qkv(x)[0].split([8, 4, 4], dim=-1)
    value = value + e[0]
    rows = []
    for t in range(T):
        heads = []
        for head in query[t].split(4):
            weights = (key[: t + 1] @ head / math.sqrt(4)).softmax(0)
            heads.append(weights @ value[: t + 1])
        rows.append(attention.out_proj(torch.cat(heads)))
    torch.testing.assert_close(found[0], torch.stack(rows))


def test_gradients_reach_the_rows_of_the_ids_that_were_read():
    model, ids = variant("values"), torch.tensor([[3, 7, 3, 1]])
    model(ids, targets=ids).backward()
    rows = model.value_embedding.table.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert rows == [1, 3, 7]


def test_the_default_has_none():
    assert GPT(replace(SHAPE, n_layer=1)).value_embedding is None
    assert ModelConfig().value_embeddings is False
