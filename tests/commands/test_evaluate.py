"""`gpt eval`, as a person calls it."""

import json
import re
import zipfile
from dataclasses import replace
from unittest import mock

import pytest
import torch
from helpers import SHAPE, in_process, run_gpt, run_sample, write_dataset
from instruction_files import lines_of, made

from gpt import GPT
from gpt.__main__ import main as gpt_main
from gpt.dataset.dataset import SPLITS, open_dataset
from gpt.runs.checkpoint import list_checkpoints, step_of
from gpt.runs.directory import read_config, write_config
from gpt.text.tokenizer import Tokenizer
from gpt.tracking.jsonl import read_metrics


def evaluate(*arguments, cwd, code=0):
    return run_gpt(cwd, "eval", "--device", "cpu", *arguments, code=code)


@pytest.fixture
def runs(finished, tiny_config):
    """Two runs of the same data, the second with a third of the context."""
    shorter = replace(tiny_config, seed=1, model=replace(tiny_config.model, context_length=16))
    return [finished(tiny_config, "one"), finished(shorter, "two")]


def test_a_figure_names_its_protocol_and_that_it_was_chosen(runs, tmp_path):
    output = evaluate("--run", runs[0], cwd=tmp_path)
    assert re.search(r"validation loss  \d\.\d{4} ± 0\.\d{4} nats per token \(95 %: \d\.\d{4} to \d\.\d{4}\)", output)
    assert "protocol         context 32, stride 32, weights float32, arithmetic float32" in output
    assert "chosen           the best of 3 evaluations on this split" in output
    assert "standard errors  of 10 documents, taken as independent" in output
    part = evaluate("--run", runs[0], "--tokens", 640, cwd=tmp_path)
    assert "of the validation split, spread evenly" in part


def test_a_run_on_several_datasets_is_evaluated_on_the_one_that_is_named(make_mixed, mixed_config, mixture, tmp_path):
    training = make_mixed(replace(mixed_config, steps=2))
    training.fit()
    paths = ", ".join(str(source.dataset.path) for source in mixture.sources)
    said = evaluate("--run", training.run, cwd=tmp_path, code=2)
    assert f"was trained on several datasets ({paths}): name one of them with --data" in said
    path = mixture.sources[1].dataset.path
    found = json.loads(evaluate("--run", training.run, "--data", path, "--json", cwd=tmp_path))["runs"][0]["evaluation"]
    recorded = read_metrics(training.run)[-1]
    assert found["loss"] == pytest.approx(recorded["val_loss/more"], rel=1e-6)


def test_a_stride_changes_the_context_and_not_what_is_predicted(runs, tmp_path):
    """That the loss is lower holds for models that have learned to use context; these, of 30 steps, have not."""
    found = {
        stride: json.loads(evaluate("--run", runs[0], "--stride", stride, "--json", cwd=tmp_path))["runs"][0]
        for stride in (32, 4)
    }
    assert found[4]["evaluation"]["loss"] != found[32]["evaluation"]["loss"]
    assert found[4]["evaluation"]["tokens"] == found[32]["evaluation"]["tokens"]
    assert "--stride is 33; it must be from 1 to" in evaluate("--run", runs[0], "--stride", 33, cwd=tmp_path, code=2)
    assert "--tokens is 0" in evaluate("--run", runs[0], "--tokens", 0, cwd=tmp_path, code=2)


def test_runs_are_compared_pairwise(runs, tmp_path):
    arguments = ("--run", runs[0], "--against", runs[1], runs[0])
    found = json.loads(evaluate(*arguments, "--json", cwd=tmp_path))["runs"]
    first, other, same = (entry["evaluation"] for entry in found)
    difference = found[1]["minus_the_first"]
    for name in ("loss", "bits_per_byte"):
        assert difference[name]["value"] == pytest.approx(other[name] - first[name])
        assert difference[name]["se"] < max(first[f"{name}_se"], other[f"{name}_se"])
        assert found[2]["minus_the_first"][name]["value"] == 0
    assert same == first
    output = evaluate(*arguments, cwd=tmp_path)
    verdict = rf"(better than|worse than|cannot be told from) {runs[0]}"
    assert re.search(rf"difference +[+-]0\.\d+ ± 0\.\d+ bits per byte .*: {verdict}", output)


