import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import python_text, write_dataset

from gpt import GPT, InputError
from gpt.evaluation.compare import Measured, PairedPieces, bits_difference, bits_of
from gpt.evaluation.loss import sums_per_piece
from gpt.evaluation.statistics import student_t
from gpt.evaluation.windows import Windows
from gpt.presets import preset
from gpt.tuning.judging import Judge, freedom_of, middle_of, over_seeds, same_documents, text_sums

DOCUMENTS = [python_text()[start : start + 150 + start % 97] for start in range(0, 6000, 300)]


def texts(home, name, tokenizer, documents=DOCUMENTS):
    """A dataset whose validation split is these documents."""
    return write_dataset(
        [("train", python_text()[7000:9000]), *(("validation", text) for text in documents)], tokenizer, home / name
    )


@pytest.fixture
def config(tiny_config):
    return tiny_config


def made(dataset, windows, seed):
    """What random weights make of windows."""
    torch.manual_seed(seed)
    model = GPT(replace(preset("nano").model, n_embd=16, n_head=2, context_length=32, ngram=1, vocab_size=600))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    sums = sums_per_piece(model.eval(), windows, dataset.tokenizer.byte_lengths(), "cpu", torch.float32, 16)
    return Measured(sums.numpy(), windows)


def bits(measured, chosen):
    """Bits per byte of some of the pieces, plainly."""
    nats, _, size = measured.sums[chosen].sum(axis=0)
    return nats / math.log(2) / size


def test_the_two_halves_are_all_of_the_text_and_end_with_documents(dataset, config):
    judge = Judge([dataset], config, 10**9)
    windows = judge.windows_of(config)
    assert windows.is_complete
    one, two = made(dataset, windows, 0), made(dataset, windows, 1)
    [middle] = {judge._halves["chooses"].stop, judge._halves["reports"].start}
    assert windows.documents[middle - 1] < windows.documents[middle]
    sizes = one.sums[:, 2]
    assert 0.4 < sizes[:middle].sum() / sizes.sum() < 0.6
    for half, chosen in (("chooses", slice(None, middle)), ("reports", slice(middle, None))):
        assert judge.bits([one], half) == pytest.approx(bits(one, chosen))
        found = judge.difference([one], [two], half)
        assert found.value == pytest.approx(bits(two, chosen) - bits(one, chosen))
        assert found.standard_error > 0


def test_halves_of_few_tokens_are_spread_evenly_like_an_evaluation(dataset, config):
    judge = Judge([dataset], config, 800)
    windows = judge.windows_of(config)
    assert len(windows) == 800 // 32
    assert np.array_equal(
        windows.begins, Windows(dataset.validation, 32, dataset.tokenizer.end_of_text, tokens=800).begins
    )


@pytest.mark.parametrize(
    ("sizes", "documents", "wanted"),
    [
        ([1, 1, 1, 1], [0, 0, 0, 0], 2),
        ([1, 1, 1, 1], [0, 1, 2, 3], 2),
        ([10, 10, 6, 1, 13, 10], [0, 0, 0, 0, 1, 1], 4),  # not at 50 %, but where a document ends
        ([10, 10, 10, 10, 10, 50], [0, 1, 1, 1, 1, 1], 5),  # which ends too far away
        ([3, 100, 2], [0, 1, 2], 1),
    ],
)
def test_the_middle_of_a_text(sizes, documents, wanted):
    assert middle_of(np.array(sizes, dtype=float), np.array(documents)) == wanted


def test_what_is_counted_without_a_model_is_what_an_evaluation_counts(short_documents):
    windows = Windows(short_documents.validation, 16, short_documents.tokenizer.end_of_text)
    found = text_sums(windows, short_documents.tokenizer.byte_lengths())
    assert np.array_equal(found[:, 1:], made(short_documents, windows, 0).sums[:, 1:])
    assert not found[:, 0].any()


# ---- several vocabularies ----


def test_vocabularies_are_compared_on_the_same_documents(tmp_path, bpe, config):
    """By all of their bytes, whatever their tokens; the first token of all is predicted by neither."""
    datasets = [texts(tmp_path, "one", "bytes"), texts(tmp_path, "two", bpe)]
    judge = Judge(datasets, config, 10**9)
    measured = [made(dataset, judge.windows[dataset.path], seed) for seed, dataset in enumerate(datasets)]
    whole = bits_difference(*measured, same_tokenizer=False)
    parts = [judge.difference([measured[0]], [measured[1]], half) for half in ("chooses", "reports")]
    assert min(part.value for part in parts) <= whole.value <= max(part.value for part in parts)
    assert all("documents" in part.spread.units for part in parts)
    begins = [np.flatnonzero(np.diff(one.windows.documents, prepend=-1)) for one in measured]
    middle = judge._halves["chooses"].stop
    for half, chosen in (("chooses", slice(None, middle)), ("reports", slice(middle, None))):
        plain = [
            bits(Measured(np.add.reduceat(one.sums, begin), None), chosen)
            for one, begin in zip(measured, begins, strict=True)
        ]
        assert judge.difference([measured[0]], [measured[1]], half).value == pytest.approx(plain[1] - plain[0])
    for path in (0, 1):
        config_of = replace(config, data=datasets[path].path)
        assert judge.windows_of(config_of) is judge.windows[datasets[path].path]


