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
def test_the_size_of_a_text_decides_for_n_grams_read_once_or_layers_that_read_often(device):
    sizes = [4_500, 45_000, 200_000, 1_000_000, 20_000_000]
    suits = [suit_for("cpu", "scratch", tokens) for tokens in sizes]
    assert [suit.batch_tokens for suit in suits] == sorted(suit.batch_tokens for suit in suits)
    suited = [preset_for(device, "scratch", tokens)[0] for tokens in sizes[:3]]
    nano = preset("nano")
    assert [config.model.n_layer for config in suited] == [1, 4, 4]
    assert [config.model.ngram for config in suited] == [nano.model.ngram, 1, 1]
    assert [config.optimizer.weight_decay > 0 for config in suited] == [False, True, True]
    assert [suit.most_epochs(config.model) for suit, config in zip(suits, suited, strict=False)] == [1, 12, 8]
    assert [suit.most_epochs(nano.model) for suit in suits] == [1] * 5  # by heart, the second time
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