def test_the_stride_is_that_of_transformers_loop(model, dataset, tmp_path):
    """The loop of its documentation on perplexity, the loss of each window weighed by what it predicts."""
    from transformers import GPT2LMHeadModel

    from gpt.interop.huggingface_export import export

    export(model, dataset.tokenizer, tmp_path / "exported")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "exported").eval()
    split = open_dataset(dataset.path).validation
    ids = torch.from_numpy(split.read(0, split.tokens))[None]
    context_length, stride, nats, count, previous_end = model.config.context_length, 20, 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + context_length, ids.size(1))
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous_end)] = -100
        predicted = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += theirs(ids[:, begin:end], labels=labels).loss.item() * predicted
        count, previous_end = count + predicted, end
        if end == ids.size(1):
            break
    options = ("--run", tmp_path / "exported", "--data", dataset.path, "--stride", stride, "--json")
    found = json.loads(evaluate(*options, cwd=tmp_path))["runs"][0]
    assert found["evaluation"]["tokens"] == count == split.tokens - 1
    assert found["evaluation"]["loss"] == pytest.approx(nats / count, rel=1e-6)
    assert found["best_of"] == 0


def test_data_that_has_changed_since_is_said(runs, tmp_path, dataset, said):
    """As what validates now may have been trained on; not where other data is named on purpose."""
    evaluate("--run", runs[0], cwd=tmp_path)
    assert not [line for line in said if "is not what" in line]
    config = read_config(runs[0])
    documents = [(split, f"def {split}(x): return x\n" * 40) for split in SPLITS]
    other = write_dataset(documents, "bytes", tmp_path / "x")
    said.clear()
    write_config(runs[0], replace(config, data=other.path))
    evaluate("--run", runs[0], cwd=tmp_path)
    assert "is not what" in said[0]
    evaluate("--run", runs[0], "--data", other.path, cwd=tmp_path)
    assert len([line for line in said if "is not what" in line]) == 1


def test_a_checkpoint_can_be_named_and_is_then_not_chosen_by_its_loss(runs, tmp_path):
    steps = [step_of(path) for path in list_checkpoints(runs[0])]
    found = {}
    for wanted in ("best", "last", steps[0]):
        options = ("--run", runs[0], "--checkpoint", wanted, "--json")
        (found[wanted],) = json.loads(evaluate(*options, cwd=tmp_path))["runs"]
    assert found["last"]["source"] == f"{runs[0]}, step {steps[-1]}"
    assert found[steps[0]]["source"] == f"{runs[0]}, step {steps[0]}"
    assert found[steps[0]]["evaluation"]["loss"] > found["best"]["evaluation"]["loss"]
    assert [found[wanted]["best_of"] for wanted in ("best", "last", steps[0])] == [3, 0, 0]
    refused = evaluate("--run", runs[0], "--checkpoint", "7", cwd=tmp_path, code=2)
    assert f"--checkpoint 7: {runs[0]} has best, last and the steps {', '.join(map(str, steps))}" in refused


def test_the_newest_run_is_named_where_none_was(runs, tmp_path, said):
    (tmp_path / "runs").mkdir()
    runs[0].rename(tmp_path / "runs" / "one")
    evaluate(cwd=tmp_path)
    assert any(re.fullmatch(r"using runs/one, step \d+", line) for line in said)


@pytest.fixture
def texts(trained_run, tmp_path):
    """Documents, a dataset of which they are the validation split, and what a run makes of that."""
    texts = [f"def f{number}(x):\n    return x + {number}\n" * 5 + "# Größe\n" for number in range(12)]
    pieces = [("train", "something else " * 40), *(("validation", text) for text in texts)]
    path = write_dataset(pieces, "bytes", tmp_path / "same").path
    found = json.loads(evaluate("--run", trained_run, "--data", path, "--json", cwd=tmp_path))
    return texts, found["runs"][0]["evaluation"]