def test_a_part_of_the_documents_is_the_same_of_each(tmp_path, bpe):
    datasets = [texts(tmp_path, "one", "bytes"), texts(tmp_path, "two", bpe)]
    one, two = same_documents(datasets, 3500)
    shown = [
        dataset.tokenizer.decode([id for id in split.read(0, split.tokens).tolist() if id != end])
        for dataset, split in zip(datasets, (one, two), strict=True)
        for end in [dataset.tokenizer.end_of_text]
    ]
    assert shown[0] == shown[1] != ""
    chosen = [text for text in DOCUMENTS if text in shown[0]]
    assert 16 < len(chosen) < len(DOCUMENTS) and "".join(chosen) == shown[0]
    assert one.tokens <= 3700
    fewest, _ = same_documents(datasets, 1)  # which are sixteen
    assert np.count_nonzero(fewest.read(0, fewest.tokens) == datasets[0].tokenizer.end_of_text) == 15
    assert DOCUMENTS[0] in chosen and any(text in chosen for text in DOCUMENTS[-6:])  # spread evenly


def test_other_texts_are_refused(tmp_path, bpe, config):
    one, other = texts(tmp_path, "one", "bytes"), texts(tmp_path, "two", bpe, [*DOCUMENTS[:-1], "x" * 200])
    with pytest.raises(InputError, match=r"two: its validation split is not the text of .*one; prepare both from the"):
        Judge([one, other], config, 10**9)


def test_prompts_and_answers_have_no_vocabularies_to_compare(dataset, config):
    masked = SimpleNamespace(path="data/asked", validation=SimpleNamespace(is_masked=True))
    with pytest.raises(InputError, match="data/asked: is of prompts and answers, whose vocabularies cannot be"):
        same_documents([masked, dataset], 100)


@pytest.mark.parametrize(("several", "words"), [(False, "windows"), (True, "documents, by which vocabularies")])
def test_too_little_text_is_refused(tmp_path, bpe, config, several, words):
    few = ["a = 1\n" * 20] if not several else ["a = 1\n" * 90, "b = 2\n" * 90]
    datasets = [texts(tmp_path, "one", "bytes", few), texts(tmp_path, "two", bpe, few)]
    with pytest.raises(InputError, match=f"has too little text to tell candidates apart: a half of it has . {words}"):
        Judge(datasets[: 1 + several], config, 10**9)


# ---- several seeds ----


def pairs(generator, seeds, pieces=60, truth=0.02, of_text=0.05, of_seed=0.02):
    """Pieces of two models, seed by seed: one is better by `truth`, another amount in each piece and with each seed."""
    sizes = np.full(pieces, 100.0)
    by_piece = generator.normal(truth, of_text, size=pieces)
    found = []
    for shift in generator.normal(0, of_seed, size=seeds):
        first, other = np.full(pieces, 2.0), 2.0 - by_piece - shift
        columns = [np.stack([sizes * each * math.log(2), sizes, sizes], axis=1) for each in (first, other)]
        found.append(PairedPieces(*columns, np.arange(pieces) * 100, np.arange(pieces)))
    return found


def test_the_error_of_several_seeds_is_that_of_the_text_and_that_of_the_seeds():
    several = pairs(np.random.default_rng(0), 3)
    found, each = over_seeds(several), [bits_of(pair) for pair in several]
    assert found.value == pytest.approx(np.mean([one.value for one in each]))
    of_text = each[0].standard_error  # the same of all, as a seed shifts all pieces alike here
    of_seeds = np.std([one.value for one in each], ddof=1) / math.sqrt(3)
    assert found.standard_error == pytest.approx(math.hypot(of_text, of_seeds))
    halves = [each[0].half_width, 4.303 * of_seeds]  # Student's t of two degrees of freedom
    assert found.half_width == pytest.approx(math.hypot(*halves), rel=0.01)
    assert found.spread.units == "60 documents, and 3 seeds"


@pytest.mark.parametrize("freedom", [1.5, 2, 7, 40])
def test_degrees_of_freedom_are_found_by_their_quantile(freedom):
    assert freedom_of(student_t(freedom)) == pytest.approx(freedom)


def test_one_seed_has_the_error_of_the_text():
    [pair] = pairs(np.random.default_rng(1), 1)
    assert over_seeds([pair]) == bits_of(pair)


@pytest.mark.parametrize("of_seed", [0.0, 0.005, 0.02])
def test_the_interval_over_seeds_covers(of_seed):
    generator, held = np.random.default_rng(2), []
    for _ in range(600):
        found = over_seeds(pairs(generator, 3, of_seed=of_seed))
        held.append(abs(found.value + 0.02) <= found.half_width)
    assert 0.93 <= np.mean(held) <= 0.995


def test_where_seeds_are_left_out_it_does_not_cover():
    """So that the test above can fail."""
    generator, held = np.random.default_rng(3), []
    for _ in range(300):
        found = bits_of(pairs(generator, 1, of_seed=0.02)[0])
        held.append(abs(found.value + 0.02) <= found.half_width)
    assert np.mean(held) < 0.75
