"""What `gpt export` writes about a run, and what it says and ends with."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from unittest import mock

import pytest
from adapter_files import adapters_of_a_base, save_adapter
from helpers import SHAPE, run_gpt, saved_run, variant
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from gpt import GPT, Tokenizer, TrainConfig, load_run
from gpt.commands import export as command
from gpt.commands.export_card import Stated, card_of, hub_base, upload_command
from gpt.commands.export_proof import LEFT_OUT
from gpt.dataset.mixture import mix_datasets, mixed_fingerprint
from gpt.errors import InputError
from gpt.evaluation.loss import Evaluation
from gpt.interop import huggingface_export
from gpt.model.lora import LoRAConfig
from gpt.runs import checkpoint
from gpt.runs.directory import open_run, read_config, write_config
from gpt.training.state import OverfittingWatch

EVALUATION = Evaluation(
    loss=2.5,
    loss_se=0.0625,
    bits_per_byte=3.25,
    bits_per_byte_se=0.125,
    perplexity=12.5,
    perplexity_se=0.5,
    tokens=900,
    text_bytes=800,
    units="9 documents",
    context_length=48,
    stride=48,
)
STATE = {"step": 40, "tokens": 1920, "elapsed_s": 83.0, "evaluations": 1, "best_step": 40}
HUB = "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e"


@pytest.fixture
def run_of(tmp_path):
    """Writes a run of one checkpoint, by what its state and its settings say."""

    def write(state=None, evaluation=EVALUATION, name="stories", tokenizer=None, **settings):
        config = TrainConfig(run_dir=tmp_path / name, batch_tokens=48, steps=100, model=SHAPE, **settings)
        with open_run(config, tokenizer or Tokenizer.utf8_bytes(), resume=False) as run:
            found = {"evaluation": evaluation and asdict(evaluation)}
            checkpoint.save(run, variant("gpt2").state_dict(), {}, STATE | found | (state or {}))
        return run

    return write


def card(run, license=None, language=None):
    return card_of(load_run(run), LEFT_OUT, Stated(license, language))


def row(card, section, name):
    return dict(card.sections[section])[name]


# ---- the command ----


def test_gpt_export_proves_it_writes_the_card_and_says_how_to_upload(run_of, tmp_path, said):
    run = run_of()
    output = run_gpt(tmp_path, "export", "--run", run, "--to", "out", "--license", "mit", "--language", "en")
    assert "out: Loaded again by transformers" in output and "it is the run's model: 20 prompts from a list" in output
    assert said[-1] == "upload it: hf upload YOUR_NAME/stories out"
    found = ModelCard.load(tmp_path / "out" / "README.md")
    assert (found.data.license, found.data.language, found.data.tags) == ("mit", "en", ["gpt2"])
    values = [(each.metric_type, each.metric_value, each.metric_args) for each in found.data.eval_results]
    assert values == [
        ("loss", 2.5, {"standard_error": 0.0625}),
        ("bits_per_byte", 3.25, {"standard_error": 0.125}),
        ("perplexity", 12.5, {"standard_error": 0.5}),
    ]
    assert "it is the run's model" in found.text and "2.5000 ± 0.0625 nats per token" in found.text
    assert str(tmp_path) not in found.content
    code = found.text.split("```python\n")[1].split("```")[0].replace('path = "."', f"path = {str(tmp_path / 'out')!r}")
    exec(code.replace("max_new_tokens=50", "max_new_tokens=3"), {})  # what the card says can be done


def test_an_export_that_is_another_model_is_called_so_and_ends_with_1(run_of, tmp_path, said):
    honest = huggingface_export.export

    def broken(model, tokenizer, to, *others):
        kind = honest(model, tokenizer, to, *others)
        weights = load_file(to / "model.safetensors")
        weights["transformer.h.0.attn.c_attn.weight"][0, 0] += 5
        save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
        return kind

    with mock.patch.object(huggingface_export, "export", broken):
        run_gpt(tmp_path, "export", "--run", run_of(), "--to", "out", code=1)
    assert "is not what it should be" in said[-1] and not any("hf upload" in line for line in said)
    found = ModelCard.load(tmp_path / "out" / "README.md")
    assert found.text.strip().splitlines()[2].startswith("> **Do not use this.**")
    assert "FAILED. Loaded again by transformers" in found.text and "logits differ by up to" in found.text
    assert found.data.eval_results is None  # these figures are of the run's model


def test_what_was_not_proved_says_so(run_of, tmp_path, said, monkeypatch):
    run = run_of()
    assert "Not proved: nothing was" in run_gpt(tmp_path, "export", "--run", run, "--to", "out", "--no-proof")
    assert "export it again without" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not any("loading it again" in line for line in said)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "transformers is not installed" in run_gpt(tmp_path, "export", "--run", run, "--to", "again")
    assert "pip install 'transformers>=4.56'" in (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "hf upload" in said[-1]


def test_an_interrupted_proof_leaves_a_card_that_says_so(run_of, tmp_path):
    with mock.patch.object(command, "prove", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        command.export(tmp_path / "out", run_of())
    assert "the comparison was not over" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("option", "value"), [("license", "My Own"), ("license", "MIT"), ("language", "English")])
def test_what_the_hub_does_not_know_is_refused_before_anything_is_written(option, value, run_of, tmp_path):
    words = run_gpt(tmp_path, "export", "--run", run_of(), "--to", "out", f"--{option}", value, code=2)
    assert f"--{option} {value}: is no" in words and "such as" in words
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["my model", "new\\name", 'the "best"'])
def test_the_line_that_loads_it_is_python(name, run_of, tmp_path):
    output = run_gpt(tmp_path, "export", "--run", run_of(), "--to", name, "--no-proof")
    assert eval(output.split("from_pretrained(")[1].split(")\n")[0]) == name


def test_the_upload_command_can_be_pasted():
    assert upload_command("x", Path("my model")) == "hf upload YOUR_NAME/x 'my model'"
    assert upload_command("x", Path("-out")) == "hf upload YOUR_NAME/x ./-out"


# ---- adapters ----


@pytest.mark.parametrize(
    ("change", "doubts"),
    [
        ({}, []),
        ({"n_inner": 4 * SHAPE.n_embd}, []),
        ({"scale_by_inverse_layer": True, "n_inner": 24}, ["model.scale_by_inverse_layer True", "model.n_inner 24"]),
        ({"positions": "rope", "normalization": "rms", "activation": "relu-squared"}, ["model.bias True"]),
        ({"ngram": 2}, []),  # no class has it
    ],
)
def test_the_card_names_what_other_programs_may_not_know(change, doubts, run_of):
    loaded = replace(load_run(run_of()), model=GPT(replace(SHAPE, **change)))
    assert [*card_of(loaded, LEFT_OUT, Stated()).doubts] == doubts


def test_adapters_and_their_base_are_proved_together(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    adapters_of_a_base(tmp_path)
    output = run_gpt(tmp_path, "export", "--run", "one", "--to", "out", "--adapter")
    assert "and PEFT " in output and "it is the run's model" in output
    adapter, base = (ModelCard.load(tmp_path / "out" / name / "README.md") for name in ("adapter", "base"))
    assert (adapter.data.library_name, adapter.data.base_model) == ("peft", None)
    assert adapter.data["base_model_sha256"] == read_config(tmp_path / "runs" / "one").init_sha256
    assert "adapters alone (LoRA)" in adapter.text and "rank 2, alpha 6" in adapter.text
    assert base.data.library_name == "transformers" and "the adapter of one was trained on" in base.text
    assert not any(str(tmp_path) in each.content for each in (adapter, base))


def test_an_adapter_that_peft_computes_otherwise_fails(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    adapters_of_a_base(tmp_path)
    from gpt.interop import peft_export

    honest = peft_export._their_config
    monkeypatch.setattr(peft_export, "_their_config", lambda *given: honest(*given) | {"lora_alpha": 7})
    run_gpt(tmp_path, "export", "--run", "one", "--to", "out", "--adapter", code=1)
    assert "FAILED" in (tmp_path / "out" / "adapter" / "README.md").read_text(encoding="utf-8")


# ---- where weights are from ----


def test_a_base_on_the_hub_is_found_also_by_way_of_other_runs(run_of, tmp_path):
    first = run_of(name="first", init_from=HUB)
    second = run_of(name="second", init_from=str(first))
    for run in (first, second):
        found = card(run)
        assert (found.base, found.relation) == ("openai-community/gpt2", "finetune")
        assert "607a30d783dfa663caf39e06633721c8d4cfcd7e" in row(found, "Training", "weights it began with")
        assert found.not_for[-1].endswith("what the weights that it began with were trained on.")


@pytest.mark.parametrize("source", ["scratch", "runs/gone", "models/mine", "/home/somebody/model"])
def test_a_path_is_no_name_on_the_hub(source, run_of):
    found = card(run_of(init_from=source))
    assert found.base is None
    known = row(found, "Training", "weights it began with")
    assert "/" not in known and known == (
        "random ones" if source == "scratch" else f"another model, {source.rpartition('/')[2]}, which is not on the hub"
    )


def test_runs_that_began_with_each_other_have_no_base(run_of):
    run = run_of()
    write_config(run, replace(read_config(run), init_from=str(run)))
    assert hub_base(read_config(run)) is None


def test_merged_adapters_are_a_fine_tuning(run_of, tmp_path):
    base = run_of(name="base", init_from=HUB)
    run = save_adapter(tmp_path / "tuned", base, variant("gpt2").state_dict())
    assert read_config(run).lora == LoRAConfig(rank=2, alpha=6.0)
    found = card(run)
    assert (found.base, found.relation) == ("openai-community/gpt2", "finetune")
    assert "adapters alone" in row(found, "Training", "trained")


def test_a_model_that_is_no_run_says_what_is_known(run_of, tmp_path):
    run_gpt(tmp_path, "export", "--run", run_of(), "--to", "out", "--no-proof")
    found = card(tmp_path / "out")
    assert found.sections.keys() == {"Model"} and (found.results, found.data, found.base) == ([], (), None)


# ---- evaluation ----


def test_a_run_without_an_evaluation_has_no_results(run_of, tmp_path):
    run = saved_run(tmp_path, "bare")
    found = card(run)
    assert found.results == []
    assert row(found, "Evaluation", "validation loss") == "unknown: these weights were not evaluated in training"
    assert row(found, "Training", "tokens") == row(found, "Training", "time") == "unknown"
    assert card(run_of(state={"evaluation": {"loss": 1.0}})).results == []  # of another version


def test_a_figure_that_is_not_finite_is_no_result(run_of):
    found = card(run_of(evaluation=replace(EVALUATION, perplexity=float("inf"))))
    assert [each.kind for each in found.results] == ["loss", "bits_per_byte"]


def test_the_best_of_several_evaluations_is_said(run_of):
    run = run_of(state={"evaluations": 5})
    assert "the best of 5 evaluations" in row(card(run), "Evaluation", "chosen")
    assert "chosen" not in dict(card(run_of(name="once")).sections["Evaluation"])
    later = STATE | {"step": 60, "evaluations": 7, "overfitting": asdict(OverfittingWatch(said=True))}
    worse = asdict(replace(EVALUATION, loss=3.0))
    checkpoint.save(run, variant("gpt2").state_dict(), {}, later | {"evaluation": worse})
    found = card(run)
    assert row(found, "Training", "steps").startswith("40 of 100")
    assert "the best of 7" in row(found, "Evaluation", "chosen") and "over-fitted" in dict(found.sections["Evaluation"])


# ---- data ----


def test_data_is_described_by_its_manifest_and_without_its_paths(run_of, dataset):
    state = {"dataset_fingerprint": dataset.fingerprint, "corpus_fingerprint": dataset.corpus_fingerprint}
    found = card(run_of(state=state, data=dataset.path))
    assert found.data == ("python",)
    words = row(found, "Data", "python")
    assert f"train: {dataset.train.tokens:,} tokens" in words and f"{dataset.validation.tokens:,} tokens" in words
    assert dataset.corpus_fingerprint[:12] in words and str(dataset.path.parent) not in words


def test_data_that_is_gone_or_another_one_is_unknown(run_of, dataset, tmp_path):
    state = {"dataset_fingerprint": dataset.fingerprint, "corpus_fingerprint": "abcdef0123456789"}
    gone = row(card(run_of(state=state, data=tmp_path / "mine")), "Data", "mine")
    assert gone == ("tokens and documents unknown: its dataset is not where it was; corpus fingerprint abcdef012345")
    other = card(run_of(state={"dataset_fingerprint": "0" * 64}, name="other", data=dataset.path))
    assert row(other, "Data", "python") == "tokens and documents unknown: its dataset is another one by now"


def test_recipes_of_the_hub_are_named_and_others_inputs_are_not(run_of, dataset, tmp_path):
    def described(**recipe):
        data = tmp_path / recipe["name"]
        shutil.copytree(dataset.path, data)
        manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
        (data / "manifest.json").write_text(json.dumps(manifest | {"recipe": recipe}), encoding="utf-8")
        state = {"dataset_fingerprint": dataset.fingerprint}
        return card(run_of(state=state, name=f"run-{recipe['name']}", data=data))

    stories = described(name="tinystories", repository="roneneldan/TinyStories", revision="f54c09f", version="v2")
    assert (stories.hub_data, stories.language) == (("roneneldan/TinyStories",), "en")
    assert "roneneldan/TinyStories at commit f54c09f, version v2" in row(stories, "Data", "tinystories")
    own = described(name="files", input=["/home/me/secret.txt"], sample_prompt="secret words", tokenizer="/home/me/run")
    assert "secret" not in str(own.sections) + own.prompt and "/home" not in str(own.sections)
    assert (own.hub_data, own.language, own.prompt) == ((), None, "The ")
    assert described(name="python", sample_prompt="class Reader:\n").prompt == "class Reader:\n"


def test_a_mixture_is_described_by_all_its_parts(run_of, mixture, dataset, other_dataset):
    weights = (f"{dataset.path}=8", f"{other_dataset.path}=2")
    found = card(run_of(state={"dataset_fingerprint": mixture.fingerprint}, data=weights))
    assert found.data == ("python", "more")
    assert row(found, "Data", "python").startswith("80.0% of what was read; train: ")
    assert row(found, "Data", "more").startswith(f"20.0% of what was read; train: {other_dataset.train.tokens:,} ")


def test_a_mixture_is_named_by_its_parts_in_any_order(mixture, dataset, other_dataset):
    weighted = [(other_dataset.fingerprint, Fraction(2)), (dataset.fingerprint, Fraction(8))]
    assert mixed_fingerprint(weighted) == mixed_fingerprint(weighted[::-1]) == mixture.fingerprint
    assert mix_datasets([(other_dataset, Fraction(2)), (dataset, Fraction(8))]).fingerprint == mixture.fingerprint


def test_a_prompt_has_only_characters_of_the_vocabulary(tmp_path):
    run = saved_run(tmp_path, "run", tokenizer=Tokenizer.char("xyz", end_of_text=False))
    assert card(run).prompt == "x"


def test_stated_words_are_checked():
    assert Stated("cc-by-sa-4.0", "code")
    with pytest.raises(InputError, match="`language` xx-YY: is no code"):
        Stated(language="xx-YY")
