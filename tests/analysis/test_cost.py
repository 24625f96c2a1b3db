from dataclasses import replace

import pytest
import torch
from processes import run_script
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpt import GPT, ModelConfig, TrainConfig
from gpt.analysis.cost import (
    cost_lines,
    fitting_micro_batch,
    flops_per_token,
    memory_lines,
    parameter_count,
    parameters,
    training_memory,
    weight_count,
)
from gpt.device import autocast
from gpt.presets import MUON, PRESETS, modern, preset

SHAPE = ModelConfig(n_layer=3, n_head=4, n_embd=128, context_length=128, vocab_size=300)
MODERN = modern(SHAPE)
VARIANTS = {
    "gpt2": SHAPE,
    "dropout": replace(SHAPE, dropout=0.1),
    "rope": replace(SHAPE, positions="rope"),
    "qk-norm": replace(SHAPE, qk_norm=True),
    "shared": replace(SHAPE, n_kv_head=2),
    "ngram": replace(SHAPE, ngram=3),
    "values": replace(SHAPE, value_embeddings=True),
    "values-qk-norm": replace(SHAPE, value_embeddings=True, qk_norm=True),
    "values-rope": replace(SHAPE, value_embeddings=True, positions="rope"),
    "relu": replace(SHAPE, activation="relu"),
    "inner": replace(SHAPE, n_inner=200, activation="gelu-erf"),
    "modern": MODERN,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_of_variants_are_those_of_the_model(name):
    with torch.device("meta"):
        assert parameter_count(VARIANTS[name]) == GPT(VARIANTS[name]).parameter_count()


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_model(name):
    config = preset(name).model
    with torch.device("meta"):
        model = GPT(config)
    assert parameter_count(config) == model.parameter_count()
    named = dict(model.named_parameters())
    assert parameters(config)["mlp"] == sum(p.numel() for n, p in named.items() if ".mlp." in n)
    assert parameters(config)["attention"] == sum(p.numel() for n, p in named.items() if ".attention." in n)


def test_rows_that_are_only_looked_up_are_counted_apart():
    tables = replace(SHAPE, value_embeddings=True, n_kv_head=2, ngram=2, ngram_buckets=50)
    assert parameters(tables)["value embedding"] == 300 * 2 * 64  # of two layers of three
    assert weight_count(tables) == parameter_count(tables) - 300 * 2 * 64 - 50 * 128
    assert weight_count(SHAPE) == parameter_count(SHAPE)


def test_flops_of_gpt2_are_those_counted_by_hand():
    assert flops_per_token(ModelConfig()) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 12 * 64 * 1024


def test_flops_agree_with_torchs_counter():
    """Matrix products of a forward and backward pass, counted by torch; ours adds norms and biases, under 1 %."""
    config = ModelConfig(n_layer=2, n_head=4, n_embd=128, context_length=64, vocab_size=512)
    model = GPT(config)
    ids = torch.randint(512, (2, 64))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    assert counter.get_total_flops() / ids.numel() == pytest.approx(flops_per_token(config), rel=0.01)


def test_flops_leave_out_what_is_only_looked_up_or_not_seen():
    assert flops_per_token(replace(SHAPE, ngram=3)) == flops_per_token(SHAPE)
    assert flops_per_token(replace(SHAPE, value_embeddings=True)) == flops_per_token(SHAPE)
    assert flops_per_token(replace(SHAPE, tie_embeddings=False)) == flops_per_token(SHAPE)
    shorter = flops_per_token(replace(SHAPE, sliding_window=32, window_pattern="SSL"))
    assert flops_per_token(SHAPE) - shorter == 12 * 4 * 32 * 2 * (128 - 32)


def test_muon_keeps_one_moment_of_the_matrices_and_recomputing_one_block():
    config = TrainConfig(model=SHAPE, batch_tokens=8 * 128)
    adamw, muon = training_memory(config, 8), training_memory(replace(config, optimizer=MUON), 8)
    matrices = sum(rows.numel() for rows, _ in GPT(SHAPE).muon_parameters())
    assert adamw.optimizer - muon.optimizer == 4 * matrices
    assert (adamw.update, muon.update) == (0, 4 * 4 * matrices)
    blocks, activations = (training_memory(replace(config, recompute=r), 8) for r in ("blocks", "activations"))
    assert blocks.activations < 0.5 * adamw.activations
    assert 0.7 < activations.activations / adamw.activations < 0.8


def test_the_head_in_chunks_does_not_hold_all_logits():
    config = TrainConfig(batch_tokens=64 * 1024)
    few, many = (training_memory(config, sequences).logits for sequences in (8, 64))
    assert many < 64 * 1024 * 50257 * 4 / 10
    assert many - few == 2 * 4 * (64 - 8) * 1024 * 768


def test_memory_has_four_times_the_weights_and_grows_with_the_micro_batch():
    config = TrainConfig(batch_tokens=8 * 1024)
    memory, larger = (training_memory(config, micro_batch_size) for micro_batch_size in (1, 8))
    assert memory.weights + memory.gradients + memory.optimizer == 4 * 4 * 124_439_808
    assert larger.activations == 8 * memory.activations
    assert larger.peak > memory.peak
    assert training_memory(config, 1, program=100).peak == memory.peak + 100


def test_several_processes_share_what_they_shard():
    config = TrainConfig(batch_tokens=8 * 1024)
    one, ddp = training_memory(config, 2), training_memory(config, 2, processes=4)
    fsdp = training_memory(replace(config, parallel="fsdp"), 2, processes=4)
    assert ddp.weights == one.weights
    assert fsdp.optimizer == one.optimizer // 4
    assert fsdp.peak < ddp.peak
    assert ddp.keeps_gradients  # its buckets


def kept_for_backward(config, sequences, dtype, masked=False):
    """Bytes of all tensors that torch keeps between the passes, weights left out, counted as it keeps them."""
    model = GPT(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast("cpu", dtype):
        ids = torch.randint(config.vocab_size, (sequences, config.context_length))
        model(ids, documents=ids if masked else None)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "copies"), [(torch.float32, 0), (torch.bfloat16, 2)])
