"""The steps of a training: what they learn, and what must not change it."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import Training, needs_compiler, require_equal, weights
from torch.nn import functional as F

from gpt import GPT, InputError
from gpt.choices import IGNORE_INDEX
from gpt.distributed.world import World
from gpt.tracking.jsonl import read_metrics
from gpt.training import trainer as trainer_module
from gpt.training.start import training_loader


def test_the_loss_goes_down(make_training, tiny_config):
    optimizer, evaluation = replace(tiny_config.optimizer, learning_rate=1e-2), replace(tiny_config.evaluation, every=0)
    training = make_training(replace(tiny_config, steps=40, optimizer=optimizer, evaluation=evaluation))
    assert training.fit()
    records = read_metrics(training.run)
    assert records[0]["train_loss"] == pytest.approx(math.log(257), abs=0.1)
    assert records[-1]["val_loss"] < 4.0


def test_how_often_one_evaluates_or_saves_does_not_change_the_training(make_training, tiny_config):
    config = replace(tiny_config, steps=12)
    often = replace(
        config,
        evaluation=replace(tiny_config.evaluation, every=3),
        checkpoint=replace(tiny_config.checkpoint, every=4),
    )
    seldom = replace(config, evaluation=replace(tiny_config.evaluation, every=0))
    runs = [make_training(config, name) for config, name in ((often, "often"), (seldom, "seldom"))]
    for training in runs:
        training.fit()
    require_equal(weights(runs[0]), weights(runs[1]))


def test_recomputing_changes_nothing_that_is_learned(make_training, modern_shape):
    """Bit for bit: dropout is drawn again alike."""
    losses = []
    for recompute in ("none", "activations", "blocks"):
        training = make_training(replace(modern_shape, recompute=recompute), recompute)
        losses.append([training.step()["train_loss"] for _ in range(5)])
    assert losses[0] == losses[1] == losses[2]


def test_freed_memory_is_kept_unless_something_is_recomputed(make_training, tiny_config, monkeypatch):
    kept = []
    monkeypatch.setattr(trainer_module, "retain_freed_memory", lambda device, keep, *_: kept.append(keep))
    for recompute in ("none", "activations", "blocks"):
        make_training(replace(tiny_config, recompute=recompute), recompute)
    assert kept == [True, False, False]


def products():
    return torch.backends.mkldnn.matmul.fp32_precision


def test_training_alone_multiplies_rounded_numbers(make_training, tiny_config, monkeypatch, as_if_it_rounds):
    """Both passes of every micro-batch; not the optimizer, evaluations or samples, nor what comes after."""
    config = replace(tiny_config, steps=2, float32_matmul_precision="medium", micro_batch_size=2)
    training, before, seen = make_training(config), products(), set()
    honest = training.trainer.optimizer.step
    training.trainer.optimizer.step = lambda: seen.add(("optimizer", products())) or honest()
    training.model.register_forward_hook(lambda module, *_: seen.add((module.training, products())))
    training.model.blocks[0].register_full_backward_hook(lambda *_: seen.add(("backward", products())))
    assert training.fit()
    assert seen == {(True, "bf16"), ("backward", "bf16"), (False, before), ("optimizer", before)}
    assert products() == before


def test_a_pass_that_fails_leaves_torchs_setting_as_it_was(make_training, tiny_config, as_if_it_rounds):
    training, before = make_training(replace(tiny_config, float32_matmul_precision="medium")), products()
    for error in (torch.OutOfMemoryError("CUDA out of memory"), ZeroDivisionError()):
        hook = training.model.register_forward_pre_hook(raising(error))
        with pytest.raises((InputError, ZeroDivisionError)):
            training.step()
        hook.remove()
        assert products() == before


def raising(error):
    def fail(*_):
        assert products() == "bf16"
        raise error

    return fail


@pytest.mark.parametrize("shape", ["tiny_config", "modern_shape"])
def test_rounded_products_move_loss_and_gradients_by_little(make_training, request, rounds, shape):
    config, found = replace(request.getfixturevalue(shape), micro_batch_size=2), {}
    for precision in ("highest", "medium"):
        training = make_training(replace(config, float32_matmul_precision=precision), precision)
        parameters = [*training.model.parameters()]
        torch.manual_seed(0)
        for parameter in parameters:  # some begin at zero, which is not rounded
            parameter.data += 0.1 * torch.randn_like(parameter)
        batch = training_loader(training.trainer.config, training.dataset).batch(0)
        loss, _ = training.trainer.gradient(0, batch, config.batch_tokens)
        assert {p.dtype for p in parameters} == {p.grad.dtype for p in parameters} == {torch.float32}
        found[precision] = loss, torch.cat([p.grad.flatten() for p in parameters])
    (loss, gradient), (other, moved) = found.values()
    assert loss != other == pytest.approx(loss, rel=1e-3)
    assert 1e-4 < float((gradient - moved).norm() / gradient.norm()) < 5e-2


def test_a_step_is_what_its_definition_says(make_training, tiny_config):
    """Loss and gradient by hand, on the batch that has a padded window."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    training = make_training(config)
    while not (training.loader.batch(training.state.step).targets == IGNORE_INDEX).any():
        training.step()
    twin = GPT(config.model)
    twin.load_state_dict(training.model.state_dict())
    batch = training.loader.batch(training.state.step)
    loss = F.cross_entropy(twin(batch.inputs).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
    record = training.step()
    assert record["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_gradients_are_clipped_to_the_limit(make_training, tiny_config, monkeypatch):
    seen = []
    training = make_training(replace(tiny_config, optimizer=replace(tiny_config.optimizer, gradient_clip=0.05)))

    def look():
        seen.append(torch.sqrt(sum((p.grad**2).sum() for p in training.model.parameters())).item())

    monkeypatch.setattr(training.trainer.optimizer.adamw, "step", look)
    assert training.step()["gradient_norm"] > 0.1
    assert seen == [pytest.approx(0.05, rel=1e-3)]


def test_metrics_have_the_documented_keys(trained_run, dataset):
    records, windows = read_metrics(trained_run), -(-(dataset.train.tokens - 1) // 32)
    assert [record["step"] for record in records] == list(range(1, 31))
    keys = {"step", "tokens", "elapsed_s", "train_loss", "learning_rate", "gradient_norm", "tokens_per_s"}
    keys |= {"batch_hash", "epoch", "mfu", "compiled", "exact"}
    evaluated = {"val_loss", "val_loss_se", "val_loss_ci95", "val_bits_per_byte", "sample"}
    for record in records:
        assert set(record) == (keys | evaluated if record["step"] % 10 == 0 else keys)
        assert record["tokens"] == record["step"] * 192
        share = record["mfu"]
        assert share is None or 0 < share < 1
        assert record["epoch"] == record["step"] * 6 / windows
    times = [record["elapsed_s"] for record in records]
    assert times == sorted(times)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_single_step_learns_something(make_training, tiny_config, schedule):
    optimizer = replace(tiny_config.optimizer, schedule=schedule, min_lr_ratio=0.0)
    training = make_training(replace(tiny_config, steps=1, optimizer=optimizer))
    before = weights(training)
    assert training.fit()
    assert not torch.equal(before["token_embedding.weight"], weights(training)["token_embedding.weight"])


@pytest.mark.slow
@needs_compiler
def test_compiled_training_has_the_same_losses(make_training, tiny_config):
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    losses = []
    for setting in ("off", "on"):
        training = make_training(replace(config, compile=setting), setting)
        losses.append([training.step()["train_loss"] for _ in range(5)])
    assert training.trainer.compiled.works
    assert training.trainer.compiled.graphs == 2  # of 4 sequences, and of the other 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_cuda_learns_like_the_cpu(dataset, tiny_config, tmp_path):
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        training = Training(config, dataset, tmp_path / device, World(device))
        losses.append([training.step()["train_loss"] for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # bfloat16 has 8 bits
