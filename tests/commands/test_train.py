"""The options of `gpt train`: presets, files and flags, and what a resumed run may change."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from gpt import InputError
from gpt.commands import clean_errors, train
from gpt.commands.train_options import parse_train
from gpt.config import TrainConfig
from gpt.config_io import overlay, to_dict
from gpt.distributed.world import World
from gpt.interop.huggingface_export import export
from gpt.model.config import ModelConfig
from gpt.presets import preset
from gpt.runs.directory import usual_name, write_config
from gpt.runs.load import load_run
from gpt.training.start import fit_to_dataset


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "file.toml"
    path.write_text("steps = 70\nseed = 5\n[model]\nn_layer = 3\nn_head = 8\n[optimizer]\nlearning_rate = 1e-4\n")
    return path


def settings(*arguments):
    return parse_train(arguments).config


def refused(capsys, *arguments):
    """What is said of bad flags."""
    with pytest.raises(SystemExit) as exit_code, clean_errors():
        parse_train(arguments)
    assert exit_code.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_without_arguments_the_device_decides():
    command = parse_train(["--device", "cpu"])
    assert command.config == dataclasses.replace(preset("nano"), device="cpu")
    assert command.reason.startswith("preset nano: ")


def test_preset_then_file_then_flags(toml):
    config = settings("shakespeare-char-cpu", "--config", str(toml), "--model.n-layer", "2", "--seed", "9")
    assert config.preset == "shakespeare-char-cpu"
    assert config.model == ModelConfig(n_layer=2, n_head=8, n_embd=128, context_length=64, vocab_size=65)
    assert (config.steps, config.seed, config.optimizer.learning_rate) == (70, 9, 1e-4)
    assert config.optimizer.beta2 == preset("shakespeare-char-cpu").optimizer.beta2


def test_every_setting_has_a_flag(capsys):
    with pytest.raises(SystemExit) as exit_code:
        parse_train(["nano", "--help"])
    assert exit_code.value.code == 0
    text = capsys.readouterr().out
    for name in (
        "steps",
        "batch-tokens",
        "seed",
        "wandb",
        "resume",
        "dry-run",
        "config",
        "init-from",
        "data",
        "run-dir",
    ):
        assert f"--{name}" in text
    for group in ("model", "optimizer", "evaluation", "checkpoint"):
        for field in dataclasses.fields(getattr(preset("nano"), group)):
            assert f"--{group}.{field.name.replace('_', '-')}" in text
    assert "Decoupled weight decay" in text


def test_an_unknown_flag_is_refused_with_a_suggestion(capsys):
    assert "--model.n-layer" in refused(capsys, "nano", "--model.n-leyer", "3")


def test_an_unknown_key_of_a_file_is_refused_with_a_suggestion(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text("[model]\nn_leyer = 3\n")
    with pytest.raises(InputError, match=r"f.toml: unknown key 'model.n_leyer'; did you mean 'model.n_layer'"):
        settings("nano", "--config", str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--config .*f.toml: cannot be read \(No such file"):
        settings("nano", f"--config={tmp_path / 'f.toml'}")
    (tmp_path / "f.toml").write_text("steps = ")
    with pytest.raises(InputError, match=r"--config .*f.toml: is not TOML"):
        settings("nano", f"--config={tmp_path / 'f.toml'}")


def test_a_file_also_says_what_the_settings_are_laid_over(trained_run, tmp_path):
    """preset, init, run and device of a file count before the rest of it, as those of flags do."""
    path = tmp_path / "f.toml"
    path.write_text('preset = "gpt2"\ndevice = "cpu"\n')
    assert settings("--config", str(path)) == dataclasses.replace(preset("gpt2"), device="cpu")
    assert settings("nano", "--config", str(path)).model == preset("nano").model
    path.write_text(f'init_from = "{trained_run}"\n')
    config = settings("--config", str(path), "--device", "cpu")
    assert (config.preset, config.model.n_embd, config.init_from) == ("finetune", 32, str(trained_run))
    path.write_text(f'run_dir = "{trained_run}"\n')
    assert settings("--resume", "--config", str(path)).run_dir == trained_run
    path.write_text("preset = 3\n")
    with pytest.raises(InputError, match="'preset' is 3"):
        settings("--config", str(path))


def test_a_preset_is_no_flag():
    with pytest.raises(InputError, match="--preset: is called PRESET, without a flag, here"):
        parse_train(["--preset", "gpt2", "--device", "cpu"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nano", "--steps", "many"), "--steps"),
        (("nano", "--steps", "0"), "--steps is 0; it must be at least 1"),
        (("nano", "--model.n-embd", "100", "--model.n-head", "3"), "a multiple of --model.n-head"),
        (("nano", "--wandb", "maybe"), "offline"),
        (("nano", "--batch-tokens", "1000"), "not a multiple of --model.context-length"),
    ],
)
def test_bad_values_are_refused(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


def test_unknown_presets_are_refused():
    with pytest.raises(InputError, match="unknown preset 'nanoo'; did you mean 'nano'"):
        parse_train(["nanoo"])
    with pytest.raises(InputError, match="unknown preset 'gpt2-small'; did you mean 'gpt2'"):
        parse_train(["--steps", "5", "gpt2-small"])
    with pytest.raises(InputError, match="unknown preset 'nanoo'; did you mean 'nano'"):
        parse_train(["--data", "data/mine", "nanoo"])
    with pytest.raises(InputError, match="`data` data/b: has no weight beside others"):
        parse_train(["--data", "data/a=0.5", "data/b"])  # a path


def test_a_preset_stands_anywhere():
    for place in range(3):
        arguments = ["--steps=5", "--device=cpu"]
        arguments.insert(place, "shakespeare-char-cpu")
        assert settings(*arguments).preset == "shakespeare-char-cpu"
    assert settings("--resume", "nano", "--run-dir", "new").preset == "nano"


@pytest.mark.parametrize("flag", ["--lr", "--max-steps=5", "--output-dir", "--batch-size"])
def test_what_other_programs_call_a_setting_is_pointed_out(flag):
    with pytest.raises(InputError, match=f"{flag.partition('=')[0]}: is called --"):
        parse_train([flag, "1"])


@pytest.mark.parametrize("arguments", [("--resume=yes",), ("--resume", "false"), ("--dry_run=true", "nano")])
def test_a_switch_takes_no_value(arguments):
    flag = arguments[0].partition("=")[0]
    with pytest.raises(InputError, match=f"^{flag}: takes no value; write {flag} alone, or leave it out"):
        parse_train(arguments)


def test_whole_numbers_may_have_an_exponent(capsys):
    assert settings("nano", "--steps", "1e3").steps == settings("nano", "--steps=1_000").steps == 1000
    assert settings("nano", "--stop-at", "2e1").stop_at == 20
    assert settings("nano", "--micro-batch-size", "auto").micro_batch_size == "auto"
    assert "error: --steps: '1.5' is no whole number" in refused(capsys, "nano", "--steps", "1.5")


@pytest.mark.parametrize("name", ["minutes", "epochs", "dry_run", "resume"])
def test_a_flag_that_is_no_setting_is_called_so_where_a_file_has_it(tmp_path, name):
    path = tmp_path / "f.toml"
    path.write_text(f"{name} = 3\n")
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(InputError, match=f"f.toml: '{name}' is no setting but a flag; give {flag} on the command line"):
        settings("nano", "--config", str(path))


@pytest.mark.parametrize("flag", ["minutes", "epochs"])
def test_a_length_by_flag_lies_over_the_steps_of_a_file(tmp_path, flag):
    path = tmp_path / "f.toml"
    path.write_text("steps = 7\nbatch_tokens = 256\n")
    asked = parse_train(["nano", "--config", str(path), f"--{flag}", "2"]).asked
    assert (getattr(asked, flag), "batch_tokens" in asked.settings, "steps" in asked.settings) == (2.0, True, False)
    assert "steps" in parse_train(["nano", "--config", str(path)]).asked.settings
    with pytest.raises(InputError, match=f"`steps` and `{flag}`: each says how long to train"):
        parse_train(["nano", "--config", str(path), f"--{flag}", "2", "--steps", "9"])


def test_what_a_dry_run_prints_is_settings_for_another_run(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "forecast_lines", lambda *_: [])  # which takes a trial of seconds
    arguments = ["nano", "--data", str(dataset.path), "--device", "cpu", "--steps", "7", "--model.dropout", "0.25"]
    assert train.main([*arguments, "--dry-run"]) == 0
    output = capsys.readouterr().out
    (tmp_path / "again.json").write_text(output)
    again = settings("--config", str(tmp_path / "again.json"))
    assert again == overlay(TrainConfig(), json.loads(output))
    assert (again.steps, again.model.dropout, again.model.vocab_size) == (7, 0.25, 257)
    (tmp_path / "again.json").write_text(output[:-5])
    with pytest.raises(InputError, match=r"again.json: is not JSON"):
        settings("--config", str(tmp_path / "again.json"))


def test_a_forecast_is_tried_by_every_process_and_printed_by_one(dataset, monkeypatch, capsys):
    """They try steps together: one that left would be waited for."""
    tried = []
    monkeypatch.setattr(World, "is_main", False)
    monkeypatch.setattr(train, "forecast_lines", lambda *_: tried.append(1) or [])
    assert train.main(["nano", "--data", str(dataset.path), "--device", "cpu", "--dry-run"]) == 0
    assert tried == [1]
    assert capsys.readouterr().out == ""


def test_init_from_takes_the_name_of_a_run_and_keeps_its_path(trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, tmp_path / "runs" / "mine")
    config = settings("--init-from", "mine", "--device", "cpu")
    assert config.init_from == "runs/mine"
    write_config(tmp_path / "runs" / "mine", dataclasses.replace(config, run_dir=Path("runs/mine")))
    for same in ("mine", "runs/mine", "runs/mine/"):  # as a launcher says it again
        assert settings("--init-from", same, "--run-dir", "runs/mine", "--resume").init_from == "runs/mine"


def test_the_architecture_of_init_comes_from_its_weights(trained_run):
    command = parse_train(["--init-from", str(trained_run), "--steps", "7"])
    source = load_run(trained_run).config
    assert command.config.preset == "finetune"
    assert "`init_from`" in command.reason
    assert command.config.model == dataclasses.replace(source, dropout=preset("finetune").model.dropout)
    assert command.config.batch_tokens % source.context_length == 0
    assert settings("nano", "--init-from", str(trained_run)).model.n_layer == source.n_layer


@pytest.mark.parametrize("flag", [("--model.n-layer", "5"), ("--model.n-embd", "64"), ("--model.context-length", "64")])
def test_what_clashes_with_the_weights_of_init_is_refused(trained_run, flag):
    with pytest.raises(
        InputError, match=r"--init-from .*only its dropout can be changed, and its context made smaller"
    ):
        settings("finetune", "--init-from", str(trained_run), *flag)


def test_a_smaller_context_and_other_dropout_than_inits_are_allowed(trained_run, tmp_path):
    config = settings(
        "finetune", "--init-from", str(trained_run), "--model.context-length", "16", "--model.dropout", "0.3"
    )
    assert (config.model.context_length, config.model.dropout) == (16, 0.3)
    run = load_run(trained_run)
    export(run.model, run.tokenizer, tmp_path / "exported")
    assert settings("--init-from", str(tmp_path / "exported")).model.n_embd == 32


def test_resume_goes_on_with_the_runs_own_settings(trained_run, tiny_config):
    command = parse_train(["--resume", "--run-dir", str(trained_run), "--steps", "50"])
    assert command.config == dataclasses.replace(tiny_config, run_dir=trained_run, steps=50)
    assert str(trained_run) in command.reason


@pytest.mark.parametrize(
    "flag",
    [
        ("--model.dropout", "0.2"),
        ("--seed", "4"),
        ("--batch-tokens", "320"),
        ("--windows", "packed"),
        ("--document-mask",),
    ],
)
def test_resume_refuses_to_change_what_the_past_was_made_with(trained_run, flag):
    with pytest.raises(InputError, match="cannot become .* begin a new run from these weights with --init-from"):
        settings("--resume", "--run-dir", str(trained_run), *flag)


def test_resume_without_a_run_and_with_another_preset_is_refused(trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds no run, but something else"):
        settings("--resume", "--run-dir", str(tmp_path))
    with pytest.raises(InputError, match="there is no run under runs"):
        settings("--resume")
    (tmp_path / "damaged" / "checkpoints").mkdir(parents=True)
    (tmp_path / "damaged" / "config.json").write_text("x")
    with pytest.raises(InputError, match=r"damaged.config\.json: cannot be read as a run's config"):
        settings("--resume", "--run-dir", str(tmp_path / "damaged"))
    with pytest.raises(InputError, match="began with the preset custom, not nano"):
        settings("nano", "--resume", "--run-dir", str(trained_run))


def test_resume_begins_a_run_that_is_not_there_yet_for_those_who_start_it_again_and_again(tmp_path):
    command = parse_train(["nano", "--resume", "--run-dir", str(tmp_path / "new"), "--device", "cpu"])
    assert not command.resumes
    assert command.config == dataclasses.replace(preset("nano"), run_dir=tmp_path / "new", device="cpu")
    assert command.reason == f"preset nano: asked for; {tmp_path / 'new'} is not there: a new run begins"
    (tmp_path / "new").mkdir()
    for leftover in (".lock", "tokenizer.json"):  # of a start that was killed at once
        (tmp_path / "new" / leftover).touch()
    assert parse_train(["nano", "--resume", f"--run-dir={tmp_path / 'new'}"]).config.preset == "nano"


def test_resume_of_a_mistyped_run_says_which_was_perhaps_meant(trained_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, tmp_path / "runs" / "short")
    for slip in ("short", "runs/shrt", "runs/shorts"):
        with pytest.raises(InputError, match=f"{slip} is not there; did you mean runs/short.* name --data or a preset"):
            settings("--run-dir", slip, "--resume", "--steps", "110")
    with pytest.raises(InputError, match="elsewhere/x is not there. To begin it"):
        settings("--run-dir", "elsewhere/x", "--resume")
    assert parse_train(["--run-dir", "runs/shrt", "--resume", "--data", "d"]).reason.endswith(
        "; runs/shrt is not there: a new run begins; did you mean runs/short?"
    )
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")  # which starts the same command again and again
    assert settings("--run-dir", "runs/shrt", "--resume").run_dir == Path("runs/shrt")


def test_a_run_that_is_resumed_keeps_its_vocabulary(trained_run, bpe, dataset):
    config = dataclasses.replace(preset("nano"), run_dir=trained_run)
    message = f"`model.vocab_size` is 2,048, that of {trained_run}; the tokenizer of .* has 257 ids: prepare the data"
    with pytest.raises(InputError, match=message):
        fit_to_dataset(config, dataset, resumes=True)


def test_other_data_can_be_allowed_for_a_resumed_run_only():
    with pytest.raises(InputError, match="--allow-other-data: has a meaning with --resume only"):
        parse_train(["nano", "--allow-other-data"])


def test_the_vocabulary_is_the_datasets_and_said(dataset, said):
    config = fit_to_dataset(preset("nano"), dataset)
    assert config.model.vocab_size == 257
    assert said == [f"vocabulary: 257 ids, those of {dataset.path}"]


def test_another_vocabulary_than_the_datasets_is_refused(dataset):
    config = settings("nano", "--model.vocab-size", "300")
    with pytest.raises(InputError, match="`model.vocab_size` is 300; the tokenizer of .* has 257 ids: leave it out"):
        fit_to_dataset(config, dataset)
    with pytest.raises(InputError, match="prepare the data with that one: .* `tokenizer` openai-community/gpt2"):
        fit_to_dataset(dataclasses.replace(preset("gpt2"), init_from="openai-community/gpt2"), dataset)


# ---- one dataset, or several ----


def test_one_or_several_datasets_are_named_by_flag_and_by_file(tmp_path):
    assert settings("nano", "--data", "one").data == Path("one")
    several = ("data/a=0.7", "data/b=0.3")
    assert settings("nano", "--data", *several, "--seed", "3").data == several
    assert settings("nano", "--seed", "3", "--data", *several).data == several
    (tmp_path / "file.toml").write_text(f"data = {list(several)}\nmax_epochs = 2\n")
    config = settings("--config", str(tmp_path / "file.toml"))
    assert (config.data, config.max_epochs) == (several, 2)
    (tmp_path / "printed.json").write_text(json.dumps(to_dict(config)))
    assert settings("--config", str(tmp_path / "printed.json")).data == several


@pytest.mark.parametrize("data", [("one",), ("a=0.7", "b=0.3")])
def test_a_preset_may_follow_the_datasets(data):
    command = parse_train(["--data", *data, "nano"])
    assert command.config.data == (Path("one") if len(data) == 1 else data)
    assert command.reason.endswith(": asked for")


def test_a_dataset_called_like_a_preset_is_one_where_the_preset_is_named_first():
    with pytest.raises(InputError, match="`data` nano: has no weight beside others"):
        settings("nano", "--data", "one=1", "nano")


def test_no_dataset_is_refused():
    with pytest.raises(InputError, match=r"`data` holds \[\]"):
        settings("nano", "--data")


def test_a_text_or_a_run_in_place_of_a_dataset_is_told_what_to_do(trained_run, tmp_path):
    text = tmp_path / "my book.txt"
    text.write_text("A good text. " * 200)
    with pytest.raises(InputError, match=f"gpt prepare files --input '{text}' --name 'my book'"):
        train.open_data(settings("nano", "--data", str(text)), World("cpu"))
    with pytest.raises(InputError, match=f"is a run or a model, .*--input TEXT --name NAME --tokenizer {trained_run}"):
        train.open_data(settings("nano", "--data", str(trained_run)), World("cpu"))


def test_one_dataset_with_a_weight_is_told_that_it_needs_none(dataset):
    config = settings("nano", "--data", f"{dataset.path}=0.7")
    with pytest.raises(InputError, match=r"one dataset alone has no weight \(0.7\); write .*python$"):
        train.open_data(config, World("cpu"))


def test_a_run_of_several_datasets_is_called_after_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert usual_name(settings("nano", "--data", "data/one")) == "one-nano"
    assert usual_name(settings("nano", "--data", "data/one=1", "data/two=2")) == "one+two-nano"
    assert usual_name(settings("nano", "--data", *(f"data/{name}=1" for name in "abcde"))) == "a+b+3-more-nano"
