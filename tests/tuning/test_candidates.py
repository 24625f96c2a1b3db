import math
from dataclasses import replace
from pathlib import Path

import pytest

from gpt import InputError
from gpt.config_io import differences
from gpt.presets import PRESETS, preset
from gpt.tuning.candidates import around, drawn, possible

ONE = {Path("data/python"): 2048}
NANO = preset("nano")


def values(axes):
    return [[*axis[0]] for axis in axes], [[change[next(iter(change))] for change in axis] for axis in axes]


def test_what_may_be_changed_of_nano():
    names, found = values(around(NANO, ONE))
    assert names == [
        ["optimizer.learning_rate"],
        ["optimizer.muon_learning_rate"],
        ["batch_tokens"],
        ["model.n_embd", "model.n_head"],
    ]
    assert found == [[0.008, 0.014, 0.03, 0.05]] * 2 + [[1024, 2048, 8192, 16384], [64, 128, 256, 320]]


def test_plain_adamw_has_one_rate_and_other_vocabularies_are_other_datasets():
    config = replace(preset("gpt2"), data=Path("a"))
    names, found = values(around(config, {Path("a"): 10, Path("b"): 20, Path("c"): 30}, ("rates", "vocabulary")))
    assert names == [["optimizer.learning_rate"], ["data", "model.vocab_size"]]
    assert found[1] == [Path("b"), Path("c")]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "finetune"])
def test_every_candidate_of_every_preset_is_a_config_whose_heads_keep_their_size(name):
    config = preset(name)
    axes = around(config, ONE)
    found = drawn(config, axes, 40, 0)
    assert len({repr(candidate.changes) for candidate in found}) == 40
    for candidate in found:
        model = candidate.config.model
        assert model.head_dim == config.model.head_dim
        assert candidate.config.batch_tokens % model.context_length == 0
        changed = {name: value for name, _, value in differences(config, candidate.config)}
        assert changed == candidate.changes


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ({"n_head": 1, "n_embd": 32}, [(16, 1, None), (24, 1, None), (48, 1, None), (64, 1, None)]),
        ({"n_head": 1, "n_embd": 2}, [(4, 1, None)]),  # what is no other width is left out
        ({"n_head": 4, "n_embd": 32, "n_kv_head": 2}, [(16, 2, 2), (24, 3, 1), (48, 6, 2), (64, 8, 2)]),
    ],
)
def test_heads_are_divisors_whatever_the_shape(shape, wanted):
    config = replace(NANO, model=replace(NANO.model, **shape))
    [axis] = around(config, ONE, ("width",))
    models = [candidate.config.model for candidate in drawn(config, [axis], 9, 0)[1:]]
    assert sorted((model.n_embd, model.n_head, model.n_kv_head) for model in models) == wanted


def test_a_named_inner_width_keeps_its_proportion():
    config = replace(NANO, model=replace(NANO.model, n_inner=300))
    [axis] = around(config, ONE, ("width",))
    assert [change["model.n_inner"] for change in axis] == [120, 240, 480, 600]


def test_a_batch_is_whole_sequences_and_none_is_there_twice():
    config = replace(NANO, batch_tokens=128)  # one sequence
    [axis] = around(config, ONE, ("batch",))
    assert axis == [{"batch_tokens": 256}, {"batch_tokens": 512}]


def test_the_same_seed_draws_the_same_and_more_begin_alike():
    axes = around(NANO, ONE)
    one, again, more, other = (drawn(NANO, axes, *how) for how in ((16, 1), (16, 1), (32, 1), (16, 2)))
    assert one == again == more[:16] != other
    assert one[0].config == NANO and one[0].words == "the preset"
    assert all(candidate.changes for candidate in one[1:])


def test_all_that_there_are_is_the_most():
    axes = around(NANO, ONE, ("rates",))
    found = drawn(NANO, axes, 1000, 0)
    assert len(found) == possible(axes) == 25
    rates = {(c.config.optimizer.learning_rate, c.config.optimizer.muon_learning_rate) for c in found}
    assert len(rates) == 25


def test_about_half_of_the_candidates_change_each_setting():
    axes = around(NANO, ONE)
    found = [candidate for seed in range(40) for candidate in drawn(NANO, axes, 11, seed)[1:]]
    for axis in axes:
        share = sum(next(iter(axis[0])) in candidate.changes for candidate in found) / len(found)
        assert math.isclose(share, 0.5 / (1 - 0.5**4), abs_tol=0.1)  # of those that change something


def test_changes_in_words():
    axes = around(NANO, ONE)
    words = {candidate.words for candidate in drawn(NANO, axes[3:], 9, 0)}
    assert words == {"the preset", *(f"n_embd {32 * heads}, n_head {heads}" for heads in (2, 4, 8, 10))}


def test_nothing_to_vary_is_refused():
    with pytest.raises(InputError, match="`vary` vocabulary: leaves nothing to try; name another, or leave it out"):
        around(NANO, ONE, ("vocabulary",))
