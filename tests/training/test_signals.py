import signal
import time

import pytest

from gpt.training import signals
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