@pytest.mark.parametrize("kind", ["files", "utf-16", "latin-1", "jsonl", "separators", "zip"])
def test_a_text_is_evaluated_like_a_dataset_of_which_it_is_the_validation_split(texts, trained_run, tmp_path, kind):
    texts, expected = texts
    given, options = tmp_path / "texts", []
    if kind in ("files", "utf-16", "latin-1", "zip"):
        given.mkdir()
        for number, text in enumerate(texts):
            (given / f"{number:02}.txt").write_text(text, encoding=kind if "-" in kind else "utf-8")
        options = ["--encoding", kind] if kind == "latin-1" else []
    if kind == "zip":
        with zipfile.ZipFile(given.with_suffix(".zip"), "w") as archive:
            for file in sorted(given.iterdir()):
                archive.write(file, file.name)
        given = given.with_suffix(".zip")
    elif kind == "jsonl":
        given = given.with_suffix(".jsonl")
        given.write_text("\n".join(json.dumps({"doc": {"body": text}}) for text in texts))
        options = ["--field", "doc.body"]
    elif kind == "separators":
        given.write_text("#####".join(texts))
        options = ["--separator", "#####"]
    output = evaluate("--run", trained_run, "--text", given, *options, "--json", cwd=tmp_path)
    found = json.loads(output)
    assert found["runs"][0]["evaluation"] == expected
    assert (found["data"], found["runs"][0]["best_of"]) == (str(given), 0)


def test_a_text_is_called_one_in_the_table(texts, trained_run, tmp_path):
    (tmp_path / "a.txt").write_text(texts[0][0])
    (tmp_path / "b.txt").write_text(texts[0][1])
    output = evaluate("--run", trained_run, "--text", "a.txt", "b.txt", cwd=tmp_path)
    assert re.match(rf"{trained_run}, step \d+, on a\.txt b\.txt\ntext loss +\d\.\d+", output)
    assert output.count("bits per byte") == 1 and ": the whole text\n" in output
    assert "chosen" not in output and "validation" not in output
    part = evaluate("--run", trained_run, "--text", "a.txt", "--tokens", 32, cwd=tmp_path)
    assert "of the text, spread evenly" in part


def test_a_text_shorter_than_a_window_is_evaluated(trained_run, tmp_path):
    (tmp_path / "a.txt").write_text("def f")
    found = json.loads(evaluate("--run", trained_run, "--text", "a.txt", "--json", cwd=tmp_path))["runs"][0]
    assert (found["evaluation"]["tokens"], found["evaluation"]["text_bytes"]) == (5, 4)


def test_runs_of_other_tokenizers_are_compared_on_a_text(model, bpe, trained_run, tmp_path):
    from gpt.interop.huggingface_export import export
    from gpt.model.transformer import GPT

    other = GPT(replace(model.config, vocab_size=bpe.vocab_size))
    export(other, bpe, tmp_path / "other")
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(f"def f{number}(x):\n    return x + {number}\n" * (number + 3))
    given = [f"{number}.txt" for number in range(6)]
    arguments = ("--run", trained_run, "--against", tmp_path / "other", "--text", *given, "--json")
    _, two = json.loads(evaluate(*arguments, cwd=tmp_path))["runs"]
    alone = json.loads(evaluate("--run", tmp_path / "other", "--text", *given, "--json", cwd=tmp_path))["runs"][0]
    assert two["evaluation"]["bits_per_byte"] == pytest.approx(alone["evaluation"]["bits_per_byte"], rel=0.01)
    assert set(two["minus_the_first"]) == {"bits_per_byte"}


