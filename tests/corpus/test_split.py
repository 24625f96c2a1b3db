import itertools
import pickle
import random
import re
import unicodedata
import zlib

import numpy as np
import pytest
from helpers import python_text, random_text

from gpt.corpus.documents import Document
from gpt.corpus.recipes.shakespeare import ByEnd
from gpt.corpus.slices import PASSAGES
from gpt.corpus.split import (
    DROPPED,
    ByContent,
    chosen,
    cut_passages,
    distinct,
    division_key,
    is_among,
    key_of,
    passage_size,
    require_share,
    threshold,
)
from gpt.errors import InputError


def test_an_end_validates_and_nothing_is_lost():
    text = "Es war einmal ein Müller, der war arm, aber er hatte eine schöne Tochter."
    train, validation = ByEnd(0.1)(Document("a", text))
    assert (train.split, validation.split) == ("train", "validation")
    assert train.text + validation.text == text
    assert len(validation.text) == pytest.approx(len(text) / 10, abs=1)
    assert [piece.split for piece in ByEnd(0.1)(Document("a", "x"))] == ["validation"]


def test_what_validates_as_given_goes_to_other_processes_in_a_tenth_of_the_memory():
    keys = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    given = dict.fromkeys(keys[::2].tolist(), "validation") | {int(keys[1]): DROPPED, int(keys[3]): "train"}
    divide = ByContent(512, 2**62, given)
    sent = pickle.dumps(divide)
    assert len(sent) < 10 * len(given)
    there = pickle.loads(pickle.dumps(pickle.loads(sent)))  # and on, as from a worker of a cluster to its own
    assert not there.exceptions  # which would be 100 bytes each
    assert (there.sides(keys) == divide.sides(keys)).all()
    assert there.sides(keys)[[0, 1, 3]].tolist() == [1, 2, 0]
    plain = pickle.loads(pickle.dumps(ByContent(512, 2**62)))
    assert (plain.sides(keys) == (keys < 2**62)).all()
    assert plain.sides(keys[:0]).tolist() == there.sides(keys[:0]).tolist() == []


@pytest.mark.parametrize("share", [0, -0.1, 0.9])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(share):
    with pytest.raises(InputError, match="`validation_share` is .*must be above 0 and at most 0.5"):
        require_share(share)


def test_twins_have_one_key_and_others_have_others(rng):
    text = "Über den Wolken\nmuß die Freiheit wohl grenzenlos sein. " + random_text(rng, 200)
    for twin in (
        unicodedata.normalize("NFD", text),
        text.replace("\n", "\r\n"),
        text.replace(" ", "  ").upper().replace("SS", "ß") if text.upper().lower() == text.lower() else text,
        f"\t{text}\n\n",
    ):
        assert key_of(twin) == key_of(text)
    keys = {key_of(f"{text}{number}") for number in range(1000)}
    assert len(keys) == 1000
    assert 0.4 < np.mean([key < 2**63 for key in keys]) < 0.6


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("kind", ["code", "no lines", "no words"])
def test_passages_are_the_text_in_lengths_of_their_bounds(kind, size):
    text = {"code": python_text(), "no lines": python_text().replace("\n", " "), "no words": "x" * 100_000}[kind]
    found = list(cut_passages(text, size))
    assert "".join(found) == text
    assert all(size / 2 <= len(passage) <= 2 * size for passage in found[:-1])
    assert 0 < len(found[-1]) <= 2 * size
    if kind == "code":
        assert all(passage.endswith("\n") for passage in found)
    assert list(cut_passages("short", size)) == ["short"]
    assert list(cut_passages("", size)) == [""]


