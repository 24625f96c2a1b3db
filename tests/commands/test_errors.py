"""What goes wrong in a command is a sentence on standard error."""

import signal

import pytest

from gpt import InputError
from gpt.commands import clean_errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("file x: wrong"), 2, "error: file x: wrong\n"),
        (OSError(28, "No space left on device", "runs/x"), 2, "error: [Errno 28] No space left on device: 'runs/x'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_user_causes_is_a_sentence(capsys, error, code, said):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as exit_code, clean_errors():
        raise error
    signal.signal(signal.SIGINT, before)
    assert exit_code.value.code == code
    assert capsys.readouterr().err == said


def test_what_an_error_quotes_does_not_steer_the_terminal(capsys):
    with pytest.raises(SystemExit), clean_errors():
        raise InputError("\x1b]0;title\x07\x9b2J: wrong")
    assert capsys.readouterr().err == "error: ␛]0;title␇\ufffd2J: wrong\n"


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), clean_errors():
        1 / 0  # noqa: B018
