import matplotlib.figure
import pytest
from helpers import run_sample

import gpt
from gpt import InputError, Run, load_run
from gpt.model.transformer import empty_model


@pytest.fixture
def run(trained_run):
    return load_run(trained_run, device="cpu")


def test_it_continues_a_prompt_as_the_command_does(run, tmp_path):
    expected = run_sample(tmp_path, "--run", run.path, "--prompt", "def ", "--max-tokens", 20, "--seed", 3)
    assert run.generate("def ", max_tokens=20, seed=3) == expected.removesuffix("\n").removeprefix("def ")
    assert run.generate(max_tokens=5, temperature=0.0) == run.generate(max_tokens=5, temperature=0.0)


def test_a_stop_text_ends_it(run):
    whole = run.generate("def ", max_tokens=30, seed=3)
    for stop in ([whole[5:8]], whole[5:8]):
        assert run.generate("def ", stop=stop, max_tokens=30, seed=3) == whole[: whole.index(whole[5:8])]


def test_an_unknown_setting_is_named_and_so_is_a_wrong_one(run):
    with pytest.raises(InputError, match="`temprature` is no setting of sampling; there are max_tokens"):
        run.generate("def ", temprature=1.0)
    with pytest.raises(InputError, match="`temperature`"):
        run.generate("def ", temperature=-1.0)


def test_what_it_is_fits_on_a_line(run, dataset, mixture, bpe):
    assert repr(run).startswith(f"Run({run.path}, step ")
    assert "1 layers of 32, context 32, vocabulary 257, validation loss " in repr(run)
    train, validation = dataset.train.tokens, dataset.validation.tokens
    words = f"{train:,} tokens to train and {validation:,} to validate"
    assert repr(dataset) == f"Dataset({dataset.path}: {words}, Tokenizer(bytes, 257 ids))"
    assert repr(mixture).startswith(f"Dataset({mixture.path}: ")
    assert repr(bpe) == "Tokenizer(bpe, 600 ids)"
    assert all("\n" not in repr(thing) for thing in (run, dataset, mixture, bpe))
    shown = repr(empty_model(gpt.ModelConfig()))
    assert "124,439,808 parameters, 12 layers of 768, context 1,024, vocabulary 50,257" in shown
    assert "(attention)" in shown  # the modules, as torch lists them


def test_its_losses_are_a_figure(run):
    figure = run.plot_losses()
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "training batch" in {text.get_text() for text in figure.axes[0].get_legend().get_texts()}


def test_a_hugging_face_model_generates_and_has_no_losses(run, tmp_path):
    from gpt.interop.huggingface_export import export

    export(run.model, run.tokenizer, tmp_path / "exported")
    theirs = load_run(tmp_path / "exported", device="cpu")
    assert isinstance(theirs, Run)
    assert theirs.generate("def ", max_tokens=9, temperature=0.0) == run.generate("def ", max_tokens=9, temperature=0.0)
    assert "validation loss" not in repr(theirs)
    with pytest.raises(InputError, match="is no run, and has no record of its losses"):
        theirs.plot_losses()