def test_activations_are_those_that_torch_keeps(name, dtype, copies, masked):
    """Below float32 torch also keeps copies of the matrices, which are counted as weights."""
    shape = VARIANTS[name]
    config = TrainConfig(model=shape, batch_tokens=8 * 128, document_mask=masked)
    forecast = training_memory(config, 8, value_bytes=dtype.itemsize)
    matrices = sum(rows.numel() for rows, _ in GPT(shape).muon_parameters())
    expected = forecast.activations + copies * (matrices + 300 * 128)
    assert kept_for_backward(shape, 8, dtype, masked) == pytest.approx(expected, rel=0.03)


def test_the_micro_batch_is_the_largest_that_fits():
    config = TrainConfig(batch_tokens=64 * 1024)
    for budget in (int(4e9), int(8e9), int(20e9)):
        size = fitting_micro_batch(config, budget)
        assert training_memory(config, size).peak <= budget < training_memory(config, 2 * size).peak
    assert fitting_micro_batch(config, int(1e15)) == 64
    assert fitting_micro_batch(config, int(1e15), processes=4) == 16
    assert fitting_micro_batch(config, 1) == 1  # where nothing fits, the least there is


def test_a_gpu_gets_as_much_at_a_time_as_fills_it_and_no_more():
    large, small = TrainConfig(batch_tokens=480 * 1024), TrainConfig(batch_tokens=32 * 1024)
    assert fitting_micro_batch(large, int(1e15), "cuda") == 60  # of 480, halved thrice
    assert fitting_micro_batch(large, int(1e15), "cpu") == 480
    assert fitting_micro_batch(small, int(1e15), "cuda") == 32
    long = TrainConfig(model=ModelConfig(context_length=100_000), batch_tokens=800_000)
    assert fitting_micro_batch(long, int(1e15), "cuda") == 1  # one does not become less


@pytest.mark.process
@pytest.mark.parametrize("sequences", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_the_forecast_is_within_15_percent_of_what_a_process_needs(dataset, tmp_path, sequences):
    """A process of its own, as the peak of this one is that of all tests."""
    code = """
import sys
from pathlib import Path
from gpt import GPT, ModelConfig, TrainConfig
from gpt.analysis.cost import training_memory
from gpt.memory import peak_memory, used_memory
from gpt.dataset.dataset import open_dataset
from gpt.training.forecast import LIBRARIES
from gpt.dataset.loader import Loader
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer

model = ModelConfig(n_layer=6, n_head=6, n_embd=384, context_length=256, vocab_size=4096)
config = TrainConfig(model=model, batch_tokens=int(sys.argv[2]) * 256, micro_batch_size=int(sys.argv[2]), steps=100)
dataset = open_dataset(Path(sys.argv[1]))
forecast = training_memory(config, config.micro_batch_size, program=int(used_memory() + LIBRARIES)).peak
gpt, state = GPT(model), TrainState()
trainer = Trainer(gpt, config)
loader = Loader(dataset.train, config.batch_sequences, model.context_length, config.seed)
for trainer.rows in (1, config.batch_sequences):  # the second step has the optimizer's state from its beginning
    trainer.step(state, loader.batch(state.step, count=trainer.rows))
print(forecast / peak_memory("cpu"))
"""
    (tmp_path / "program.py").write_text(code)
    ratio = float(run_script(tmp_path / "program.py", dataset.path, sequences, cwd=tmp_path))
    assert ratio == pytest.approx(1, abs=0.15)


def test_the_words_name_the_figures():
    text = "\n".join(cost_lines(preset("gpt2")))
    assert "124,439,808" in text
    assert "training FLOPs per token" in text
    lines = memory_lines(training_memory(preset("nano"), 8))
    assert [line.split("  ")[0] for line in lines] == [
        f"memory, {part}"
        for part in ("program", "weights", "gradients", "optimizer", "activations", "logits", "update", "peak")
    ]
