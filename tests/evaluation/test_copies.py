import itertools
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
    return max((stretch for stretch in stretches if stretch in text), key=len, default="")


@pytest.fixture(autouse=True)
def small_table(monkeypatch):
    """A table that is made quickly."""
    monkeypatch.setattr(suffix_array, "TABLE_BITS", 12)


def random_ids(text, tokenizer, rng):
    """The ids of a text, cut at random places, so that the same letters are other tokens each time."""
    ids, content, place = [], text.encode(), 0
    known = {token: id for id, token in enumerate(tokenizer.ranks)}
    while place < len(content):
        lengths = [n for n in range(1, 9) if content[place : place + n] in known]
        length = rng.choice(lengths)
        ids.append(known[content[place : place + length]])
        place += length
    return ids


@pytest.fixture(scope="module")
def some_bpe():
    return Tokenizer.train_bpe(["été naïve 日本語 日本 abc abd ab ba 😀😁 a\nb\n\n" * 20], 300)


@pytest.mark.parametrize("alphabet", ["ab", "a", "abcdefgh ", "é日本a", "😀😁日a"])
def test_stretches_are_those_that_a_search_of_all_finds(alphabet, some_bpe, monkeypatch):
    """Whatever tokens the letters are, wherever blocks and pieces end, and however many bytes a letter has."""
    rng, end = random.Random(alphabet), some_bpe.end_of_text
    for trial in range(12):
        monkeypatch.setattr(copies_module, "DECODED_TOKENS", rng.choice([1, 2, 7, 1000]))
        monkeypatch.setattr(suffix_array, "FIRST_IDS", rng.choice([1, 7, 1000]))
        monkeypatch.setattr(suffix_array, "BLOCK_IDS", rng.choice([3, 50]))
        documents = ["".join(rng.choices(alphabet, k=rng.randint(0, 120))) for _ in range(rng.randint(1, 5))]
        samples = ["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(rng.randint(0, 4))]
        place = rng.randint(0, len(documents[0]))
        samples.append("x" * rng.randint(0, 5) + documents[0][place : place + rng.randint(0, 110)] + "y")
        samples.append(documents[0][-9:] + documents[-1][:9])  # goes on from one document into another
        ids = [id for document in documents for id in [*random_ids(document, some_bpe, rng), end]][: -1 - trial % 2]
        split = MemorySplit("train", np.array(ids, dtype=np.int64))
        texts = [np.array(random_ids(sample, some_bpe, rng), dtype=np.int64) for sample in samples]
        found = find_copies(texts, split, some_bpe)
        said = [some_bpe.decode(ids[start:stop]) for start, stop in spans(ids, end)]
        wanted = [max(len(longest(sample, document)) for document in said) for sample in samples]
        assert [copy.characters for copy in found.found] == wanted
        for copy, sample in zip(found.found, samples, strict=True):
            assert copy.text in sample
            before = some_bpe.token_bytes(ids[copy.place]).decode(errors="ignore") if copy.text else ""
            there = some_bpe.decode(ids[copy.place :]).partition("<|endoftext|>")[0].lstrip("\ufffd")
            assert 0 <= there.find(copy.text) <= len(before)
        assert (found.longest, found.by_heart) == (max(wanted), sum(length >= BY_HEART for length in wanted))
        assert found.median == sorted(wanted)[len(wanted) // 2]


def spans(ids, end):
    """Where documents begin and end."""
    ends = [-1, *(place for place, id in enumerate(ids) if id == end), len(ids)]
    return [(one + 1, two) for one, two in itertools.pairwise(ends)]


def test_letters_that_are_other_tokens_throughout_are_found(bpe):
    text = "def increment(number):\n    return number + 1\n"
    split = MemorySplit("train", np.array(bpe.encode(text)))
    single = np.array([bpe.ranks.index(bytes([byte])) for byte in text.encode()[3:40]])
    assert len(single) > len(bpe.encode(text[3:40]))
    [copy] = find_copies([single], split, bpe).found
    assert copy.text == text[3:40]


def test_a_copied_passage_is_found_to_the_letter_wherever_blocks_end(tmp_path, monkeypatch):
    text = random_text(random.Random(1), 5000)
    dataset = write_dataset([("train", text), ("validation", text[::-1])], "bpe:300", tmp_path / "data")
    monkeypatch.setattr(suffix_array, "FIRST_IDS", 7)
    monkeypatch.setattr(suffix_array, "BLOCK_IDS", 50)
    clean = dataset.tokenizer.decode(dataset.tokenizer.encode(text))
    samples = [clean[1000:1150] + "\x07", "\x07" * 300, clean[5:104]]
    ids = [np.array(dataset.tokenizer.encode(sample)) for sample in samples]
    copies = find_copies(ids, dataset.train, dataset.tokenizer)
    assert (copies.longest, copies.by_heart, len(copies.found), copies.searched) == (150, 1, 3, 1.0)
    assert copies.found[0].text == clean[1000:1150]
    token = dataset.tokenizer.token_text(int(dataset.train.read(copies.found[0].place, 1)[0]))
    assert any(token[start:] and clean[1000:].startswith(token[start:]) for start in range(len(token)))


def test_line_ends_in_a_token_before_a_stretch_are_counted():
    tokenizer = Tokenizer("bpe", [*Tokenizer.utf8_bytes().ranks, b"\n\n"], Tokenizer.utf8_bytes().pattern)
    split = MemorySplit("train", np.array([*b"x", 256, *b"y z"]))
    [copy] = find_copies([np.array([*b"\ny z"])], split, tokenizer).found
    assert (copy.text, copy.lines) == ("\ny z", 1)


def test_special_tokens_and_bytes_that_are_no_letters_are_in_no_stretch():
    """Not even where the training text has the same: half a character of it, or the name of end-of-text as text."""
    tokenizer = Tokenizer("bpe", Tokenizer.utf8_bytes().ranks, Tokenizer.utf8_bytes().pattern, added=("<|user|>",))
    half, end, user = "é".encode()[0], tokenizer.end_of_text, tokenizer.special_tokens["<|user|>"]
    text = [*b"ab", half, *b"cd", end, *b"efg", user, *b"hi<|user|>", 0xFF, *b"jk"]
    split = MemorySplit("train", np.array(text))
    samples = [text[:5], text[3:9], text[6:11], [user, *b"h"], [*b"<|user|>"], [*b">", 0xFF, *b"jk"], [half], [end]]
    found = find_copies([np.array(sample) for sample in samples], split, tokenizer).found
    assert [copy.text for copy in found] == ["ab", "efg", "efg", "h", "<|user|>", "jk", "", ""]


def test_nothing_is_found_where_nothing_is():
    tokenizer, split = Tokenizer.utf8_bytes(), MemorySplit("train", np.arange(50))
    copies = find_copies([np.array([60, 61]), np.array([], dtype=np.int64)], split, tokenizer)
    assert [copy.text for copy in copies.found] == ["", ""]
    assert (copies.longest, copies.median, copies.by_heart) == (0, 0, 0)
    assert find_copies([], split, tokenizer).longest == 0


def test_of_a_large_text_pieces_from_all_over_it_are_searched(tmp_path, monkeypatch):
    text = "".join(f"line {i} says {i * i}\n" for i in range(2000))
    dataset = write_dataset([("train", text), ("validation", text[:500])], "bytes", tmp_path / "data")
    monkeypatch.setattr(copies_module, "CHUNK_TOKENS", 100)
    ids = [np.array(dataset.tokenizer.encode(text[:2000]))]
    copies = find_copies(ids, dataset.train, dataset.tokenizer, dataset.train.tokens // 4)
    assert copies.searched == pytest.approx(0.25, abs=0.01)
    assert copies.found[0].characters == 100  # none goes on into another piece
