"""Signals: what asks to stop, what interrupts, and the run that goes on afterwards."""

import signal
import time
from dataclasses import replace

import pytest
from helpers import require_equal, weights, without_clock

from gpt.runs.checkpoint import list_checkpoints, load_best, step_of
from gpt.tracking.jsonl import read_metrics
from gpt.training import signals, validation
from gpt.training.signals import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_and_the_handlers_come_back(number):
    before = {n: signal.getsignal(n) for n in SIGNALS}
    with StopRequest() as stop, stop.orderly(lambda: "3 steps"):
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        signal.raise_signal(signal.SIGTERM)  # asking again is no hurry
    assert {n: signal.getsignal(n) for n in SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_interrupts_and_says_what_is_lost(first):
    with (
        pytest.raises(KeyboardInterrupt, match="lost: 3 steps"),
        StopRequest() as stop,
        stop.orderly(lambda: "3 steps"),
    ):
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGINT)


def answer(capfd, wanted):
    deadline, said = time.monotonic() + 20, ""
    while wanted not in said and time.monotonic() < deadline:
        said += capfd.readouterr().err
        time.sleep(0.01)
    return said


def test_the_first_is_answered_once_with_what_a_second_would_lose(capfd):
    with StopRequest() as stop, stop.orderly(lambda: "the 12 steps since step 40"):
        signal.raise_signal(signal.SIGINT)
        said = answer(capfd, "again")
        signal.raise_signal(signal.SIGTERM)
    sentence = "finishing the step and saving; Ctrl-C again stops now and loses the 12 steps since step 40"
    assert (said + capfd.readouterr().err).strip() == sentence
    with StopRequest() as stop, stop.orderly(None):  # a process that leaves speaking to the first one
        signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop, stop.orderly(lambda: "no steps"):
        signal.raise_signal(signal.SIGTERM)  # from a scheduler, which presses no keys
        assert answer(capfd, "saving").strip() == "finishing the step and saving"


def test_where_nothing_is_to_be_saved_the_first_ctrl_c_interrupts_and_other_signals_wait():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop:
        with stop.orderly(lambda: "nothing"):
            pass
        with pytest.raises(KeyboardInterrupt):  # in the report: the run is finished and saved
            signal.raise_signal(signal.SIGINT)


def test_what_torchrun_forwards_at_once_is_no_second_ctrl_c(monkeypatch):
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)  # to a process that still waits for the others: heard, and no end of its own
        assert stop.is_set()
        with stop.orderly(None):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.25)
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # torchrun's, when another process has ended already
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_ctrl_c_in_a_long_call_before_training_ends_the_process(monkeypatch):
    """Unless the main thread comes to hear it in time."""
    ended = []
    monkeypatch.setattr(signals, "HEARING_SECONDS", 0.05)
    monkeypatch.setattr(signals, "end_now", ended.append)
    with StopRequest() as stop:
        stop._answer(signal.SIGTERM)
        stop._answer(signal.SIGINT)  # as the listening thread does, at once
        time.sleep(0.3)
    assert ended == ["interrupted"]
    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.3)
    assert ended == ["interrupted"]


def test_a_second_ctrl_c_in_a_long_product_ends_the_process_and_says_what_is_lost(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(signals, "HEARING_SECONDS", 0.05)
    monkeypatch.setattr(signals, "end_now", ended.append)
    with StopRequest() as stop, stop.orderly(lambda: "the 7 steps so far"):
        stop._answer(signal.SIGINT)  # in the listening thread; the main one hears nothing
        time.sleep(0.3)
        assert ended == []
        stop._answer(signal.SIGINT)
        time.sleep(0.3)
    assert ended == ["interrupted: lost: the 7 steps so far"]
    assert "Ctrl-C again stops now and loses the 7 steps so far" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_and_can_be_resumed(make_training, tiny_config, monkeypatch, number):
    training = make_training(tiny_config)

    def step(do):
        if training.state.step == 13:
            signal.raise_signal(number)
        return do()

    training.around_steps(step)
    assert not training.fit()
    assert step_of(list_checkpoints(training.run)[-1]) == 14
    resumed = make_training(tiny_config, resume=True)
    assert resumed.state.step == 14
    assert resumed.fit()


def test_a_second_ctrl_c_interrupts_at_once(make_training, tiny_config, monkeypatch):
    training = make_training(tiny_config)

    def step(do):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    training.around_steps(step)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_an_evaluation_ends_it_and_the_resumed_run_makes_up_for_it(
    undisturbed, make_training, tiny_config, monkeypatch
):
    whole, parts = undisturbed(tiny_config), make_training(tiny_config, "parts")
    original, calls = validation.sums_per_piece, []

    def interrupted(*arguments, stop):
        calls.append(1)
        if len(calls) == 2:  # of step 20
            signal.raise_signal(signal.SIGUSR1)
        return original(*arguments, stop=stop)

    monkeypatch.setattr(validation, "sums_per_piece", interrupted)
    assert not parts.fit()
    assert step_of(list_checkpoints(parts.run)[-1]) == 20
    assert [record["step"] for record in read_metrics(parts.run)] == list(range(1, 20))
    resumed = make_training(tiny_config, "parts", resume=True)
    assert resumed.state.step == 20
    assert resumed.fit()
    assert without_clock(read_metrics(whole.run)) == without_clock(read_metrics(resumed.run))
    assert load_best(whole.run).state["step"] == load_best(resumed.run).state["step"]
    require_equal(weights(whole), weights(resumed))


def test_a_cut_evaluation_is_made_up_for_though_evaluations_come_at_other_steps_now(
    make_training, tiny_config, monkeypatch
):
    original, training = validation.sums_per_piece, make_training(tiny_config)

    def interrupted(*arguments, stop):
        signal.raise_signal(signal.SIGUSR1)
        return original(*arguments, stop=stop)

    monkeypatch.setattr(validation, "sums_per_piece", interrupted)
    assert not training.fit()
    monkeypatch.setattr(validation, "sums_per_piece", original)
    resumed = make_training(replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=7)), resume=True)
    assert resumed.fit()
    evaluated = [record["step"] for record in read_metrics(training.run) if "val_loss" in record]
    assert evaluated == [10, 14, 21, 28, 30]
