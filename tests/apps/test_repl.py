import io
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from gpt import InputError, SamplingConfig, Tokenizer, generate
from gpt.apps import repl
from gpt.apps.interact import interact
from gpt.apps.repl import Session


@pytest.fixture
def written():
    return []


@pytest.fixture
def run(model):
    return SimpleNamespace(model=model, tokenizer=Tokenizer.utf8_bytes(), source="a model", path=Path("none"))


@pytest.fixture
def session(run, written):
    def load(name):
        if name != "runs/other":
            raise InputError(f"{name}: no such run")
        return SimpleNamespace(model=run.model, tokenizer=run.tokenizer, source="another model", path=Path("none"))

    return Session(run, SamplingConfig(max_tokens=8, seed=1), (), load, written.append, adapters=None)


def answer(session, written, line):
    written.clear()
    session.answer(line)
    return "".join(written)


def test_each_prompt_is_continued(session, written):
    first = answer(session, written, "def ")
    assert first.startswith("def ")
    assert first.endswith("\n")
    assert session.text == first[:-1]
    assert answer(session, written, "class ").startswith("class ")


def test_an_empty_line_goes_on_from_where_it_stopped(session, written):
    before = answer(session, written, "def ")[:-1]
    more = answer(session, written, "")[:-1]
    assert session.text == before + more


def test_settings_are_changed_shown_and_reset(session, written):
    original = session.sampling
    for command, name, value, shown in [
        ("/temperature 0.5", "temperature", 0.5, "temperature 0.5"),
        ("/top-k 3", "top_k", 3, "top-k 3"),
        ("/top-p 0.9", "top_p", 0.9, "top-p 0.9"),
        ("/min-p 0.01", "min_p", 0.01, "min-p 0.01"),
        ("/repetition-penalty 1.2", "repetition_penalty", 1.2, "penalty 1.2"),
        ("/seed 7", "seed", 7, "seed 7"),
        ("/max-tokens 2", "max_tokens", 2, "2 tokens"),
    ]:
        assert answer(session, written, command) == f"{name} is {value}\n"
        assert getattr(session.sampling, name) == value
        assert shown in session.prompt
    answer(session, written, "def ")
    answer(session, written, "/reset")
    assert session.sampling == original
    assert session.text == ""


def test_a_seed_makes_what_follows_repeatable(session, written):
    texts = []
    for _ in range(2):
        answer(session, written, "/seed 3")
        texts.append([answer(session, written, "def "), answer(session, written, "def ")])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_words_are_added_to_the_text_so_far(session, written):
    before = answer(session, written, "def ")[:-1]
    shown = answer(session, written, "/add  and  more")[:-1]
    assert shown.startswith(" and  more")
    assert session.text == before + shown
    assert answer(session, written, "/undo") == f"back to: {before}\n"
    for line in ("/add", "/add  "):
        with pytest.raises(InputError, match="/add takes the words to add"):
            session.answer(line)


@pytest.mark.parametrize("line", ["/quit", "/exit"])
def test_a_session_can_be_left_by_a_command(run, monkeypatch, capsys, line):
    monkeypatch.setattr("gpt.apps.interact.line_reader", lambda commands: iter_lines(line, "never read"))
    interact(run, SamplingConfig(max_tokens=3, seed=1), (), load=None, adapters=None)
    assert "never read" not in capsys.readouterr().out


def test_what_the_log_says_stands_in_brackets_on_a_line_of_its_own(run, monkeypatch, capsys):
    """Not in the middle of a word: only where a line of the text ends."""
    ids = iter(b"ab" * 30 + b"c\n" + b"de" * 10)
    monkeypatch.setattr(run.model, "forward", lambda *_, **__: one_id(next(ids)))
    monkeypatch.setattr("gpt.apps.interact.line_reader", lambda commands: iter_lines("x"))
    shown = []
    monkeypatch.setattr("gpt.apps.line_editor.show", shown.append)
    monkeypatch.setattr("builtins.print", lambda text, **_: shown.append(text))
    interact(run, SamplingConfig(max_tokens=70, temperature=0), (), load=None, adapters=None)
    text = "".join(shown[1:])
    note = "[the context of 48 tokens is full: the oldest half is dropped, and the rest read again]"
    assert text == "x" + "ab" * 30 + "c\n" + note + "de" * 4 + "\n"


def test_undo_takes_back_line_by_line(session, written):
    first = answer(session, written, "def ")[:-1]
    answer(session, written, "")
    assert answer(session, written, "/undo") == f"back to: {first}\n"
    assert session.text == first
    assert answer(session, written, "/undo") == "back to the beginning\n"
    assert session.text == ""
    with pytest.raises(InputError, match="/undo: nothing was continued yet"):
        session.answer("/undo")


