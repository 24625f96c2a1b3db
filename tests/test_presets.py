from dataclasses import replace

import pytest
import torch

from gpt import GPT
from gpt.analysis.cost import parameter_count
from gpt.errors import InputError
from gpt.presets import PRESETS, preset, preset_for, suit_for


@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_gpt2_sizes_have_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        assert GPT(preset(name).model).parameter_count() == count
    assert parameter_count(preset(name).model) == count


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_carries_its_own_name(name):
    assert preset(name).preset == name


def test_an_unknown_preset_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'gpt2-medium'"):
        preset("gpt2-medum")


def test_a_path_in_place_of_a_preset_is_told_how_it_is_given(tmp_path):
    (tmp_path / "a.toml").touch()
    with pytest.raises(InputError, match="is a directory: `data` .* names a dataset, `init_from` .* a model"):
        preset(str(tmp_path))
    with pytest.raises(InputError, match="is a file: `config` "):
        preset(str(tmp_path / "a.toml"))


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
