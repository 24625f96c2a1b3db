"""What goes wrong in a command is a sentence on standard error."""

import signal
import sys

import pytest
import tyro
from helpers import run_gpt

from gpt import InputError
from gpt.commands import clean_errors
from gpt.config_io import later, parse


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("file x: wrong"), 2, "error: file x: wrong\n"),
        (OSError(28, "No space left on device", "runs/x"), 2, "error: runs/x: No space left on device\n"),
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


LONG = "a/path/that/is/" + "rather/" * 20 + "long"


@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize(
    ("arguments", "first", "last"),
    [
        (("train", "--stepz", LONG), f"error: unrecognized options: --stepz, {LONG}", "run gpt train --help"),
        (("data", "verify"), "error: missing from gpt data verify:", "    gpt data verify --help"),
        (("data",), "error: expected one of {verify, show}.", "run gpt data --help"),
        (
            ("sample", "--max-tokens", LONG),
            f"error: --max-tokens: '{LONG}' is no whole number",
            "see gpt sample --help",
        ),
        (("cost", "nano", "--x"), "error: unrecognized options: --x", "run gpt cost --help"),
    ],
)
def test_what_is_wrong_with_arguments_is_told_in_lines_to_copy(tmp_path, monkeypatch, arguments, first, last, columns):
    monkeypatch.setenv("COLUMNS", columns)
    lines = run_gpt(tmp_path, *arguments, code=2).splitlines()
    assert lines[0] == first and lines[-1].endswith(last)
    assert not any({"│", "─", "╭", "╰"}.intersection(line) or line != line.rstrip() for line in lines)


def test_what_is_said_while_arguments_are_read_is_not_lost(capsys):
    def cli(what, args, registry):
        print("a warning", file=sys.stderr)
        return what(*args)

    def reader(*words):
        if words == ("wrong",):
            raise InputError("not this one")
        return words

    assert parse(cli, later(reader), ["a", "b"])() == ("a", "b")
    with pytest.raises(InputError):
        parse(cli, reader, ["wrong"])
    assert capsys.readouterr().err == "a warning\n" * 2


def test_a_box_of_ascii_and_colors_is_taken_away_too(capsys):
    def cli(what, args, registry):
        box = [
            "\x1b[31m Title  ",
            " ------\x1b[0m ",
            "  Error parsing \x1b[1m--a:\x1b[0m no  ",
            "  ----",
            "      --b INT   ",
            "    ",
        ]
        print(*box, sep="\n", file=sys.stderr)
        sys.exit(2)

    with pytest.raises(SystemExit, match="2"):
        parse(cli, None, [])
    assert capsys.readouterr().err == "error: --a: no\n    --b INT\n"


def test_a_command_begins_when_its_arguments_were_read(capsys):
    """What it says itself is not held back, nor is its exit code a complaint of tyro's."""

    def command(number: int) -> None:
        print("at work", file=sys.stderr)
        sys.exit(2)

    call = parse(tyro.cli, later(command), ["--number", "1e3"])
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        call()
    assert capsys.readouterr().err == "at work\n"
