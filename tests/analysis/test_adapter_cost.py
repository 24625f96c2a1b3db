"""What training adapters costs: against what torch keeps and counts."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpt import InputError, ModelConfig, TrainConfig
from gpt.analysis.cost import adapter_count, cost_lines, flops_per_token, training_memory
from gpt.model.lora import LoRAConfig
from gpt.model.transformer import GPT
from gpt.training.start import new_model

SHAPE = ModelConfig(n_layer=3, n_head=4, n_embd=128, context_length=128, vocab_size=300)
FULL = TrainConfig(model=SHAPE, batch_tokens=8 * 128, init_from="base")
ADAPTED = replace(FULL, lora=LoRAConfig(rank=8))


def product_flops(_, a, b, **__):
    return 2 * a[0] * a[1] * b[1]


IN_PLACE = {torch.ops.aten.addmm_: product_flops}  # which torch's counter does not know
FEW = ("attention.qkv", "mlp.fc_in")


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("targets", [LoRAConfig().targets, FEW])
def test_adapters_alone_are_counted_and_have_gradients_and_moments(targets):
    config = replace(ADAPTED, lora=replace(ADAPTED.lora, targets=targets))
    count = sum(parameter.numel() for parameter in trained(new_model(config, "cpu")))
    assert adapter_count(config) == count
    assert adapter_count(FULL) == 0
    memory, full = training_memory(config, 8), training_memory(FULL, 8)
    assert (memory.gradients, memory.optimizer, memory.weights - full.weights) == (4 * count, 8 * count, 4 * count)
    assert f"{'adapters, which are trained':28} {count:>15,}" in cost_lines(config)


def test_the_default_adapters_of_gpt2_are_as_many_as_peft_says():
    """16 · Σ (inputs + outputs) of c_attn, c_proj, c_fc and c_proj in 12 layers of width 768."""
    config = TrainConfig(init_from="gpt2", lora=LoRAConfig(rank=16), batch_tokens=8 * 1024)
    assert adapter_count(config) == 12 * 16 * (4 * 768 + 2 * 768 + 5 * 768 + 5 * 768) == 2_359_296
    full, half = (
        training_memory(config, 2),
        training_memory(replace(config, lora=LoRAConfig(16, base_dtype="bfloat16")), 2),
    )
    assert full.weights - half.weights == 2 * 12 * 12 * 768**2


@pytest.mark.parametrize("recompute", ["none", "activations", "blocks"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LoRAConfig().targets, FEW])
def test_activations_are_those_that_torch_keeps(recompute, dropout, targets):
    config = replace(ADAPTED, recompute=recompute, lora=LoRAConfig(8, dropout=dropout, targets=targets))
    model = new_model(config, "cpu").train()
    model.set_recompute(recompute)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(torch.randint(300, (8, 128)))
    assert hidden.requires_grad
    found = sum(size for size, _ in kept.values())
    if recompute == "blocks":  # but one block at a time
        assert found < training_memory(config, 8).activations < training_memory(FULL, 8).activations / 2
    else:
        assert found == pytest.approx(training_memory(config, 8).activations, rel=0.06)


def test_flops_agree_with_torchs_counter():
    """Nothing is computed for the gradients of what is frozen."""
    config = replace(ADAPTED, lora=LoRAConfig(8, dropout=0.0), model=replace(SHAPE, vocab_size=512), batch_tokens=128)
    ids = torch.randint(512, (2, 64))
    flops = []
    for model in (GPT(config.model), new_model(config, "cpu")):
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, sdpa_kernel(SDPBackend.MATH):
            torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        flops.append(counter.get_total_flops() / ids.numel())
    shape = replace(config.model, context_length=64)
    first = 2 * 128 * 3 * 128  # what goes into the first block is of frozen weights, and has no gradient
    assert flops[1] == pytest.approx(flops_per_token(shape, adapter_count(config)) - first, rel=0.01)
    assert flops[1] < 0.75 * flops[0]


def test_targets_that_are_not_there_are_refused_before_anything_is_done():
    with pytest.raises(InputError, match="`lora.targets` mlp.gate: names no linear layer of a block"):
        training_memory(replace(ADAPTED, lora=LoRAConfig(8, targets=("mlp.gate",))), 8)