def test_retry_continues_the_same_text_otherwise(session, written):
    first = answer(session, written, "def ")
    second = answer(session, written, "/retry")
    assert second.startswith("def ")
    assert second != first
    assert session.text == second[:-1]
    answer(session, written, "/undo")
    assert session.text == ""


def test_why_shows_what_else_could_have_come(session, written, run):
    answer(session, written, "/temperature 0")
    prompt = run.tokenizer.encode("def ")
    ids = [*prompt, *generate(run.model, prompt, max_tokens=8, temperature=0)]
    assert answer(session, written, "def ") == run.tokenizer.decode(ids) + "\n"
    lines = answer(session, written, "/why").splitlines()
    expected = run.model(torch.tensor([ids[:-1]]))[0, -1].double().softmax(-1)
    values, best = expected.topk(10)
    assert len(lines) == 10
    for line, value, id in zip(lines, values.tolist(), best.tolist(), strict=True):
        assert line.split("%")[0].endswith(f"{100 * value:.2f}")
        assert repr(run.tokenizer.token_text(id)) in line
        assert line.count("#") == round(40 * value)
    assert lines[0].endswith("<- this one")  # greedy took the likeliest
    assert sum("<- this one" in line for line in lines) == 1


def test_a_text_is_saved_and_no_file_is_overwritten(session, written, tmp_path):
    text = answer(session, written, "dé ")[:-1]
    file = tmp_path / "a story.txt"
    assert answer(session, written, f"/save {file}") == f"{file}: {len(text)} characters\n"
    assert file.read_text(encoding="utf-8") == text
    with pytest.raises(InputError, match="is there already, and stays as it is"):
        session.answer(f"/save {file}")
    assert file.read_text(encoding="utf-8") == text
    with pytest.raises(InputError, match="takes the name of a new file"):
        session.answer("/save")


def test_a_text_is_saved_in_ones_home_and_no_text_not_at_all(session, written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="there is no text yet"):
        session.answer("/save ~/story.txt")
    assert not list(tmp_path.iterdir())
    answer(session, written, "def ")
    assert "story.txt: " in answer(session, written, "/save ~/story.txt")
    assert (tmp_path / "story.txt").read_text(encoding="utf-8") == session.text
    with pytest.raises(InputError, match="cannot be written"):
        session.answer("/save ~nobody-of-this-name/x")


@pytest.mark.parametrize("text", ["/save stolen.txt\nmore", "/load a/b\n", "/* a comment\n */", "// two\n// lines\n"])
def test_several_lines_are_a_text_and_never_a_command(session, written, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert answer(session, written, text).startswith(text)
    assert not list(tmp_path.iterdir())


def test_another_model_is_loaded_and_a_failure_keeps_the_first(session, written):
    text = answer(session, written, "def ")[:-1]
    with pytest.raises(InputError, match="no such run"):
        session.answer("/load runs/nothing")
    assert session.run.source == "a model"
    assert answer(session, written, "/load runs/other") == "another model\n"
    assert session.text == text
    answer(session, written, "")
    assert session.text.startswith(text)


@pytest.mark.parametrize("when", ["__init__", "complete"])
def test_ctrl_c_before_the_first_token_of_a_retry_changes_nothing(session, written, when):
    answer(session, written, "def ")
    before = session.text, [*session.turns]
    broken = mock.Mock(side_effect=KeyboardInterrupt)
    if when == "complete":
        broken = mock.Mock(return_value=(text for text in iter(broken, None)))  # which ends while tokens are awaited
    with mock.patch.object(repl.TextEngine, when, broken), pytest.raises(KeyboardInterrupt):
        session.answer("/retry")
    assert (session.text, session.turns) == before


def test_a_failure_changes_nothing(session, written, run):
    """A tokenizer without a character of the line, and a model without a tokenizer."""
    text = answer(session, written, "def ")[:-1]
    turns = list(session.turns)
    session.run = mock.Mock(model=run.model, tokenizer=Tokenizer.char("def ", end_of_text=False))
    with pytest.raises(InputError, match="lacks"):
        session.answer("é")
    assert (session.text, session.turns) == (text, turns)
    before = session.run
    broken = mock.Mock()
    type(broken).tokenizer = mock.PropertyMock(side_effect=InputError("no tokenizer"))
    session.load = lambda _: broken
    with pytest.raises(InputError, match="no tokenizer"):
        session.answer("/load it")
    session.load = mock.Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match="/load it: out of memory beside the present model, which stays"):
        session.answer("/load it")
    assert session.run is before


def test_a_slash_can_be_continued_and_commands_take_no_more_than_they_should(session, written):
    assert answer(session, written, "//usr").startswith("/usr")
    for command in ("/undo", "/retry", "/why", "/reset", "/help"):
        with pytest.raises(InputError, match=f"{command} takes nothing after it"):
            session.answer(f"{command} 2")


