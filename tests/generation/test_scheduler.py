from dataclasses import replace

import pytest

from gpt import Request, SamplingConfig
from gpt.generation.scheduler import Scheduler

SETTINGS = SamplingConfig(max_tokens=5)
END = 9


def scheduling(*prompts, max_batch=4, context_length=8, sampling=SETTINGS):
    """A scheduler with a request for each prompt, and the requests."""
    found = Scheduler(max_batch, context_length, end_of_text=END)
    requests = [Request(prompt, sampling, seed=1) for prompt in prompts]
    found.waiting |= dict.fromkeys(requests)
    return found, requests


def test_prompts_that_are_as_long_are_read_together_and_others_after_them():
    found, (a, b, c, d, e) = scheduling([1, 2], [3, 4], [5], [6, 7], [8])
    assert found.schedule(0) == ([[a, b]], [])
    assert found.schedule(0) == ([[c]], [])
    assert found.schedule(0) == ([[d]], [])
    assert found.schedule(0) == ([], [a, b, c, d])  # there is no place for another
    assert list(found.waiting) == [e]
    found.finish(b, "stop")
    assert found.schedule(0) == ([[e]], [])
    assert found.schedule(0) == ([], [a, c, d, e])


def test_after_many_tokens_of_prompts_the_others_have_their_turn():
    found, (a, b, c) = scheduling([1, 2, 3], [4, 5, 6], [7, 8, 9])
    found.prompt_tokens = 4
    assert found.schedule(0) == ([[a]], [])
    assert found.schedule(3) == ([[b]], [])
    assert found.schedule(6) == ([], [a, b])
    assert found.schedule(6) == ([[c]], [])


def test_a_gpu_reads_the_prompts_of_a_large_batch_before_it_continues_any():
    prompts = [[1] * 512 for _ in range(32)]
    for device, at_once in (("cpu", 1), ("cuda", 16)):
        found = Scheduler(32, 1024, END, device)
        found.waiting |= dict.fromkeys(Request(prompt, SETTINGS, seed=1) for prompt in prompts)
        (group,), others = found.schedule(0)
        assert (len(group), others) == (at_once, [])
        assert found.schedule(512 * at_once) == ([], group)
        assert len(found.schedule(512 * at_once)[0][0]) == at_once


def test_a_full_context_is_read_again_alone_and_the_prompt_of_one_that_is_longer_is_cut():
    found, (a, b) = scheduling([1, 2], list(range(12)))
    assert found.schedule(0) == ([[a]], [])
    assert found.schedule(0) == ([[b]], [])
    assert b.context_ids == list(range(4, 12))
    assert b.positions == 8 + 4
    for request in (a, b):
        assert found.append(request, 3)
    assert found.schedule(0) == ([[b]], [a])
    assert b.context_ids == [9, 10, 11, 3]
    assert b.output_ids == [3]
    assert b.prompt == list(range(12))


@pytest.mark.parametrize(
    ("ids", "added", "reason"),
    [([1, END], [True, False], "stop"), ([1, 2, 3, 4, 5], [True] * 5, "length"), ([1, 2], [True] * 2, "")],
)
def test_a_request_ends_by_end_of_text_or_its_length(ids, added, reason):
    found, (a,) = scheduling([1, 2])
    found.schedule(0)
    assert [found.append(a, id) for id in ids] == added
    assert a.finish_reason == reason
    assert a.output_ids == [id for id in ids if id != END]
    assert found.is_idle == bool(reason)


def test_cancelling_changes_no_reason_and_a_stop_text_may():
    found, (a, b) = scheduling([1], [2], sampling=replace(SETTINGS, max_tokens=1))
    found.schedule(0)
    found.append(a, 3)
    found.finish(a, "cancelled")
    assert a.finish_reason == "length"
    found.finish(a, "stop")  # its last token completed one
    assert a.finish_reason == "stop"
    found.finish(b, "cancelled")
    assert (b.finish_reason, found.is_idle) == ("cancelled", True)
