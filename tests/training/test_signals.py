import signal
import time

import pytest

from gpt.training import signals
from gpt.training.signals import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop_and_the_handlers_come_back(number):
    before = {n: signal.getsignal(n) for n in SIGNALS}
    with StopRequest() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        signal.raise_signal(signal.SIGTERM)  # asking again is no hurry
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_interrupts(first):
    with pytest.raises(KeyboardInterrupt), StopRequest():
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGINT)


def test_what_torchrun_forwards_at_once_is_no_second_ctrl_c(monkeypatch):
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    with pytest.raises(KeyboardInterrupt), StopRequest():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.25)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # torchrun's, when another process has ended already
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