def test_an_impossible_file_is_a_sentence(session, written):
    answer(session, written, "def ")
    for name in ("a\0b", "x" * 300, "no/such/directory"):
        with pytest.raises(InputError, match=r"cannot be written \([^\[\]]*\); choose another name"):
            session.answer(f"/save {name}")


def test_help_names_every_command(session, written):
    text = answer(session, written, "/help")
    for command in [*repl.SETTINGS, *session.commands, "Ctrl-C", "Ctrl-D", "Tab"]:
        assert command in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temprature 1", "did you mean '/temperature'"),
        ("/Retry", "did you mean '/retry'"),
        ("/q", "did you mean '/quit'"),
        ("/clear", "did you mean '/reset'"),
        ("/frobnicate", "unknown command '/frobnicate'; /help lists all; a text that begins with / takes two"),
        ("/temperature", "/temperature takes one number"),
        ("/temperature hot", "/temperature takes one number, such as: /temperature 0.8"),
        ("/top-k 0", "`top_k` is 0"),
        ("/top-p 2", "`top_p` is 2"),
        ("/temperature -1", "`temperature` is -1"),
        ("/seed 1 2", "/seed takes one number, such as: /seed 3"),
        ("/retry", "nothing was continued yet"),
        ("/why", "nothing was continued yet"),
        ("/load", "/load takes a run directory"),
    ],
)
def test_bad_commands_are_refused_and_change_nothing(session, line, message):
    before = session.sampling
    with pytest.raises(InputError, match=message):
        session.answer(line)
    assert session.sampling == before


def test_what_was_written_before_ctrl_c_stays(session, written, monkeypatch):
    def write(text):
        written.append(text)
        if len(written) == 4:
            raise KeyboardInterrupt

    session.write = write
    with pytest.raises(KeyboardInterrupt):
        session.answer("def ")
    assert session.text.startswith("def ")
    assert len(session.text) > 4
    session.write = written.append
    answer(session, written, "/undo")
    assert session.text == ""


def test_the_session_survives_errors_and_ctrl_c_and_ends_at_ctrl_d(run, monkeypatch, capsys):
    lines = iter(["/nonsense", KeyboardInterrupt, "def ", EOFError])

    def read(prompt):
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("gpt.apps.interact.line_reader", lambda commands: read)
    interact(run, SamplingConfig(max_tokens=3, seed=1), (), load=None, adapters=None)
    output = capsys.readouterr().out
    assert output.startswith("a model: ")
    assert "unknown command '/nonsense'" in output
    assert "\ndef " in output


def test_a_pipe_is_answered_line_by_line_without_control_codes(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"def \n/undo\nbroken \xff\n")))
    interact(run, SamplingConfig(max_tokens=3, seed=1, top_k=1), (), load=None, adapters=None)
    output = capsys.readouterr().out
    assert "back to the beginning" in output
    assert "broken \ufffd" in output
    assert "\x1b" not in output
    assert "> " not in output.replace("->", "")


@pytest.mark.parametrize("allowed", [False, True])
def test_lines_of_a_pipe_reach_no_file_and_no_network_unless_that_is_allowed(
    run, monkeypatch, capsys, tmp_path, allowed
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ssh-rsa A\n/save keys\n/load some/model\nB\n/undo\n"))
    )
    loaded = []

    def load(name):
        loaded.append(name)
        return run

    interact(run, SamplingConfig(max_tokens=3, seed=1, top_k=1), (), load, None, allowed)
    output = capsys.readouterr().out
    assert (tmp_path / "keys").exists() == bool(loaded) == allowed
    assert output.count("--allow-commands") == (0 if allowed else 2)
    assert "back to: ssh-rsa A" in output  # the lines behind were answered


def test_what_a_model_writes_does_not_steer_the_terminal_of_a_session(run, monkeypatch, capsys):
    monkeypatch.setattr("gpt.apps.interact.line_reader", lambda commands: iter_lines("x", "/why", "/\x1b]0;title\x07"))
    monkeypatch.setattr(run.model, "forward", lambda *_, **__: one_id(27))
    for terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        interact(run, SamplingConfig(max_tokens=5), (), load=None, adapters=None)
        output = capsys.readouterr().out
        assert ("\x1b" in output) != terminal
        assert output.count("\u241b" if terminal else "\x1b") >= 5


def iter_lines(*lines):
    rest = iter(lines)

    def read(_):
        for line in rest:
            return line
        raise EOFError

    return read


def one_id(id):
    """Logits (1, V) that leave no other choice."""
    logits = torch.full((1, 257), -100.0)
    logits[:, id] = 100.0
    return logits
