import io
import logging
import os
import subprocess
import sys
from unittest import mock

import pytest

from gpt import terminal
from gpt.log import StandardError
from gpt.terminal import end_line, one_line, output_to_errors, printable, show

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
TURNED = ["\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"]


def output_of(text, terminal, pieces=1):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    with mock.patch.object(sys, "stdout", stream):
        for i in range(0, len(text), pieces):
            show(text[i : i + pieces])
    return stream.getvalue()


def test_every_control_character_becomes_visible_and_the_rest_of_unicode_stays():
    for character in [*CONTROLS, *TURNED]:
        assert printable(character) not in (character, "")
        assert printable(character).isprintable()
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    changed = {character for character, other in zip(text, printable(text), strict=True) if character != other}
    assert changed == {*CONTROLS, *TURNED}


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b2J", "\x1b]0;title\x07", "\x1bP1$r\x1b\\", "\rok", "\b\b", "\x7f"])
@pytest.mark.parametrize("pieces", [1, 2, 100])
def test_a_sequence_never_reaches_a_terminal_however_it_is_cut_and_a_pipe_gets_the_text_itself(hostile, pieces):
    text = f"a{hostile}b"
    shown = output_of(text, terminal=True, pieces=pieces)
    assert not {*CONTROLS} & {*shown}
    assert len(shown) == len(text)  # what is replaced stays visible
    assert output_of(text, terminal=False, pieces=pieces) == text


def test_names_are_one_line():
    assert one_line("a\nb\tc\x1b\u2028") == "a␊b␉c␛\ufffd"


def test_the_stand_ins_are_no_control_characters_themselves():
    assert not {*map(chr, [*terminal._STAND_INS.values(), *terminal._LINE_ENDS.values()])} & {*CONTROLS}


@pytest.mark.process
def test_what_anybody_writes_to_standard_output_can_be_sent_to_standard_error(capfd):
    print("before", flush=True)
    with pytest.raises(RuntimeError), output_to_errors(), output_to_errors():
        print("of Python", flush=True)
        os.write(1, b"of a library\n")
        subprocess.run(["echo", "of a program"], check=True)
        raise RuntimeError
    print("after", flush=True)
    os.write(1, b"and by a library\n")
    output, errors = capfd.readouterr()
    assert output == "before\nafter\nand by a library\n"
    assert errors == "of Python\nof a library\nof a program\n"


def test_without_a_standard_output_there_is_nothing_to_send_elsewhere(capfd):
    with mock.patch.object(os, "dup", side_effect=OSError(9, "Bad file descriptor")), output_to_errors():
        print("of Python", flush=True)
    assert capfd.readouterr().err == "of Python\n"


NOTICE = "a notice\n"


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        (["abc", "d\ne", "f\n"], f"abcd\n{NOTICE}ef\n"),
        (["abc", "d", "e\n", "f\n"], f"abcde\n{NOTICE}f\n"),
        (["abc\n", "d\n"], f"abc\n{NOTICE}d\n"),
        (["abc", ""], f"abc\n{NOTICE}"),  # nothing ends the line but the program
    ],
)
def test_a_message_stands_between_the_lines_of_a_text_that_goes_to_the_same_place(tmp_path, texts, read):
    first, *rest = texts
    with (
        open(tmp_path / "all", "w") as place,
        mock.patch.object(sys, "stdout", place),
        mock.patch.object(sys, "stderr", place),
    ):
        show(first)
        StandardError().emit(logging.makeLogRecord({"msg": "a notice"}))
        for text in rest:
            show(text)
        end_line()
    assert (tmp_path / "all").read_text() == read


def test_a_message_does_not_wait_for_a_text_that_goes_elsewhere(tmp_path):
    output, errors = open(tmp_path / "out", "w"), open(tmp_path / "err", "w")
    with output, errors, mock.patch.object(sys, "stdout", output), mock.patch.object(sys, "stderr", errors):
        show("abc")
        StandardError().emit(logging.makeLogRecord({"msg": "a notice"}))
        assert (tmp_path / "err").read_text() == NOTICE
        end_line()
        show("d\n")
    assert (tmp_path / "out").read_text() == "abcd\n"
