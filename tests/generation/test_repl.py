import pytest

from gpt import InputError, SamplingConfig, Tokenizer
from gpt.generation import repl
from gpt.generation.repl import Session, interact


@pytest.fixture
def written():
    return []


@pytest.fixture
def session(model, written):
    sampling = SamplingConfig(max_tokens=8, seed=1)
    return Session(model, Tokenizer.utf8_bytes(), sampling, (), written.append)


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


def test_settings_are_changed_and_reset(session, written):
    original = session.sampling
    for command, name, value in [
        ("/temperature 0.5", "temperature", 0.5),
        ("/top-k 3", "top_k", 3),
        ("/seed 7", "seed", 7),
        ("/max-tokens 2", "max_tokens", 2),
    ]:
        assert answer(session, written, command) == f"{name} is {value}\n"
        assert getattr(session.sampling, name) == value
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


def test_help_names_every_command(session, written):
    text = answer(session, written, "/help")
    for command in [*repl.SETTINGS, "/reset", "/help", "Ctrl-C", "Ctrl-D"]:
        assert command in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temprature 1", "did you mean '/temperature'"),
        ("/temperature", "/temperature takes one number"),
        ("/temperature hot", "/temperature takes one number, such as: /temperature 0.8"),
        ("/top-k 0", "top_k is 0"),
        ("/temperature -1", "temperature is -1"),
        ("/seed 1 2", "/seed takes one number, such as: /seed 3"),
    ],
)
def test_bad_commands_are_refused_and_change_nothing(session, line, message):
    before = session.sampling
    with pytest.raises(InputError, match=message):
        session.answer(line)
    assert session.sampling == before


def test_the_session_survives_errors_and_ctrl_c_and_ends_at_ctrl_d(model, monkeypatch, capsys):
    lines = iter(["/nonsense", KeyboardInterrupt, "def ", EOFError])

    def read(prompt):
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    interact("a model", model, Tokenizer.utf8_bytes(), SamplingConfig(max_tokens=3, seed=1), ())
    output = capsys.readouterr().out
    assert output.startswith("a model: ")
    assert "unknown command '/nonsense'" in output
    assert "[stopped]" in output
    assert "\ndef " in output
