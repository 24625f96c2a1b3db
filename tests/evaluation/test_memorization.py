import random

import pytest
from helpers import random_text, write_dataset

from gpt.evaluation import memorization
from gpt.evaluation.memorization import BY_HEART, find_copies, longest_copies


def reference(samples, text):
    """(longest stretch of any sample in the text, samples with one of 100 characters), by looking at all of them."""

    def longest(sample):
        return max(
            (j - i for i in range(len(sample)) for j in range(i + 1, len(sample) + 1) if sample[i:j] in text), default=0
        )

    lengths = [longest(sample) for sample in samples]
    return max(lengths, default=0), sum(length >= BY_HEART for length in lengths)


@pytest.mark.parametrize("alphabet", ["ab", "a", "abcdefgh ", "äжあ𝔘"])
def test_stretches_are_those_that_a_search_of_all_finds(alphabet):
    rng = random.Random(alphabet)
    for _ in range(10):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 400)))
        samples = ["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(rng.randint(0, 4))]
        place = rng.randint(0, len(text))
        samples.append("x" * rng.randint(0, 5) + text[place : place + rng.randint(0, 130)] + "y")
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        chunks = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert longest_copies(samples, chunks) == reference(samples, text)


def test_a_copied_passage_is_found_wherever_chunks_end(tmp_path, monkeypatch):
    text = random_text(random.Random(1), 5000)
    documents = [("train", text), ("validation", text[::-1])]
    dataset = write_dataset(documents, "bpe:300", tmp_path / "data")
    monkeypatch.setattr(memorization, "CHUNK_TOKENS", 7)
    clean = dataset.tokenizer.decode(dataset.tokenizer.encode(text))
    copies = find_copies([clean[1000:1150] + "\x07", "\x07" * 300, clean[5:104]], dataset.train, dataset.tokenizer)
    assert (copies.longest, copies.by_heart, copies.samples, copies.searched) == (150, 1, 3, 1.0)


def test_of_a_large_text_pieces_from_all_over_it_are_searched(tmp_path, monkeypatch):
    text = "".join(f"line {i} says {i * i}\n" for i in range(2000))
    documents = [("train", text), ("validation", text[:500])]
    dataset = write_dataset(documents, "bytes", tmp_path / "data")
    monkeypatch.setattr(memorization, "CHUNK_TOKENS", 100)
    monkeypatch.setattr(memorization, "SEARCHED_TOKENS", dataset.train.tokens // 4)
    copies = find_copies([text[:2000]], dataset.train, dataset.tokenizer)
    assert copies.searched == pytest.approx(0.25, abs=0.01)
    assert copies.longest == 100
