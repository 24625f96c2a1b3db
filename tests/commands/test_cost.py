"""`gpt cost`, as a person calls it."""

import re

import pytest
from helpers import ROOT, in_process

from gpt.__main__ import main as gpt_main
from gpt.presets import PRESETS


def cost(*arguments, code=0):
    actual, output, errors = in_process(lambda: gpt_main(["cost", *map(str, arguments)]), ROOT)
    assert actual == code, output + errors
    return (output, errors) if code == 0 else errors


def figure(output, name):
    return int(re.search(rf"^{name} +([\d,]+)", output, re.MULTILINE)[1].replace(",", ""))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_cost(preset):
    assert figure(cost(preset)[0], "memory, peak") > 0


def test_flags_lie_over_the_preset_wherever_it_stands():
    before, after = (
        cost(*arguments)[0]
        for arguments in (("nano",), ("--batch-tokens", 256, "nano", "--model.n-layer", 3, "--model.bias"))
    )
    assert figure(after, "mlp") == 3 * (figure(before, "mlp") + 5 * 160)
    assert figure(after, "training tokens") == 750 * 256


def test_several_sequences_and_halves_of_numbers_count():
    one, four, half = (
        cost("gpt2", *more)[0]
        for more in ((), ("--micro-batch-size", 4), ("--micro-batch-size", 4, "--dtype", "bfloat16"))
    )
    assert figure(four, "memory, activations") == pytest.approx(4 * figure(one, "memory, activations"), rel=0.01)
    assert figure(half, "memory, activations") < figure(four, "memory, activations")


def test_the_next_command_goes_to_standard_error():
    output, errors = cost("nano", "--steps", 9)
    assert errors == "forecast its time here: gpt train nano --steps 9 --dry-run\n"
    assert "gpt train" not in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gpt22",), "unknown preset 'gpt22'; did you mean 'gpt2'?"),
        (("nano", "--model.n-laer", "3"), "--model.n-layer"),
        (("nano", "--steps", "0"), "error: --steps is 0; it must be at least 1"),
        (("nano", "--batch-tokens", "100"), "use --batch-tokens 128"),
        ((), "PRESET"),
    ],
)
def test_what_is_wrong_is_told(arguments, said):
    assert said in cost(*arguments, code=2)
