import io

import pytest
from rich.console import Console

from gpt.log import log
from gpt.tracking.progress import ProgressDisplay, duration, progress_line

RECORD = {"step": 7, "train_loss": 3.25, "tokens_per_s": 12345.6, "elapsed_s": 61.0, "mfu": 0.427}
RECORD |= {"gradient_norm": 0.5678, "learning_rate": 0.0012, "epoch": 0.256}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (59.7, "1:00"), (3723, "1:02:03")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_line_says_what_one_wants_to_know():
    line = progress_line(RECORD | {"val_loss": 3.5}, 100, 3.5, 125)
    assert line == (
        "step   7/100  loss 3.2500  validation 3.5000  12,346 tokens/s  MFU 43%  norm 0.57  rate 1.2e-03  "
        "epoch 0.26  1:01, 2:05 left"
    )
    assert "  loss 3.2500  last validation 3.5000  12," in progress_line(RECORD, 100, 3.5, 125)  # of an earlier step
    assert "validation" not in progress_line(RECORD, 100, None, 125)
    skipped = progress_line(RECORD | {"train_loss": None, "gradient_norm": None}, 100, None, 125)
    assert "loss none" in skipped and "norm none" in skipped


def show(terminal):
    output = io.StringIO()
    with ProgressDisplay(100, console=Console(file=output, force_terminal=terminal, width=200)) as display:
        for step in range(1, 11):
            display.write(RECORD | {"step": step})
        display.write(RECORD | {"step": 11, "val_loss": 3.0})
        log.info("kept")
    return output.getvalue()


def test_plain_lines_without_control_codes_where_there_is_no_terminal():
    text = show(terminal=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line[:13] for line in lines] == ["step   1/100 ", "step  11/100 ", "kept"]  # not one for every step


def test_a_live_line_in_a_terminal():
    text = show(terminal=True)
    assert "\x1b" in text
    assert "step  11/100" in text
    assert "kept" in text


def test_a_sample_cannot_steer_the_terminal():
    output = io.StringIO()
    with ProgressDisplay(100, console=Console(file=output, width=200)) as display:
        display.write(RECORD | {"val_loss": 3.0, "sample": "\ndef f():\n\treturn '\x1b[2J\x07é'\n\n"})
    lines = output.getvalue().splitlines()
    assert lines[1] == "    | def f():"
    assert lines[2].endswith("return '␛[2J␇é'")
    assert len(lines) == 3
