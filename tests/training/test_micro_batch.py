"""The micro-batch: its size, and that it is halved where memory runs out."""

from dataclasses import replace

import pytest
import torch
from helpers import require_equal, weights

from gpt import InputError
from gpt.analysis.cost import training_memory
from gpt.distributed.world import World
from gpt.tracking.jsonl import read_metrics
from gpt.training import micro_batch as memory
from gpt.training.micro_batch import MicroBatch


def micro_batch(config, **changes):
    return MicroBatch(replace(config, **changes), World("cpu"), torch.float32)


def test_it_is_what_was_asked_for_and_at_most_the_batch(tiny_config):
    assert micro_batch(tiny_config, micro_batch_size=4).size == 4
    assert micro_batch(tiny_config, micro_batch_size=100).size == 6


def test_auto_takes_what_the_free_memory_holds(tiny_config, monkeypatch):
    config = replace(tiny_config, micro_batch_size="auto", batch_tokens=64 * 32)
    assert micro_batch(config).size == 64
    needed = [training_memory(config, size).peak for size in (8, 16)]
    monkeypatch.setattr(memory, "free_memory", lambda device: 4 * (needed[0] + needed[1]) // 2)
    assert micro_batch(config).size == 8


def test_it_is_halved_until_nothing_is_left_to_halve(tiny_config):
    batch = micro_batch(tiny_config, micro_batch_size=5)
    batch.halve(1)
    assert batch.size == 2
    batch.halve(1)
    with pytest.raises(InputError, match="step 1: out of memory with a single sequence"):
        batch.halve(1)


def test_a_resumed_run_keeps_the_size_unless_another_is_asked_for(tiny_config):
    batch = micro_batch(tiny_config, micro_batch_size=6)
    batch.halve(1)
    for asked, size in ((6, 3), (5, 5), ("auto", 6)):
        again = micro_batch(tiny_config, micro_batch_size=asked)
        again.load_state_dict(batch.state_dict())
        assert again.size == size


def test_a_part_of_a_sharded_model_answers_only_once_its_device_has_done_all(tiny_config, monkeypatch):
    """NCCL's hosts run ahead: one that lacks another's part must not say that its passes went well."""
    happened, batch = [], micro_batch(tiny_config)
    monkeypatch.setattr(memory, "synchronize", lambda device: happened.append("waited"))
    monkeypatch.setattr(batch.world, "any", lambda flag: happened.append(flag) or flag)
    monkeypatch.setattr(batch.world, "any_at_once", lambda: happened.append("at once") or True)
    good, bad = memory.Caught(), memory.Caught()
    bad.failed = True
    cases = (True, good, ["waited", False]), (True, bad, ["waited", "at once"])
    for sharded, caught, expected in (*cases, (False, good, [False]), (False, bad, [True])):
        happened.clear()
        monkeypatch.setattr(memory, "is_sharded", lambda model, sharded=sharded: sharded)
        assert batch.failed(caught, None, 1) == caught.failed
        assert happened == expected


def test_only_a_lack_of_memory_is_caught(tiny_config):
    batch = micro_batch(tiny_config)
    with batch.catch_failure() as result:
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert result.failed
    with pytest.raises(RuntimeError, match="else"), batch.catch_failure():
        raise RuntimeError("something else")


def test_the_micro_batch_does_not_change_what_is_learned(make_training, tiny_config):
    """Loss and gradient are means over all targets of the batch, those of padded windows not counted."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    results = []
    for micro_batch_size in (1, 4, 6):
        training = make_training(replace(config, micro_batch_size=micro_batch_size), f"micro-{micro_batch_size}")
        records = [training.step() for _ in range(40)]
        results.append(([r["train_loss"] for r in records], [r["gradient_norm"] for r in records]))
    assert results[0][0] == pytest.approx(results[2][0], rel=1e-4)
    assert results[1][1] == pytest.approx(results[2][1], rel=1e-2)


def exhaust(training, most):
    """Run out of memory whenever more than `most` sequences go through the model at a time; returns the sizes tried."""
    honest, tried = training.trainer.loss, []

    def forward(x, y):
        tried.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(x, y)

    training.trainer.loss = forward
    return tried


def test_out_of_memory_halves_the_micro_batch_and_does_the_step_again(make_training, tiny_config, said):
    config = replace(tiny_config, batch_tokens=16 * 32, model=replace(tiny_config.model, dropout=0.0))
    small, large = (make_training(replace(config, micro_batch_size=size), str(size)) for size in (2, 512))
    tried = exhaust(large, 3)
    for _ in range(5):
        one, two = small.step(), large.step()
        assert (one["train_loss"], one["batch_hash"]) == (two["train_loss"], two["batch_hash"])
    require_equal(weights(small), weights(large))
    assert tried == [16, 8, 4] + [2] * 40
    said = "\n".join(said)
    assert "step 1: out of memory with 16 sequences at a time; it is done again with 8" in said
    assert said.count("out of memory") == 3


def test_memory_that_runs_out_midway_costs_nothing(make_training, tiny_config):
    """In the backward pass of the third micro-batch of the fifth step, and once only; a resumed run keeps the size."""
    config = replace(tiny_config, steps=12, batch_tokens=12 * 32, micro_batch_size=4)
    config = replace(config, model=replace(config.model, dropout=0.0))
    training, reference = make_training(replace(config, stop_at=8), "oom"), make_training(config, "reference")
    calls = []

    def fail_once(gradient):
        calls.append(training.state.step)
        if len(calls) == 4 * 3 + 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    training.model.final_norm.bias.register_hook(fail_once)
    training.fit()
    resumed = make_training(config, "oom", resume=True)
    assert resumed.trainer.micro_batch.size == 2
    resumed.fit()
    reference.fit()
    losses = [[record["train_loss"] for record in read_metrics(t.run)] for t in (resumed, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_out_of_memory_with_one_sequence_is_the_users_to_solve(make_training, tiny_config):
    training = make_training(tiny_config)
    exhaust(training, 0)
    with pytest.raises(InputError, match="out of memory with a single sequence at a time"):
        training.step()


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_training, tiny_config):
    training = make_training(tiny_config)
    training.trainer.loss = lambda x, y: torch.ones(2) @ torch.ones(3)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        training.step()