def ends_of(text, size):
    """The rule of `cut_passages`, by one place after another: where the passages end."""
    ends, start = [], 0
    while len(text) - start > 2 * size:
        first, last = start + size // 2, start + 2 * size
        found = (re.finditer(mark, text[first:last]) for mark in ("\n\n", "\n", " "))
        places = next(filter(None, ([first + match.end() for match in each] for each in found)), [(first + last) // 2])
        start = min(places, key=lambda place: zlib.crc32(text[place : place + 32].encode("utf-8", "replace")))
        ends.append(start)
    return ends


@pytest.mark.parametrize("size", [16, 1024, 1 << 15])
@pytest.mark.parametrize("alphabet", ["ab ", "ab\n  ", "aö汉 ", "a😀 \ud800", "a😀  \n\n\n", "x", "汉"])
def test_a_passage_ends_where_the_crc_of_what_follows_is_smallest(alphabet, size):
    rng = random.Random(size)
    text = "".join(rng.choices(alphabet, k=60_000))
    text = text[: 20 * size] + "ü" + text[20 * size :]
    assert list(itertools.accumulate(map(len, cut_passages(text, size)))) == [*ends_of(text, size), len(text)]


def test_what_is_put_in_changes_the_passages_around_it_alone():
    text = python_text()
    before = list(cut_passages(text, 1024))
    place = len(text) // 2
    after = list(cut_passages(text[:place] + "a new line\n" * 30 + text[place:], 1024))
    assert len(set(before) & set(after)) > 0.85 * len(before)
    assert after[0] == before[0]
    assert after[-1] == before[-1]


@pytest.mark.parametrize("size", [64, 1024])
@pytest.mark.parametrize(
    "alphabet",
    ["aé \n", "aéǟ", "ᾂa\u0323\u0301 b", "がぎ日本", "한국어 ", "\u0958\ufb2c\U0001d160 x", "é\ud800 \u0344"],
)
def test_twins_of_other_forms_are_cut_alike(alphabet, size):
    text = "".join(random.Random(size).choices(alphabet, k=20_000))
    composed = unicodedata.normalize("NFC", text)
    wanted = [key_of(passage) for passage in cut_passages(composed, size)]
    assert len(wanted) > 10
    half = len(text) // 2
    for twin in (unicodedata.normalize("NFD", text), text, text[:half] + unicodedata.normalize("NFD", text[half:])):
        found = list(cut_passages(twin, size))
        assert "".join(found) == twin
        assert [key_of(passage) for passage in found] == wanted
    assert "".join(cut_passages("e\u0301", size)) == "e\u0301"


def test_neighboring_passages_of_a_side_are_one_piece_and_dropped_ones_are_gone():
    text = python_text()[:20_000]
    cut = list(cut_passages(text, 512))
    sides = ["train", "train", "validation", DROPPED, "train", *["validation"] * (len(cut) - 5)]
    divide = ByContent(512, 0, {key_of(passage): side for passage, side in zip(cut, sides, strict=True)})
    pieces = list(divide(Document("a", text)))
    assert [piece.split for piece in pieces] == ["train", "validation", "train", "validation"]
    assert [piece.text for piece in pieces] == [cut[0] + cut[1], cut[2], cut[4], "".join(cut[5:])]


def test_the_share_validates_unless_chance_would_have_it_otherwise():
    rng = random.Random(0)
    for count, share in ((10_000, 0.1), (10_000, 0.004), (40, 0.1), (12, 0.1), (3, 0.3), (1, 0.1)):
        rows = np.array([(rng.getrandbits(64), rng.randrange(1, 1000)) for _ in range(count)], dtype=np.uint64)
        keys, lengths = distinct(rows)
        limit = threshold(keys, lengths, share)
        chosen, total = lengths[keys < limit].sum(), lengths.sum()
        assert chosen >= min(0.5 * share * total, lengths.min())
        assert chosen <= 1.5 * share * total + lengths.max()
        if count == 10_000:
            assert limit == int(share * 2**64)  # whatever is added: a key is on its side by itself
    assert threshold(*distinct(np.empty((0, 2), dtype=np.uint64)), 0.1) >= 0


@pytest.mark.parametrize("below", [0, 1, 2, 3])
def test_of_few_passages_one_validates_however_many_keys_lie_below_the_share(below):
    low, high = ([start + number for number in range(count)] for start, count in ((2**59, below), (2**62, 5 - below)))
    keys = np.array(low + high, dtype=np.uint64)
    sides = ByContent(512, *chosen(keys, np.full(5, 100), 0.1)).sides(keys)
    assert sides.tolist() == [1, 0, 0, 0, 0]


def test_keys_are_looked_up_among_known_ones(tmp_path):
    known = np.array([3, 2**63, 2**64 - 1], dtype="<u8")
    known.tofile(tmp_path / "known")
    for there in (known, np.memmap(tmp_path / "known", dtype="<u8")):
        assert is_among(there, np.array([2, 3, 4, 2**63, 2**64 - 1], dtype=np.uint64)).tolist() == [0, 1, 0, 1, 1]
        assert is_among(there, np.uint64(2**63))
    assert not is_among(known[:0], np.uint64(3))


def test_equal_keys_are_counted_together():
    keys, lengths = distinct(np.array([(5, 10), (3, 1), (5, 7)], dtype=np.uint64))
    assert (keys.tolist(), lengths.tolist()) == ([3, 5], [1, 17])


def test_passages_are_long_where_there_is_much_text_and_short_where_there_is_little():
    sizes = [passage_size(10**power / 10, 10**power) for power in range(10)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (64, 1 << 19)
    for characters in (20_000, 300_000, 5_000_000):
        assert 16 <= characters / passage_size(characters, 10 * characters) < 32
    for characters in (512, 1000, 4096, 20_000):
        assert characters / passage_size(characters / 10, characters) >= 8


def sides(lengths):
    """The sides of so many passages of these lengths, whose keys are spread evenly."""
    keys = np.arange(1, 1 + len(lengths), dtype=np.uint64) << np.uint64(60)
    return ByContent(512, *chosen(keys, np.array(lengths), 0.1)).sides(keys).tolist()


def test_what_is_more_than_half_of_the_text_trains():
    for heavy in range(5):
        lengths = [5000 if number == heavy else 900 for number in range(5)]
        assert sides(lengths) == [int(number == (0 if heavy else 1)) for number in range(5)]
    assert sides([90]) == [0]


def test_a_division_is_named_by_all_that_its_pieces_hang_on(tmp_path):
    keys = tmp_path / "slice"
    np.save(f"{keys}{PASSAGES}", np.array([(1, 11, 0), (7, 19, 1)], dtype=np.uint64))  # cut elsewhere
    elsewhere = division_key(ByContent(512, 7, {1: "train"}), keys)
    np.save(f"{keys}{PASSAGES}", np.array([(1, 10, 0), (7, 20, 1)], dtype=np.uint64))
    one = division_key(ByContent(512, 7, {1: "train"}), keys)
    assert one == division_key(ByContent(512, 7, {1: "train", 9: "train"}), keys)  # 9 is of another slice
    others = [
        ByContent(512, 7, {}),
        ByContent(512, 8, {1: "train"}),
        ByContent(1024, 7, {1: "train"}),
        ByEnd(0.1),
        ByEnd(0.2),
    ]
    assert len({one, elsewhere, *(division_key(divide, keys) for divide in others)}) == 7
    assert division_key(lambda document: iter(()), None) != division_key(lambda document: iter(()), None)
