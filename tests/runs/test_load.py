"""Loading a model by what a user names: a run, one of its checkpoints, a Hugging Face directory, a name on the hub."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import SHAPE, run_here, saved_run

from gpt import GPT, InputError, ModelConfig, Tokenizer, load_run
from gpt.commands.train_options import _init_of_resumed, parse_train
from gpt.device import ROUNDED
from gpt.interop.hub_names import hub_id
from gpt.interop.huggingface_export import export
from gpt.model.batch_invariant import BatchInvariant
from gpt.runs.checkpoint import list_checkpoints, load_best, step_of
from gpt.runs.directory import read_config
from gpt.runs.load import build, load_tokenizer, model_config, pinned


def test_a_run_holds_all_that_sampling_needs(trained_run, dataset, tiny_config, tmp_path):
    """Moved elsewhere, without its dataset and its optimizer's state."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained_run, moved)
    for path in list_checkpoints(moved):
        (path / "optimizer.safetensors").unlink()
    loaded = load_run(moved)
    assert isinstance(loaded.model, GPT)
    assert isinstance(loaded.config, ModelConfig)
    assert loaded.config == tiny_config.model
    assert loaded.tokenizer.fingerprint == dataset.tokenizer.fingerprint
    assert not loaded.model.training
    assert loaded.model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 257)


def test_the_best_checkpoint_is_loaded(trained_run):
    losses = {
        path: json.loads((path / "state.json").read_text())["evaluation"]["loss"]
        for path in list_checkpoints(trained_run)
    }
    best = min(losses, key=losses.__getitem__)
    assert load_run(trained_run).state["evaluation"]["loss"] == losses[best]


def test_a_checkpoint_is_the_best_the_last_or_a_steps(trained_run, said):
    steps = [step_of(path) for path in list_checkpoints(trained_run)]
    assert len(steps) > 1
    assert load_run(trained_run).state == load_best(trained_run).state
    for wanted, step in (("last", steps[-1]), (steps[0], steps[0]), (str(steps[-1]), steps[-1])):
        assert load_run(trained_run, checkpoint=wanted).state["step"] == step
    for wanted in ("7", "newest", -1):
        message = f"`checkpoint` {wanted}: {trained_run} has best, last and the steps {', '.join(map(str, steps))}"
        with pytest.raises(InputError, match=re.escape(message)):
            load_run(trained_run, checkpoint=wanted)
    (list_checkpoints(trained_run)[-1] / "model.safetensors").write_bytes(b"")
    assert load_run(trained_run, checkpoint="last").state["step"] == steps[-2]
    assert sum("damaged checkpoint" in line and "passed over" in line for line in said) == 1
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_run(trained_run, checkpoint=steps[-1])
    for path in list_checkpoints(trained_run):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="holds no usable checkpoint"):
        load_run(trained_run, checkpoint="last")


def test_without_a_source_it_is_the_newest_run_and_any_device_is_checked(trained_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    trained_run.rename(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert load_run(device="auto").source.startswith(str(Path("runs") / "mine") + ", step ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(InputError, match="`device` cuda: this torch .* sees no such device"):
            load_run(device=device)


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-4), ("float16", 1e-3), ("int8", 0.05), ("bfloat16", 0.05)])
def test_weights_come_in_the_precision_that_was_asked_for(trained_run, dtype, near):
    if dtype in ROUNDED and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("float16 and 8-bit integers need an x86 processor")
    plain, ids = load_run(trained_run).model, torch.arange(20).unsqueeze(0)
    for prepacked in (False, True):
        model = load_run(trained_run, dtype=dtype, prepacked=prepacked).model
        with torch.no_grad():
            assert (model(ids).float() - plain(ids)).square().mean().sqrt() < near * plain(ids).std()
        assert any(parameter.requires_grad for parameter in model.parameters()) is not prepacked


def test_where_bits_cannot_be_kept_it_is_said_once(trained_run, monkeypatch, said):
    """Also of a model that cannot be prepacked; to nobody who does not generate."""
    load_run(trained_run)
    monkeypatch.setattr("gpt.runs.load.can_prepack", lambda _: False)
    load_run(trained_run, prepacked=True)
    monkeypatch.undo()
    monkeypatch.setattr(BatchInvariant, "_agrees", lambda *_: False)
    monkeypatch.setattr(BatchInvariant, "found", {})
    load_run(trained_run, prepacked=True)
    assert len(said) == 2
    assert all("can depend on what is sampled beside it" in line for line in said)
    monkeypatch.undo()
    load_run(trained_run, prepacked=torch.backends.mkldnn.is_available())
    assert len(said) == 2


