"""Flags of a config: only what was given lies over settings that are known afterwards."""

from typing import Annotated, get_args, get_type_hints

import pytest
import tyro
from tyro.conf import arg

from gpt.commands.flags import flags_of, given_names, lay_over
from gpt.config import TrainConfig
from gpt.errors import InputError
from gpt.presets import PRESETS, preset
from gpt.settings import to_dict


def parsed(*arguments):
    def command(settings: Annotated[flags_of(TrainConfig, without=("preset",)), arg(name="")]):
        return settings

    return tyro.cli(command, args=arguments)


def test_only_what_is_given_is_there():
    given = parsed("--model.no-bias", "--steps", "7", "--stop-at", "None", "--model.n-layer", "12")
    assert given_names(given) == {"model.bias", "steps", "stop_at", "model.n_layer"}
    assert given["stop_at"] is None
    assert given_names(parsed()) == set()


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_given_changes_nothing(name):
    assert lay_over(preset(name), parsed()) == preset(name)


def test_what_is_given_lies_over_a_preset_and_the_rest_stays():
    config = lay_over(preset("nano"), parsed("--model.n-layer", "2", "--data", "x", "--optimizer.beta1", "0.5"))
    before, after = to_dict(preset("nano")), to_dict(config)
    assert (config.model.n_layer, str(config.data), config.optimizer.beta1) == (2, "x", 0.5)
    for section, name in ((after["model"], "n_layer"), (after, "data"), (after["optimizer"], "beta1")):
        del section[name]
    for section, name in ((before["model"], "n_layer"), (before, "data"), (before["optimizer"], "beta1")):
        del section[name]
    assert before == after


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match="`steps` is 0; it must be at least 1"):
        lay_over(preset("nano"), parsed("--steps", "0"))


def test_every_flag_has_its_fields_docstring_and_limits():
    def helps(flags):
        for name, hint in get_type_hints(flags, include_extras=True).items():
            if hasattr(hint, "__total__"):
                yield from ((f"{name}.{inner}", text) for inner, text in helps(hint))
            else:
                yield name, get_args(hint)[1].help

    found = dict(helps(flags_of(TrainConfig)))
    assert found["optimizer.min_lr_ratio"].endswith(" From 0 to 1.")
    assert found["seed"].endswith(" From 0 to 2^63 - 1.")
    assert found["model.n_layer"].startswith("Number of transformer blocks.")
    assert all(text and "\n" not in text for text in found.values())
