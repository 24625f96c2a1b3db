import pytest
import torch

from gpt import GPT
from gpt.analysis.cost import parameter_count
from gpt.errors import InputError
from gpt.presets import PRESETS, preset


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
