"""A bounded sample: which text is in it, and that it is the same everywhere."""

import pytest

from gpt.corpus import sample as sample_module
from gpt.corpus.documents import hash_fraction
from gpt.corpus.sample import CorpusSample
from gpt.corpus.sources import Skipped, Texts
from gpt.log import Progress


@pytest.fixture(autouse=True)
def short_passages(monkeypatch):
    monkeypatch.setattr(sample_module, "SAMPLE_CHARACTERS", 100)


def sampled(texts, most):
    return CorpusSample(Texts(texts), most, Progress())


def test_what_fits_is_kept_whole_and_in_order():
    texts = {"a": "x" * 250, "b": "", "c": "é" * 100 + "y", "d": "z"}
    sample = sampled(texts, 352)
    assert [(document.name, document.text) for document in sample] == [(k, v) for k, v in texts.items() if v]
    assert (sample.counts["documents"], sample.counts["characters"], sample.sampled) == (4, 352, 352)
    assert sample.alphabet == set("xyzé")


@pytest.mark.parametrize("most", [0, 99, 1000, 7777])
def test_of_more_the_passages_with_the_smallest_hashes_stay(most):
    """By a plain sort of all passages."""
    text = "".join(f"{number:05}" for number in range(10_000))  # in which no passage is like another
    texts = {"a": text[:12_345], "b": text[20_000:20_050], "c": text[30_000:41_111]}
    passages = [(name, start) for name in texts for start in range(0, len(texts[name]), 100)]
    expected, size = set(), 0
    for name, start in sorted(passages, key=lambda passage: hash_fraction(f"{passage[0]} {passage[1]}")):
        size += len(texts[name][start : start + 100])
        if size > most:
            break
        expected.add((name, start))
    sample = sampled(texts, most)
    stretches = list(sample)
    assert sample.sampled == sum(len(stretch.text) for stretch in stretches) <= most
    assert most - sample.sampled <= 100
    found, last = set(), {}
    for stretch in stretches:
        place = texts[stretch.name].index(stretch.text, last.get(stretch.name, 0))
        last[stretch.name] = place + len(stretch.text) + 1  # there is something between two stretches
        found |= {(stretch.name, start) for start in range(place, place + len(stretch.text), 100)}
    assert found == expected
    assert sample.alphabet == set("".join(texts.values()))


def test_a_copy_is_skipped_and_what_is_left_out_is_named():
    class Source(Texts):
        def read(self, part):
            yield from super().read(part) if part != "bad" else [Skipped("bad", "binary")]

    sample = CorpusSample(Source({"a": "text", "bad": "", "b": "text", "c": "more"}), 100, Progress())
    assert [document.name for document in sample] == ["a", "c"]
    assert sample.skipped == [Skipped("bad", "binary"), Skipped("b", "the same content as a")]
    counts = {"files": 4, "files_read": 3, "documents": 3, "characters": 12, "left_out": 2}
    assert (dict(sample.counts), sample.sampled, sample.learnable) == (counts, 8, 8)