def test_a_text_that_cannot_be_evaluated_is_refused(trained_run, dataset, model, tmp_path):
    from gpt.interop.huggingface_export import export
    from gpt.model.transformer import GPT

    (tmp_path / "blank.txt").write_text("  \n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cafe.txt").write_text("un café")
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "old.txt").write_bytes("Größe und Maß ".encode("latin-1") * 20)
    (tmp_path / "x.jsonl").write_text('{"a": "b"}')
    characters = Tokenizer.char("abcdefgu n", end_of_text=False)
    export(GPT(replace(model.config, vocab_size=characters.vocab_size)), characters, tmp_path / "char")
    for run, options, message in (
        (trained_run, ["blank.txt"], "--text: has fewer than 2 tokens, so that none can be predicted; give more text"),
        (trained_run, ["empty"], "--text: has fewer than 2 tokens"),
        (trained_run, ["none.txt"], "none.txt: does not exist"),
        (trained_run, ["old.txt"], "give it by --encoding cp1252"),
        (trained_run, ["x.jsonl"], "--field"),
        (trained_run, ["cafe.txt", "--data", dataset.path], "--data and --text: each says what to evaluate on"),
        (tmp_path / "char", ["one.txt"], "--text: has fewer than 2 tokens"),
        (
            tmp_path / "char",
            ["cafe.txt"],
            "cafe.txt: the text has 1 character(s) that this vocabulary of 10 characters",
        ),
    ):
        assert message in evaluate("--run", run, "--text", *options, cwd=tmp_path, code=2), message
    assert "say how to read --text" in evaluate("--run", trained_run, "--field", "a", cwd=tmp_path, code=2)
    refused = evaluate("--run", trained_run, "--data", "cafe.txt", cwd=tmp_path, code=2)
    assert "--data cafe.txt: is a file, and no dataset; to evaluate on a text, give it by --text" in refused


def test_what_is_no_run_is_called_what_it_is(runs, dataset, tmp_path):
    for path, message in (
        (dataset.path, "is a dataset"),
        (list_checkpoints(runs[0])[0], f"is a checkpoint of the run {runs[0]}"),
        (runs[0] / "metrics.jsonl", f"is part of the run {runs[0]}"),
    ):
        assert message in evaluate("--run", path, cwd=tmp_path, code=2)


def test_a_mistyped_run_is_no_hugging_face_model(runs, tmp_path):
    refused = evaluate("--run", f"{runs[0]}x", cwd=tmp_path, code=2)
    assert f"is no run; did you mean {runs[0]}?" in refused


def test_gpt_eval_gives_what_training_found(trained):
    home, output = trained
    evaluated = run_gpt(home, "eval", "--run", "runs/python-nano", "--device", "cpu")
    loss = re.search(r"validation loss +([\d.]+ ± [\d.]+) nats", evaluated)
    assert loss
    assert loss[1] in output


def test_float16_and_int8_are_near_float32(trained):
    home, _ = trained
    losses = {}
    for dtype in ("float32", "float16", "int8"):
        output = run_gpt(home, "eval", "--run", "runs/python-nano", "--device", "cpu", "--dtype", dtype, "--json")
        losses[dtype] = json.loads(output)["runs"][0]["evaluation"]["loss"]
        assert run_sample(home, "--prompt", "def ", "--max-tokens", 6, "--dtype", dtype)
    assert len({*losses.values()}) == 3
    assert losses["float16"] == pytest.approx(losses["float32"], rel=1e-4)
    assert losses["int8"] == pytest.approx(losses["float32"], rel=0.005)


def test_a_run_is_found_by_its_name_and_the_next_command_is_said(runs, tmp_path):
    (tmp_path / "runs").mkdir()
    runs[0].rename(tmp_path / "runs" / "one")
    for arguments, said in ((("--run", "one"), "sample from it: gpt sample --run runs/one\n"), (("--json",), "")):
        with mock.patch("sys.argv", ["gpt", "eval", "--device", "cpu", *arguments]):
            code, output, errors = in_process(gpt_main, tmp_path)
        assert code == 0
        assert "one, step " in output and "gpt sample" not in output
        assert errors.endswith(said) and ("gpt sample" in errors) == bool(said)


def test_answers_are_not_encoded_anew_for_another_tokenizer(bpe, tmp_path):
    """The mask beside the ids would be lost, and prompts would count."""
    from gpt.interop.huggingface_export import export

    (tmp_path / "a.jsonl").write_text("\n".join(lines_of(80)))
    data = made(tmp_path)
    for name, tokenizer in (("bytes", data.tokenizer), ("bpe", bpe)):
        export(GPT(replace(SHAPE, vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path / name)
    output = evaluate("--run", "bytes", "--data", data.path, cwd=tmp_path)
    assert "stride 48, answers only" in output
    options = ("--run", "bytes", "--against", "bpe", "--data", data.path)
    said = evaluate(*options, cwd=tmp_path, code=2)
    assert "d: is of prompts and answers, and bpe has another tokenizer; prepare the data with that one" in said
