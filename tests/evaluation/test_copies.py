import random

import numpy as np
import pytest
from helpers import random_text, write_dataset

from gpt import Tokenizer
from gpt.dataset import suffix_array
from gpt.dataset.shards import MemorySplit
from gpt.evaluation import copies as copies_module
from gpt.evaluation.copies import BY_HEART, find_copies


def longest(sample, text):
    """The longest stretch of a sample that a text has, by looking at all of them."""
    stretches = (sample[i:j] for i in range(len(sample)) for j in range(i + 1, len(sample) + 1))
    return max((stretch for stretch in stretches if stretch in text), key=len, default=b"")


@pytest.mark.parametrize("alphabet", [b"ab", b"a", b"abcdefgh "])
def test_stretches_are_those_that_a_search_of_all_finds(alphabet):
    rng, tokenizer = random.Random(alphabet), Tokenizer.utf8_bytes()
    for _ in range(10):
        text = bytes(rng.choices(alphabet, k=rng.randint(0, 400)))
        samples = [bytes(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(rng.randint(0, 4))]
        place = rng.randint(0, len(text))
        samples.append(b"x" * rng.randint(0, 5) + text[place : place + rng.randint(0, 130)] + b"y")
        split = MemorySplit("train", np.frombuffer(text, dtype=np.uint8))
        found = find_copies([np.frombuffer(s, dtype=np.uint8).astype(np.int64) for s in samples], split, tokenizer)
        wanted = [len(longest(sample, text)) for sample in samples]
        assert [copy.characters for copy in found.found] == [copy.tokens for copy in found.found] == wanted
        assert all(copy.text.encode() in text for copy in found.found)
        assert (found.longest, found.by_heart) == (max(wanted), sum(length >= BY_HEART for length in wanted))
        assert found.median == sorted(wanted)[len(wanted) // 2]


def test_a_copied_passage_is_found_to_the_letter_wherever_blocks_end(tmp_path, monkeypatch):
    text = random_text(random.Random(1), 5000)
    dataset = write_dataset([("train", text), ("validation", text[::-1])], "bpe:300", tmp_path / "data")
    monkeypatch.setattr(suffix_array, "FIRST_TOKENS", 7)
    monkeypatch.setattr(suffix_array, "BLOCK_TOKENS", 50)
    clean = dataset.tokenizer.decode(dataset.tokenizer.encode(text))
    samples = [clean[1000:1150] + "\x07", "\x07" * 300, clean[5:104]]
    ids = [np.array(dataset.tokenizer.encode(sample)) for sample in samples]
    copies = find_copies(ids, dataset.train, dataset.tokenizer)
    assert (copies.longest, copies.by_heart, len(copies.found), copies.searched) == (150, 1, 3, 1.0)
    assert copies.found[0].text == clean[1000:1150]
    first = dataset.train.read(copies.found[0].place, copies.found[0].tokens).tolist()
    assert dataset.tokenizer.decode(first) in clean[1000:1150]


def test_letters_count_where_ids_differ_at_the_ends(bpe):
    """A stretch that begins and ends within a token of the text goes on to the letter."""
    text = "def increment(number):\n    return number + 1\n"
    ids, split = np.array(bpe.encode("crement(number):\n    retu")), MemorySplit("train", np.array(bpe.encode(text)))
    [copy] = find_copies([ids], split, bpe).found
    assert copy.text == "crement(number):\n    retu"
    assert copy.tokens < len(ids)


def test_nothing_is_found_where_nothing_is():
    tokenizer, split = Tokenizer.utf8_bytes(), MemorySplit("train", np.arange(50))
    copies = find_copies([np.array([60, 61]), np.array([], dtype=np.int64)], split, tokenizer)
    assert [(copy.text, copy.tokens) for copy in copies.found] == [("", 0), ("", 0)]
    assert (copies.longest, copies.median, copies.by_heart) == (0, 0, 0)
    assert find_copies([], split, tokenizer).longest == 0


def test_of_a_large_text_pieces_from_all_over_it_are_searched(tmp_path, monkeypatch):
    text = "".join(f"line {i} says {i * i}\n" for i in range(2000))
    dataset = write_dataset([("train", text), ("validation", text[:500])], "bytes", tmp_path / "data")
    monkeypatch.setattr(copies_module, "CHUNK_TOKENS", 100)
    ids = [np.array(dataset.tokenizer.encode(text[:2000]))]
    copies = find_copies(ids, dataset.train, dataset.tokenizer, dataset.train.tokens // 4)
    assert copies.searched == pytest.approx(0.25, abs=0.01)
    assert copies.found[0].tokens == 100
