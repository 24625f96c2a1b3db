from dataclasses import replace

import pytest
import torch

from gpt import InputError
from gpt.analysis.cost import training_memory
from gpt.distributed.world import World
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


def test_only_a_lack_of_memory_is_caught(tiny_config):
    batch = micro_batch(tiny_config)
    with batch.catch_oom() as result:
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert result.failed
    with pytest.raises(RuntimeError, match="else"), batch.catch_oom():
        raise RuntimeError("something else")
