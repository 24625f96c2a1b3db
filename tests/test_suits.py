from dataclasses import replace

import pytest

from gpt.presets import preset
from gpt.suits import preset_for, suit_for


def test_the_device_decides_when_nobody_else_does():
    assert preset_for("cpu", "scratch")[0].preset == "nano"
    assert preset_for("mps", "scratch")[0].preset == "nano"
    large, reason = preset_for("cuda", "scratch")
    assert large.preset == "gpt2-small-corpus"
    assert large.steps < preset("gpt2-small-corpus").steps
    assert reason == "a CUDA device"
    assert preset_for("cpu", "some/run")[0].preset == "finetune"


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_a_small_text_gets_n_grams_and_is_read_once(device):
    """Without the n-grams, which are learned by heart first, a small model may read it some times."""
    tiny, _ = preset_for(device, "scratch", 4_500, often=True)
    assert tiny.model.n_layer == 1
    assert tiny.model.ngram == preset("nano").model.ngram
    sizes = [4_500, 45_000, 200_000, 1_000_000, 20_000_000]
    suits = [suit_for("scratch", tokens) for tokens in sizes]
    assert [suit.most_epochs(tiny.model) for suit in suits] == [1] * 5
    assert all(1 < suit.most_epochs(replace(tiny.model, ngram=1)) <= 6 for suit in suits)
    assert [suit.batch_tokens for suit in suits] == sorted(suit.batch_tokens for suit in suits)
    gentle, _ = preset_for(device, "some/run", 4_500)
    assert gentle.preset == "finetune"
    assert gentle.batch_tokens < preset("finetune").batch_tokens


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_a_text_of_some_size_gets_layers_that_read_it_often_if_it_may_be(device):
    sizes = [20_000, 20_001, 400_000, 400_001]
    found = [preset_for(device, "scratch", tokens, often=True)[0] for tokens in sizes]
    assert [config.preset for config in found] == ["nano", "nano-deep", "nano-deep", "nano"]
    assert [config.model.ngram for config in found] == [3, 1, 1, 3]
    assert [config.optimizer.weight_decay for config in found] == [0, 0.4, 0.2, 0]
    assert [suit_for("scratch", n, "nano-deep").epochs for n in (50_000, 200_000)] == [12, 8]
    assert all(preset_for(device, "scratch", tokens)[0].preset == "nano" for tokens in sizes)


def test_a_large_model_drops_nothing_of_a_text_that_it_hardly_reads_twice():
    dropouts = [preset_for("cuda", "scratch", tokens)[0].model.dropout for tokens in (4e6, 15e6, 25e6)]
    assert dropouts == [0.1, 0.1, 0]


def test_the_largest_text_gets_nano_as_it_is():
    assert preset_for("cpu", "scratch", 3_700_000)[0] == preset("nano")


def test_a_small_text_has_one_rate_for_all_and_a_larger_one_nanos():
    scales = [
        preset_for("cpu", "scratch", tokens)[0].optimizer.embedding_lr_scale
        for tokens in (4_500, 45_000, 200_000, None)
    ]
    nanos = preset("nano").optimizer.embedding_lr_scale
    assert scales == [1, 1, nanos, nanos]
    assert nanos > 1
