import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from gpt import InputError
from gpt.commands.train_options import parse_train
from gpt.presets import PRESETS, preset
from gpt.suits import preset_for
from gpt.tuning.candidates import around, drawn
from gpt.tuning.settings_file import Journal, journal_of, require_place, settings_of, toml, write_settings
from gpt.tuning.trial import with_steps


def read_back(path):
    """The settings that `gpt train --config` begins with."""
    return parse_train(["--config", str(path), "--device", "cpu"]).config


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "finetune"])
def test_what_is_written_is_what_train_reads(name, tmp_path):
    config = preset(name)
    for candidate in drawn(config, around(config, {}), 6, 0):
        wanted = replace(with_steps(candidate.config, 123), device="cpu")
        write_settings(tmp_path / "mine.toml", wanted, ["One line.", "Another."])
        assert read_back(tmp_path / "mine.toml") == wanted
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith(f'# One line.\n# Another.\npreset = "{name}"\ndata = "data/python"\nsteps = 123\n')


@pytest.mark.parametrize(("device", "tokens"), [("cuda", 10**7), ("cuda", 5000), ("cpu", 5000), ("cpu", 50_000)])
def test_so_is_what_suits_a_text_where_no_preset_is_named(device, tokens, tmp_path):
    config = replace(preset_for(device, "scratch", tokens)[0], device="cpu")
    write_settings(tmp_path / "mine.toml", config, [])
    assert read_back(tmp_path / "mine.toml") == config


def test_settings_of_another_file_stay(tmp_path):
    changed = preset("nano")
    changed = replace(
        changed, data=Path('data/größe "x" \\ y'), document_mask=True, windows="packed", log_every=3, max_epochs=2.5
    )
    changed = replace(changed, model=replace(changed.model, dropout=0.25, qk_norm=False), seed=5, device="cpu")
    write_settings(tmp_path / "mine.toml", changed, [])
    assert read_back(tmp_path / "mine.toml") == changed
    table = tomllib.loads((tmp_path / "mine.toml").read_text())
    assert table["model"] == {"dropout": 0.25, "qk_norm": False} and table["seed"] == 5
    assert "optimizer" not in table


def test_the_vocabulary_is_the_datasets_and_the_device_the_machines():
    config = preset("nano")
    config = replace(config, device="cpu", run_dir=Path("runs/a"), model=replace(config.model, vocab_size=77))
    assert settings_of(config) == {"preset": "nano", "data": Path("data/python"), "steps": 750}


def test_toml_is_read_as_it_was_meant():
    values = {"a": 1, "b": 1e-5, "c": True, "d": 'quotes " and \\ and \x7f', "x.f": 0.5, "e": ("p=1", "q=2"), "x.g": -3}
    text = toml(values, ["a comment " * 40])
    assert max(map(len, text.splitlines())) < 120 and text.count("# a comment") == 4
    again = tomllib.loads(text)
    assert again == {**{k: v for k, v in values.items() if "." not in k}, "e": ["p=1", "q=2"], "x": {"f": 0.5, "g": -3}}


def test_comments_keep_paths_whole_and_are_no_settings():
    path = "runs/a-long-name/" * 12
    text = toml({"a": 1}, [f"See {path} for\nb = 2, and \x1b[1m."])
    assert f"# {path}" in text and tomllib.loads(text) == {"a": 1}


def test_a_place_that_is_taken_is_refused(tmp_path):
    out = tmp_path / "mine.toml"
    require_place(out, replace=False)
    journal_of(out).write_text("")
    with pytest.raises(InputError, match=r"mine.jsonl is there already; choose another name, or give `replace`"):
        require_place(out, replace=False)
    require_place(out, replace=True)
    out.mkdir()
    with pytest.raises(InputError, match="mine.toml is a directory"):
        require_place(out, replace=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("mine", "is to be a TOML file: call it .*mine.toml"), ("a/b.toml", "a is no directory; make it")],
)
def test_a_place_that_cannot_be_is_refused(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        require_place(tmp_path / name, replace=True)


def test_a_journal_has_each_line_at_once(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.write("one")
        assert path.read_text() == "one\n"
        journal.write("two")
        assert path.read_text() == "one\ntwo\n"
