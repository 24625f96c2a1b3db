import lzma
import math
from dataclasses import replace

import numpy as np
import pytest

from gpt.dataset.shards import MemorySplit
from gpt.errors import InputError
from gpt.evaluation import baselines
from gpt.evaluation.baselines import measure_baselines, passed, read_baselines, write_baselines
from gpt.evaluation.ngram_model import NgramCounts
from gpt.evaluation.windows import Windows


def windows_of(dataset, context=32, **options):
    return Windows(dataset.validation, context, dataset.tokenizer.end_of_text, **options)


def text_of(dataset, ids):
    return b"".join(dataset.tokenizer.token_bytes(id) for id in ids if id != dataset.tokenizer.end_of_text)


def test_they_are_those_of_the_whole_split(dataset):
    train = dataset.train.read(0, dataset.train.tokens)
    ids = dataset.validation.read(0, dataset.validation.tokens)
    text = text_of(dataset, ids[1:])  # nothing predicts the first one
    found = measure_baselines(dataset, windows_of(dataset))
    for name, order in (("unigrams", 1), ("bigrams", 2), ("5-grams", 5)):
        nats = -np.log(NgramCounts(train, 257, 5).probabilities(ids, order)[1:]).sum()
        assert math.isclose(found.bits_per_byte[name], nats / math.log(2) / len(text), rel_tol=1e-12)
        assert math.isclose(found.nats_per_token(found.bits_per_byte[name]), nats / (len(ids) - 1), rel_tol=1e-12)
    before = text_of(dataset, train)
    more = len(lzma.compress(before + text)) - len(lzma.compress(before))
    assert found.bits_per_byte["xz"] == 8 * more / len(text)
    assert sorted(found.bits_per_byte.values(), reverse=True) == list(found.bits_per_byte.values())
    assert "counted in the training tokens" in found.protocol


def test_more_context_predicts_text_better(dataset):
    found = measure_baselines(dataset, windows_of(dataset)).bits_per_byte
    assert found["5-grams"] < found["bigrams"] < found["unigrams"] < 8


def test_what_windows_predict_alone_counts_and_of_many_some_do(dataset, monkeypatch):
    ids = dataset.validation.read(0, dataset.validation.tokens)
    asked = []
    monkeypatch.setattr(NgramCounts, "probabilities", lambda _, ids, order: asked.append(ids) or np.full(len(ids), 0.5))
    some = windows_of(dataset, tokens=200)
    found = measure_baselines(dataset, some)
    targets = [ids[first : last + 1] for first, last in zip(some.firsts, some.lasts, strict=True)]
    size = sum(len(text_of(dataset, part)) for part in targets)
    assert math.isclose(found.bits_per_byte["unigrams"], some.targets / size)
    read = len(asked[0])
    monkeypatch.setattr(baselines, "MOST_PREDICTED", some.targets // 2)
    measure_baselines(dataset, some)
    assert 0 < len(asked[-1]) < read


def test_of_much_training_text_the_first_part_is_counted_and_its_end_is_compressed(dataset, monkeypatch):
    monkeypatch.setattr(baselines, "MOST_TRAINING", 1000)
    monkeypatch.setattr(baselines, "MOST_COMPRESSED", 300)
    compressed = []
    monkeypatch.setattr(baselines, "_compressed_size", lambda text: compressed.append(text) or len(text))
    found = measure_baselines(dataset, windows_of(dataset))
    assert (found.training_tokens, found.split_tokens) == (1000, dataset.train.tokens)
    assert "counted in the first 1,000 training tokens" in found.protocol
    shorter = min(compressed, key=len)
    assert len(shorter) <= 300
    assert text_of(dataset, dataset.train.read(0, 1000)).endswith(shorter)


def test_a_predicted_token_is_seen_after_those_before_its_window(dataset):
    """Short windows and long ones give the same figures, as n-grams reach over their edges."""
    one, other = (measure_baselines(dataset, windows_of(dataset, context)) for context in (16, 128))
    for name in ("unigrams", "bigrams", "5-grams"):
        assert math.isclose(one.bits_per_byte[name], other.bits_per_byte[name], rel_tol=1e-12)


def test_what_has_no_baselines_is_refused(dataset, mixture):
    with pytest.raises(InputError, match="baselines are of one dataset of plain text"):
        measure_baselines(mixture, windows_of(mixture))
    with pytest.raises(InputError, match="training split is too short to count n-grams in"):
        measure_baselines(replace(dataset, train=MemorySplit("train", np.arange(4))), windows_of(dataset))
    end = dataset.tokenizer.end_of_text
    silent = replace(dataset, validation=MemorySplit("validation", np.full(40, end)))
    with pytest.raises(InputError, match="its validation split has no text"):
        measure_baselines(silent, windows_of(silent))


def test_they_are_kept_in_a_run_for_its_data_alone(dataset, tmp_path):
    assert read_baselines(tmp_path) is None
    found = measure_baselines(dataset, windows_of(dataset))
    write_baselines(tmp_path, found)
    assert read_baselines(tmp_path) == read_baselines(tmp_path, dataset.fingerprint) == found
    assert read_baselines(tmp_path, "of other data") is None


@pytest.mark.parametrize("content", ["", "{}", '{"bits_per_byte": 1}', "[1]"])
def test_a_damaged_file_is_as_none(tmp_path, content):
    (tmp_path / "baselines.json").write_text(content)
    assert read_baselines(tmp_path) is None


def test_a_baseline_is_passed_by_the_first_evaluation_that_is_better(dataset):
    found = replace(
        measure_baselines(dataset, windows_of(dataset)), bits_per_byte={"unigrams": 4.0, "xz": 3.0, "5-grams": 2.0}
    )
    losses = {0: 5.0, 10: 3.5, 20: 3.6, 30: 2.5}
    records = [{"step": step, "val_loss": 1.0, "val_bits_per_byte": bits} for step, bits in losses.items()]
    records += [{"step": 31, "train_loss": 0.1}, {"step": 40, "val_loss": None, "val_bits_per_byte": None}]
    assert [*passed(found, records)] == [("unigrams", 4.0, 10), ("xz", 3.0, 30), ("5-grams", 2.0, None)]
