import json
import math
from dataclasses import replace

import pytest

from gpt.errors import InputError
from gpt.evaluation.baselines import Baselines, measure_baselines, write_baselines
from gpt.evaluation.windows import Windows
from gpt.tracking.plot import loss_figure
from gpt.training import baseline_rows as module
from gpt.training.baseline_rows import baseline_rows, keep_baselines

SMALL = Baselines({"unigrams": 4.5, "5-grams": 2.25}, 1.0, 100, 100, 1000, "fingerprint")


@pytest.fixture
def windows(dataset):
    return Windows(dataset.validation, 32, dataset.tokenizer.end_of_text)


def test_they_are_measured_once_and_again_for_other_data(tmp_path, dataset, windows, monkeypatch):
    first = keep_baselines(tmp_path, dataset, windows)
    assert json.loads((tmp_path / "baselines.json").read_text())["dataset"] == dataset.fingerprint
    monkeypatch.setattr(module, "measure_baselines", lambda *_: SMALL)
    assert keep_baselines(tmp_path, dataset, windows) == first == measure_baselines(dataset, windows)
    assert keep_baselines(tmp_path, replace(dataset, fingerprint="other"), windows) == SMALL


@pytest.mark.parametrize(
    "error", [InputError("a shard is gone"), OSError(28, "No space left on device"), MemoryError()]
)
def test_a_training_ends_well_without_them(tmp_path, dataset, windows, monkeypatch, error):
    def measure(*_):
        raise error

    monkeypatch.setattr(module, "measure_baselines", measure)
    assert keep_baselines(tmp_path, dataset, windows) is None
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_is_not_hidden(tmp_path, dataset, windows, monkeypatch):
    monkeypatch.setattr(module, "measure_baselines", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep_baselines(tmp_path, dataset, windows)


def test_rows_say_when_each_was_passed():
    records = [{"step": 0, "val_loss": 3.0, "val_bits_per_byte": 4.4}]
    [(name, words), (_, protocol)] = baseline_rows(SMALL, records)
    assert name == "without a network"
    assert words == "unigrams 4.5000 (passed before the first step), 5-grams 2.2500 (not passed) bits per byte"
    assert protocol == SMALL.protocol
    records.append({"step": 1000, "val_loss": 2.0, "val_bits_per_byte": 2.0})
    assert "5-grams 2.2500 (passed by step 1,000)" in baseline_rows(SMALL, records)[0][1]


def test_the_last_table_and_the_picture_show_them(finished, make_training, tiny_config, capsys):
    finished(tiny_config, "run")
    training = make_training(tiny_config, "run", resume=True)
    plain = loss_figure(training.run)
    assert plain.get_supxlabel() == ""
    training.report(draws=True)
    output = capsys.readouterr().out
    assert "without a network  unigrams " in output
    assert "bits per byte" in output
    assert (training.run / "baselines.json").exists()
    bits = training.state.last_validation_loss / math.log(2)
    for some in ({"unigrams": bits}, {"xz": 1000.0}, {"xz": 1000.0, "unigrams": bits, "5-grams": 0.0}):
        write_baselines(training.run, replace(SMALL, bits_per_byte=some))
        figure = loss_figure(training.run)
        [axes] = figure.axes
        drawn = {"unigrams"} & some.keys()  # the others are far above or below all losses
        assert len(axes.lines) == len(plain.axes[0].lines) + len(drawn)
        assert {text.get_text() for text in axes.texts} == drawn
        assert all(f"{name} {value:.4f} (" in figure.get_supxlabel() for name, value in some.items())
        [right] = axes.child_axes
        assert right.get_ylabel() == "bits per byte"
        figure.canvas.draw()
        assert right.get_ylim() == pytest.approx([loss / math.log(2) for loss in axes.get_ylim()])
