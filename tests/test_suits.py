from dataclasses import replace

import pytest

from gpt.presets import preset
from gpt.suits import preset_for, suit_for


def test_the_device_decides_when_nobody_else_does():
    assert preset_for("cpu", "scratch")[0].preset == "nano"
    assert preset_for("mps", "scratch")[0].preset == "nano"
    large, reason = preset_for("cuda", "scratch")
    assert large.preset == "gpt2"
    assert large.model.dropout > 0
    assert reason == "a CUDA device"
    assert preset_for("cpu", "some/run")[0].preset == "finetune"


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_a_small_text_gets_n_grams_and_is_read_once(device):
    """Without the n-grams, which are learned by heart first, a small model may read it some times."""
    tiny, _ = preset_for(device, "scratch", 4_500)
    assert tiny.model.n_layer == 1
    assert tiny.model.ngram == preset("nano").model.ngram
    sizes = [4_500, 45_000, 200_000, 1_000_000, 20_000_000]
    suits = [suit_for("cpu", "scratch", tokens) for tokens in sizes]
    assert [suit.most_epochs(tiny.model) for suit in suits] == [1] * 5
    assert all(1 < suit.most_epochs(replace(tiny.model, ngram=1)) <= 6 for suit in suits)
    assert [suit.batch_tokens for suit in suits] == sorted(suit.batch_tokens for suit in suits)
    gentle, _ = preset_for(device, "some/run", 4_500)
    assert gentle.preset == "finetune"
    assert gentle.batch_tokens < preset("finetune").batch_tokens


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
