import io
import sys
from unittest import mock

import pytest

from gpt import terminal
from gpt.terminal import one_line, printable, show

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
