"""Tokens as they are shown: nothing of a text is lost, hidden or taken for a command."""

import io
import json

import pytest
import tiktoken
from rich.console import Console

from gpt.apps.tokens import Count, has_colors, print_colored, print_json, print_lines, tokens_of
from gpt.text.tokenizer import Tokenizer

TEXTS = ["Hello world\n", "a 🙂 é\t漢\r\n", "\x1b[31mred\x07 \u202eback \u200b", "[bold]x[/bold] \\xf0 'q'", "🙂"]


def colored(text, tokenizer, **options):
    console = Console(file=io.StringIO(), force_terminal=True, width=20, highlight=False, **options)
    print_colored(tokens_of(tokenizer, text), console)
    return console.file.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_together_are_the_text(text, gpt2_tokenizer):
    reference = tiktoken.get_encoding("gpt2")
    for tokenizer in (gpt2_tokenizer, Tokenizer.utf8_bytes()):
        count = Count()
        tokens = list(count.of(tokens_of(tokenizer, text)))
        assert "".join(token.text for token in tokens) == text
        assert b"".join(token.bytes for token in tokens) == text.encode()
        assert (count.tokens, count.bytes) == (len(tokens), len(text.encode()))
    tokens = list(tokens_of(gpt2_tokenizer, text))
    assert [token.id for token in tokens] == reference.encode_ordinary(text)
    assert [token.bytes for token in tokens] == reference.decode_tokens_bytes(reference.encode_ordinary(text))


def test_neighbors_have_other_backgrounds():
    shown = colored("abcabc", Tokenizer.utf8_bytes(), color_system="standard")
    backgrounds = [102, 103, 106, 105, 102, 103]
    assert shown == "".join(f"\x1b[30;{b}m{c}\x1b[0m" for c, b in zip("abcabc", backgrounds, strict=True)) + "\n"


def test_what_is_no_whole_character_or_takes_no_room_is_escaped():
    plain = {"color_system": None}
    assert colored("🙂!", Tokenizer.utf8_bytes(), **plain) == "\\xf0\\x9f\\x99\\x82!\n"
    assert colored("a\u200b\u0301", Tokenizer.char("a\u200b\u0301", False), **plain) == "a\\u200b\\u0301\n"
    assert "\x1b[3;30;" in colored("🙂", Tokenizer.utf8_bytes(), color_system="standard")  # italic: not in the text


def test_lines_stay_lines_and_nothing_steers_the_terminal():
    tokenizer = Tokenizer.char("ab\n\t\x1b\u202e[]/ld", False)
    shown = colored("a\n\n\tb\x1b[\u202e[/b]" + "a" * 50, tokenizer, color_system=None)
    assert shown == "a␊\n␊\n␉b␛[\ufffd[/b]" + "a" * 50 + "\n"
    assert colored("a\n", tokenizer, color_system=None) == "a␊\n"


def test_colors_are_used_where_there_are_any(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert not has_colors(Console(file=io.StringIO()))
    assert has_colors(Console(file=io.StringIO(), force_terminal=True, color_system="standard"))
    assert not has_colors(Console(file=io.StringIO(), force_terminal=True, color_system=None))
    assert not has_colors(Console(file=io.StringIO(), force_terminal=True, color_system="standard", no_color=True))


def test_in_a_pipe_each_token_has_a_line(capsys):
    print_lines(tokens_of(Tokenizer.utf8_bytes(), "a\né\u2028"))
    assert capsys.readouterr().out.splitlines() == [
        "97\tb'a'\t'a'",
        "10\tb'\\n'\t'\\n'",
        "195\tb'\\xc3'\t''",
        "169\tb'\\xa9'\t'é'",
        "226\tb'\\xe2'\t''",
        "128\tb'\\x80'\t''",
        "168\tb'\\xa8'\t'\\u2028'",
    ]


def test_json_has_the_bytes_as_numbers(capsys):
    print_json(tokens_of(Tokenizer.utf8_bytes(), "é!"), "bytes", Count())
    assert json.loads(capsys.readouterr().out) == {
        "tokenizer": "bytes",
        "tokens": [
            {"id": 195, "bytes": [195], "text": ""},
            {"id": 169, "bytes": [169], "text": "é"},
            {"id": 33, "bytes": [33], "text": "!"},
        ],
        "count": 3,
        "bytes": 3,
        "bytes_per_token": 1.0,
    }


def test_counts_are_in_words():
    assert str(Count(1, 1)) == "1 token, 1 byte, 1.00 bytes per token"
    assert str(Count(1200, 3000)) == "1,200 tokens, 3,000 bytes, 2.50 bytes per token"