@pytest.mark.parametrize("dtype", ROUNDED)
def test_float16_and_int8_are_for_the_cpu(trained_run, dtype):
    with pytest.raises(InputError, match=rf"`dtype` {dtype}: is for the CPU, and this is cuda; choose bfloat16"):
        load_run(trained_run, "cuda", dtype=dtype)


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="this torch has no FBGEMM")
def test_weights_beyond_float16_are_refused_when_they_are_loaded(trained_run, monkeypatch):
    def larger(stored):
        stored.weights["blocks.0.mlp.fc_in.weight"][1, 2] = 7e4
        return build(stored)

    monkeypatch.setattr("gpt.runs.load.build", larger)
    with pytest.raises(InputError, match="`dtype` float16: the weights go up to 70,000"):
        load_run(trained_run, dtype="float16")


def test_loading_draws_no_random_numbers(trained_run):
    torch.manual_seed(3)
    load_run(trained_run)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), drawn)


def test_weights_that_do_not_fit_their_config_are_refused(trained_run):
    content = json.loads((trained_run / "config.json").read_text())
    content["config"]["model"]["n_layer"] = 3
    (trained_run / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="do not fit its config.json"):
        load_run(trained_run)


def test_a_mistyped_run_is_not_looked_for_on_the_network(trained_run):
    with pytest.raises(InputError, match=f"there is no such directory; did you mean '{trained_run}'"):
        load_run(f"{trained_run}n")


def test_a_run_below_runs_is_found_by_its_name_and_not_looked_for_on_the_network(trained_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    trained_run.rename(tmp_path / "runs" / "mine-nano")
    monkeypatch.chdir(tmp_path)
    assert load_run("mine-nano").path == Path("runs/mine-nano")
    assert model_config("mine-nano") == model_config("runs/mine-nano")
    assert pinned("mine-nano") == "runs/mine-nano"
    assert load_tokenizer("mine-nano").fingerprint == load_tokenizer("runs/mine-nano").fingerprint
    for load in (load_run, model_config, pinned, load_tokenizer):
        with pytest.raises(InputError, match="the hub did not|Hugging Face hub did not give it.*mean runs/mine-nano"):
            load("mine-nan")
    (tmp_path / "mine-nano").mkdir()  # what is here comes first
    with pytest.raises(InputError, match="mine-nano: is a directory without a config.json"):
        load_run("mine-nano")


def test_a_path_that_is_something_else_is_called_what_it_is(trained_run, dataset, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    step = list_checkpoints(trained_run)[0]
    for path, message in (
        (step, f"is a checkpoint of the run {trained_run}: name that run; `checkpoint` {step_of(step)} chooses it"),
        (trained_run / "checkpoints", f"is part of the run {trained_run}: name that run"),
        (trained_run / "config.json", f"is part of the run {trained_run}: name that run"),
        (dataset.path, "is a dataset: name a run that was trained on it"),
        (tmp_path / "model" / "model.safetensors", f"is a file of a Hugging Face model: name {tmp_path / 'model'}"),
        (tmp_path / "notes.txt", "is a file, and no directory"),
        (tmp_path / "empty", "is a directory without a config.json"),
    ):
        for load in (load_run, model_config, load_tokenizer):
            with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
                load(path)


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "a/b/c"])
def test_a_source_that_is_nothing_is_refused(source):
    with pytest.raises(InputError, match="neither a run directory|no such directory"):
        load_run(source)


def test_a_hugging_face_directory_is_loaded_too(trained_run, tmp_path):
    ours = load_run(trained_run)
    export(ours.model, ours.tokenizer, tmp_path / "exported")
    theirs = load_run(tmp_path / "exported")
    ids = torch.randint(257, (1, 20))
    assert torch.equal(ours.model(ids), theirs.model(ids))
    assert theirs.tokenizer.fingerprint == ours.tokenizer.fingerprint
    assert model_config(str(tmp_path / "exported")).n_embd == 32


def test_a_hugging_face_model_has_no_checkpoints_to_choose(trained_run, tmp_path):
    export(load_run(trained_run).model, load_tokenizer(trained_run), tmp_path / "exported")
    with pytest.raises(InputError, match="`checkpoint` last: .* is a Hugging Face model, which has none to choose"):
        load_run(tmp_path / "exported", checkpoint="last")


