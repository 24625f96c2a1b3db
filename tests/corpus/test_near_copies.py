import random
import re

import numpy as np
import pytest

from gpt.corpus.near_copies import PASSAGE, passage_hashes, validation_names


def sentence(rng):
    return "".join(rng.choice("abcdefghij klmno\n") for _ in range(rng.randint(200, 3000)))


def leaks(texts, chosen):
    """Of each chosen text, the share of its passages that stand in others, by looking for each."""

    def all_of(name):
        return [texts[name][place : place + PASSAGE] for place in range(len(texts[name]) - PASSAGE + 1)]

    others = {passage for name in texts if name not in chosen for passage in all_of(name)}
    return {name: np.mean([passage in others for passage in all_of(name)]) for name in chosen}


@pytest.fixture
def texts():
    """Texts by themselves, edited copies of some, a template filled in many times, and a chain of halves."""
    rng = random.Random(0)
    corpus = {f"own {number}": sentence(rng) for number in range(120)}
    for number in range(30):
        words = re.split("( )", corpus[f"own {number}"])
        words[rng.randrange(len(words))] = "edited"
        corpus[f"copy {number}"] = f"another header {number}\n" + "".join(words)
    template = sentence(rng) + sentence(rng)
    corpus |= {f"filled {number}": template.replace("a", str(number)) for number in range(20)}
    parts = [sentence(rng) for _ in range(30)]
    corpus |= {f"chain {number}": parts[number] + parts[number + 1] for number in range(29)}
    return corpus


def test_nothing_that_validates_stands_in_training(texts):
    chosen = validation_names(texts, 0.2)
    assert max(leaks(texts, chosen).values()) <= 0.05
    size = sum(len(texts[name]) for name in chosen) / sum(map(len, texts.values()))
    assert 0.2 <= size < 0.24
    assert {name.split()[0] for name in chosen} >= {"own", "copy"}
    for name in chosen:  # relatives came along
        if name.startswith("copy"):
            assert name.replace("copy", "own") in chosen
    assert max(leaks(texts, {name for name in texts if name.endswith("5")}).values()) > 0.5


def test_a_document_made_of_pieces_of_many_others_does_not_validate():
    """No two documents are relatives, and yet together the others hold all of this one."""
    rng = random.Random(0)
    texts = {str(number): sentence(rng) + sentence(rng) for number in range(100)}
    texts["anthology"] = "".join(text[:100] for text in texts.values())[:2000]
    for share in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert "anthology" not in validation_names(texts, share)


def test_the_order_of_documents_does_not_matter(texts):
    shuffled = list(texts.items())
    random.Random(1).shuffle(shuffled)
    assert validation_names(dict(shuffled), 0.1) == validation_names(texts, 0.1)


def test_no_family_is_much_of_validation(texts):
    texts = texts | {f"long {number}": "".join(map(str, range(number, 90_000, 7))) for number in range(7)}
    assert not [name for name in validation_names(texts, 0.1) if name.startswith("long")]


def test_passages_have_the_same_hash_if_and_only_if_they_are_the_same():
    rng = random.Random(0)
    text = "".join(rng.choice("abé\U0001f600") for _ in range(2000)) * 2
    hashes = passage_hashes(text)
    assert len(hashes) == len(text) - PASSAGE + 1
    by_passage = {text[place : place + PASSAGE]: hashes[place] for place in range(len(hashes))}
    assert all(by_passage[text[place : place + PASSAGE]] == value for place, value in enumerate(hashes))
    assert len(set(by_passage.values())) == len(by_passage)


@pytest.mark.parametrize("length", [0, 1, 49, 50, 51])
def test_short_texts_have_as_many_passages_as_fit(length):
    assert len(passage_hashes("a" * length)) == max(0, length - PASSAGE + 1)
