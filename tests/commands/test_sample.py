"""The options of `gpt sample`, and the prompts that it reads."""

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from gpt import InputError
from gpt.commands.sample import PromptFile, SampleCommand, require_known
from gpt.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("given", "meant"), [("\\n", "\n"), ("a\\tb", "a\tb"), ("\\\\n", "\\n"), ("\\d", "\\d"), ("\n", "\n")]
)
def test_stop_texts_are_typed_with_escapes(given, meant):
    assert SampleCommand(stop=(given,)).stop_texts == (meant,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "--samples is 0; it must be at least 1"),
        ({"stop": ("a", "")}, "--stop is empty"),
        ({"prompt": "a", "prompt_file": "b"}, "give one of them"),
    ],
)
def test_bad_sample_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SampleCommand(**options).check()


@pytest.mark.parametrize(
    "options", [{"json": True}, {"samples": 2}, {"logprobs": 0}, {"echo": True}, {"compile": True}, {"batch": 3}]
)
def test_an_interactive_session_refuses_what_it_has_no_use_for(options):
    with pytest.raises(InputError, match=f"--{next(iter(options))}: needs a prompt"):
        SampleCommand(**options).require_interactive()


def test_commands_of_pipes_are_for_sessions():
    with pytest.raises(InputError, match="--allow-commands: has a meaning with --interactive only"):
        SampleCommand(allow_commands=True, prompt="x").check()


def test_prompt_files_are_read_as_utf8(tmp_path):
    (tmp_path / "p.txt").write_bytes("für".encode())
    assert SampleCommand(prompt_file=tmp_path / "p.txt").read_prompts() == ["für"]
    with pytest.raises(InputError, match="none.txt: cannot be read"):
        SampleCommand(prompt_file=tmp_path / "none.txt").read_prompts()
    (tmp_path / "p.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(InputError, match="p.txt: is not UTF-8 .* save it as UTF-8, or convert it: iconv"):
        SampleCommand(prompt_file=tmp_path / "p.txt").read_prompts()


def test_a_prompt_file_may_be_standard_input_as_prompts_may(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufefffür\n"))
    assert SampleCommand(prompt_file=Path("-")).read_prompts() == ["für"]


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a\nb\n", ["a", "b"]),
        ('"a\\nb"\n\n""\n', ["a\nb", ""]),
        ('"He said" so\n[1]\n12\n{"a": 1}\n', ['"He said" so', "[1]", "12", '{"a": 1}']),
        ("  indented", ["  indented"]),
    ],
)
def test_prompts_of_a_file_are_lines_or_json_strings(tmp_path, text, prompts):
    file = tmp_path / "p"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode()):
        file.write_bytes(content)
        found = PromptFile(file)
        assert (len(found), list(found), list(found)) == (len(prompts), prompts, prompts)


@pytest.mark.parametrize("content", [b"a\nb \xff\n", b"\xff", b"a\n\x80\n"])
def test_a_line_that_is_no_text_is_named_before_anything_is_done(tmp_path, content):
    (tmp_path / "p").write_bytes(content)
    line = content.count(b"\n", 0, max(content.find(b"\xff"), content.find(b"\x80"))) + 1
    with pytest.raises(InputError, match=rf"p, line {line}: is not UTF-8"):
        PromptFile(tmp_path / "p")


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff\n"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    (tmp_path / "p").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r'p: has no prompt; write one per line, "" for an empty one'):
        PromptFile(tmp_path / "p")
    with pytest.raises(InputError, match="none: cannot be read"):
        PromptFile(tmp_path / "none")


def test_prompts_are_read_line_by_line_and_those_of_a_pipe_once(tmp_path):
    (tmp_path / "p").write_text("".join(f"{i}\n" for i in range(50_000)))
    prompts = iter(PromptFile(tmp_path / "p"))
    assert next(prompts) == "0"
    with open(tmp_path / "p", "r+") as file:
        file.truncate(20_000)
    assert len([*prompts]) < 49_999  # the rest was not in memory
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a\nb\n"))
    writer.start()
    found = PromptFile(tmp_path / "pipe")
    writer.join()
    assert (len(found), list(found), list(found)) == (2, ["a", "b"], ["a", "b"])


def test_a_prompt_with_unknown_characters_is_named():
    require_known(["a", "ñ"], Tokenizer.utf8_bytes())
    with pytest.raises(InputError, match="prompt 2: .*'ñ'"):
        require_known(["a", "ñ"], Tokenizer.char("ab", end_of_text=False))


@pytest.mark.parametrize("option", ["prompt_file", "standard input"])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, monkeypatch, option):
    content = b"\xef\xbb\xbfdef \xef\xbb\xbf"
    (tmp_path / "p").write_bytes(content)
    command = SampleCommand(prompt_file=tmp_path / "p") if option == "prompt_file" else SampleCommand()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert command.read_prompts() == ["def \ufeff"]
