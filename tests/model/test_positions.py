import pytest
import torch

from gpt.model.positions import apply_rotary_emb, rotary_cos_sin


def test_products_depend_on_the_distance_alone():
    """Su et al. 2021, equation 16: the reason for rotating at all."""
    torch.manual_seed(0)
    query, key = torch.randn(1, 16, dtype=torch.float64), torch.randn(1, 16, dtype=torch.float64)

    def product(m, n):
        turned = (apply_rotary_emb(x, rotary_cos_sin(torch.tensor([p]), 16)) for x, p in ((query, m), (key, n)))
        return torch.mul(*turned).sum().item()

    assert product(3, 1) == pytest.approx(product(40, 38), rel=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), rel=1e-3)


def test_a_rotation_keeps_lengths_and_leaves_the_first_position():
    x = torch.randn(2, 3, 10, 8)
    turned = apply_rotary_emb(x, rotary_cos_sin(torch.arange(10), 8))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])


def test_it_is_that_of_transformers():
    """Their Llama's, which has the same base and the same halves."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    embedding = llama.LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    )
    query, key = torch.randn(2, 4, 20, 16), torch.randn(2, 4, 20, 16)
    cosine, sine = embedding(query, torch.arange(20).unsqueeze(0))
    theirs = llama.apply_rotary_pos_emb(query, key, cosine, sine)
    cos_sin = rotary_cos_sin(torch.arange(20), 16)
    for ours, reference in zip((apply_rotary_emb(query, cos_sin), apply_rotary_emb(key, cos_sin)), theirs, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
