"""Adapters in an interactive session, and `sample.py --adapter`."""

import json

import pytest
import torch
from adapter_files import adapters_of_a_base
from helpers import run_sample

from gpt import InputError, SamplingConfig, load_run
from gpt.apps.adapters import Switch
from gpt.apps.repl import Session
from gpt.device import Target
from gpt.runs import adapters

TARGET = Target("cpu", torch.float32, prepacked=True)
DRAW = ("--max-tokens", 12, "--seed", 1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return adapters_of_a_base(tmp_path)


@pytest.fixture
def session(home):
    written = []

    def load(name):
        return load_run(name, prepacked=True)

    session = Session(load("base"), SamplingConfig(max_tokens=8, seed=1), (), load, written.append, Switch(TARGET))

    def answer(line):
        written.clear()
        session.answer(line)
        return "".join(written)

    session.type = answer
    return session


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_another_adapter_is_put_on_at_the_checkpoint_that_was_asked_for(home, monkeypatch, checkpoint):
    run, asked = load_run("base", prepacked=True), []
    monkeypatch.setattr(adapters.Adapters, "load", lambda _, *named: asked.append(named) or run)
    Switch(TARGET, checkpoint=checkpoint).put(run, "one")
    assert asked == [("one", checkpoint)]


def test_the_run_of_a_session_comes_back_at_the_step_it_began_with(home, monkeypatch):
    run, honest, asked = load_run("one", checkpoint="3"), adapters.Adapters.load, []
    monkeypatch.setattr(adapters.Adapters, "load", lambda *given: asked.append(given[1:]) or honest(*given[:2]))
    switch = Switch(TARGET, run, checkpoint="3")
    for name in ("none", "two", "one", "runs/one"):
        run = switch.put(run, name)
    assert asked == [("none", "best"), ("two", "best"), ("one", "3"), ("runs/one", "3")]


def test_adapters_are_listed_and_switched_and_the_text_stays(session):
    listed = session.type("/adapters").splitlines()
    assert listed[0] == "* none         runs/base, step 3"
    assert [line.split()[0] for line in listed[1:]] == ["runs/one", "runs/theirs", "runs/two"]
    assert listed[2] == "  runs/theirs  PEFT's, rank 2"
    plain = session.type("def ")
    assert session.type("/adapter one") == "runs/one, step 3\n"
    assert session.type("/adapters").splitlines()[1].startswith("* runs/one     rank 2, attention.qkv")
    assert session.type("/why").strip()  # the text, and what was drawn, are still there
    session.type("/seed 1")
    adapted = session.type("def ")
    assert adapted != plain
    assert session.type("/adapter none") == "runs/base, step 3\n"
    session.type("/seed 1")
    assert session.type("def ") == plain


def test_the_base_is_read_once(session, monkeypatch):
    honest, read = adapters.read_source, []

    def reading(source, checkpoint="best"):
        read.append(str(source))
        return honest(source, checkpoint)

    monkeypatch.setattr(adapters, "read_source", reading)
    for line in ("/adapters", "/adapter two", "/adapter theirs", "/adapter none", "/adapter one", "/adapters"):
        session.type(line)
    assert read == ["runs/base", "runs/two", "runs/one"]


def test_one_that_lies_elsewhere_is_listed_while_it_is_on(session):
    session.type("/adapter elsewhere")
    assert session.type("/adapters").splitlines()[-1] == "* elsewhere    PEFT's, rank 2"
    session.type("/adapter two")
    assert "elsewhere" not in session.type("/adapters")


def test_another_model_has_adapters_of_its_own(session, home):
    session.type("/adapter one")
    session.type("/load runs/two")
    listed = session.type("/adapters")
    assert "* runs/two" in listed and "  runs/one" in listed  # of the same base, which is that of the run


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/adapter", "/adapter takes the name of an adapter, as /adapters lists them, or none"),
        ("/adapter nothing", "nothing: there is no such directory"),
        ("/adapter base", "runs/base: holds whole weights, and no adapter"),
        ("/adapter another base's", "was trained on .* with the SHA-256"),
        ("/adapters all", "/adapters takes nothing after it"),
    ],
)
def test_what_cannot_be_put_on_changes_nothing(session, line, words):
    session.type("/adapter one")
    before = session.run
    with pytest.raises(InputError, match=words):
        session.type(line)
    assert session.run is before
    assert "* runs/one" in session.type("/adapters")


def test_lines_of_a_pipe_reach_no_adapters(session):
    session.trusted = False
    for line in ("/adapters", "/adapter one"):
        with pytest.raises(InputError, match="is off where lines do not come from a terminal"):
            session.type(line)


def test_sample_puts_an_adapter_on_its_base(home):
    ours = run_sample(home, "--run", "one", "--prompt", "def ", *DRAW)
    assert ours != run_sample(home, "--run", "base", "--prompt", "def ", *DRAW)
    for given in (["--adapter", "one"], ["--run", "base", "--adapter", "runs/one"]):
        assert run_sample(home, *given, "--prompt", "def ", *DRAW) == ours
    found = run_sample(home, "--run", "base", "--adapter", "elsewhere", "--prompt", "def ", *DRAW, "--json")
    assert json.loads(found)["run"] == "runs/base, step 3, with the adapter elsewhere"
    refused = run_sample(home, "--adapter", "one", "--adapter", "two", "--prompt", "a", code=2)
    assert "--adapter: several are for a session" in refused
    refused = run_sample(home, "--run", "base", "--adapter", "another base's", "--prompt", "a", code=2)
    assert "has others now" in refused


def test_sample_holds_a_session_with_several(home):
    lines = "/adapters\n/adapter two\n/adapters\n/adapter none\n"
    given = ("--run", "base", "--adapter", "one", "--adapter", "elsewhere", "--interactive", "--allow-commands")
    said = run_sample(home, *given, *DRAW, stdin=lines)
    assert said.index("* runs/one") < said.index("runs/two, step 3") < said.index("* runs/two")
    assert "  elsewhere    PEFT's, rank 2" in said
    assert said.rstrip().endswith("runs/base, step 3")
