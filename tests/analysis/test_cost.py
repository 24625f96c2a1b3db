import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpt import GPT, Config, ModelConfig
from gpt.analysis.cost import cost_lines, flops_per_token, parameter_count, parameters, training_memory
from gpt.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_model(name):
    config = preset(name).model
    with torch.device("meta"):
        model = GPT(config)
    assert parameter_count(config) == model.parameter_count()
    named = dict(model.named_parameters())
    assert parameters(config)["mlp"] == sum(p.numel() for n, p in named.items() if ".mlp." in n)
    assert parameters(config)["attention"] == sum(p.numel() for n, p in named.items() if ".attention." in n)


def test_flops_of_gpt2_are_those_counted_by_hand():
    assert flops_per_token(ModelConfig()) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 12 * 64 * 1024


def test_flops_agree_with_torchs_counter():
    """Matrix products of a forward and backward pass, counted by torch; ours adds norms and biases, under 1 %."""
    config = ModelConfig(n_layer=2, n_head=4, width=128, context=64, vocab_size=512)
    model = GPT(config)
    ids = torch.randint(512, (2, 64))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    assert counter.get_total_flops() / ids.numel() == pytest.approx(flops_per_token(config), rel=0.01)


def test_memory_has_four_times_the_weights_and_grows_with_the_micro_batch():
    small, large = (Config(micro_batch=m, batch_tokens=8 * 1024) for m in (1, 8))
    memory = training_memory(small)
    assert memory.weights + memory.gradients + memory.optimizer == 4 * 4 * 124_439_808
    assert training_memory(large).activations == 8 * memory.activations
    assert training_memory(large).total > memory.total


def test_the_words_name_the_figures():
    text = "\n".join(cost_lines(preset("gpt2")))
    assert "124,439,808" in text
    assert "training FLOPs per token" in text