def test_a_hub_id_without_a_network_is_refused():
    with pytest.raises(InputError, match="the Hugging Face hub did not give it"):
        load_run("someone/no-such-model-here")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's cache with two commits of someone/tiny, of which `main` is the second and v1 the first."""
    repository, commits = tmp_path / "hub" / "models--someone--tiny", ["a" * 40, "b" * 40]
    (repository / "refs").mkdir(parents=True)
    for number, (commit, names) in enumerate(zip(commits, (["v1"], ["main"]), strict=True)):
        torch.manual_seed(number)
        export(GPT(SHAPE), Tokenizer.utf8_bytes(), repository / "snapshots" / commit)
        for name in names:
            (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


@pytest.mark.parametrize(
    ("named", "commit"), [("", "b"), ("@main", "b"), ("@v1", "a"), (f"@{'a' * 40}", "a"), (f"@{'b' * 40}", "b")]
)
def test_a_hub_model_is_that_of_its_revision_and_says_its_commit(hub, named, commit):
    loaded = load_run(f"someone/tiny{named}")
    assert loaded.source == f"someone/tiny@{commit * 40}"
    expected = load_run(hub / "snapshots" / (commit * 40)).model
    assert torch.equal(loaded.model.token_embedding.weight, expected.token_embedding.weight)
    assert loaded.tokenizer.vocab_size == 257


def test_a_run_keeps_the_commit_of_its_weights_though_the_hub_goes_on(hub, dataset, tmp_path):
    def train(init, *options):
        command = ("--run-dir", "tuned", "--data", dataset.path, "--init-from", init, "--device", "cpu", *options)
        command += ("--batch-tokens", 480, "--evaluation.sample-tokens", 0)
        return run_here("train.py", *command, cwd=tmp_path)

    first = "a" * 40
    (hub / "refs" / "main").write_text(first)
    output = train("someone/tiny", "--steps", 2)
    assert f"weights: someone/tiny@{first}" in output
    assert read_config(tmp_path / "tuned").init_from == f"someone/tiny@{first}"
    (hub / "refs" / "main").write_text("b" * 40)
    for same in (f"someone/tiny@{first}", "someone/tiny@v1"):  # as torchrun names it again
        assert f'"init_from": "someone/tiny@{first}"' in train(same, "--steps", 2, "--resume", "--dry-run")
    train("someone/tiny", "--steps", 2, "--resume")
    assert read_config(tmp_path / "tuned").init_from == f"someone/tiny@{first}"
    command = ("--run-dir", "tuned", "--resume", "--init-from", "someone/tiny@main")
    assert f"cannot become someone/tiny@{'b' * 40} midway" in run_here("train.py", *command, cwd=tmp_path, code=2)
    assert "did not give it" in run_here("train.py", "--init-from", "someone/tiny@v2", cwd=tmp_path, code=2)


@pytest.fixture
def family(hub, monkeypatch, tmp_path):
    """The same cache, of openai-community/gpt2 and distilbert/distilgpt2, where nothing is named gpt2 yet."""
    for owner, name in (("openai-community", "gpt2"), ("distilbert", "distilgpt2")):
        shutil.copytree(hub, hub.parent / f"models--{owner}--{name}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "gpt2@main", f"gpt2@{'b' * 40}"])
def test_a_name_of_the_family_is_the_model_on_the_hub(family, name):
    whole = {"gpt2": "openai-community/gpt2", "distilgpt2": "distilbert/distilgpt2"}[name.partition("@")[0]]
    loaded = load_run(name)
    assert loaded.source == f"{whole}@{'b' * 40}"
    assert loaded.tokenizer.vocab_size == 257
    assert pinned(name) == loaded.source
    config = parse_train(["gpt2", "--init-from", name, "--data", "x", "--batch-tokens", "48"]).config  # and the preset
    assert (config.preset, config.init_from, config.model) == ("gpt2", loaded.source, loaded.config)


def test_names_of_the_family_are_told_from_their_presets(family):
    with pytest.raises(
        InputError, match="gpt2-medium: .* the Hugging Face hub did not give openai-community/gpt2-medium"
    ):
        load_run("gpt2-medium")
    with pytest.raises(InputError, match="^gpt2-modern: .* did not give it"):  # a preset alone
        load_run("gpt2-modern")


def test_a_directory_or_a_run_of_that_name_comes_first(family):
    export(GPT(SHAPE), Tokenizer.utf8_bytes(), family / "gpt2")
    assert load_run("gpt2").source == "gpt2"
    assert hub_id("gpt2") == "gpt2"
    shutil.rmtree(family / "gpt2")
    saved_run(family / "runs", "gpt2")
    assert load_run("gpt2").source == "runs/gpt2, step 1"
    assert _init_of_resumed("runs/gpt2", "gpt2") == "runs/gpt2"
    assert _init_of_resumed(f"openai-community/gpt2@{'b' * 40}", "gpt2") == "gpt2"  # now a run, so refused
    shutil.rmtree(family / "runs")
    assert _init_of_resumed(f"openai-community/gpt2@{'b' * 40}", "gpt2") == f"openai-community/gpt2@{'b' * 40}"
