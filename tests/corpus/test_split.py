import pytest

from gpt.corpus import split as split_module
from gpt.corpus.reading import Corpus
from gpt.corpus.sources import Document, Texts
from gpt.corpus.split import by_end, by_name, by_name_or_end
from gpt.errors import InputError
from gpt.log import Progress


def pieces_of(texts, split, directory):
    corpus = Corpus(Texts(texts), directory, Progress())
    divide = split(corpus)
    return [piece for document in corpus for piece in divide(document)]


def test_the_split_by_name_has_its_share_and_never_changes():
    divide = by_name(0.1)
    splits = [next(divide(Document(f"dir/{i}.py", "x"))).split for i in range(10_000)]
    assert abs(splits.count("validation") / 10_000 - 0.1) < 0.012  # four standard deviations
    # sha256sum gives io.py 4f…, in the lower half of all digests, and argparse.py c9… and os.py d9… in the upper.
    splits = [next(by_name(0.5)(Document(name, "x"))).split for name in ("io.py", "argparse.py", "os.py")]
    assert splits == ["validation", "train", "train"]


def test_an_end_validates_and_nothing_is_lost():
    text = "Es war einmal ein Müller, der war arm, aber er hatte eine schöne Tochter."
    train, validation = by_end(0.1)(Document("a", text))
    assert (train.split, validation.split) == ("train", "validation")
    assert train.text + validation.text == text
    assert len(validation.text) == pytest.approx(len(text) / 10, abs=1)
    assert [piece.split for piece in by_end(0.1)(Document("a", "x"))] == ["validation"]


@pytest.mark.parametrize("number", [99, 100])
def test_few_documents_are_each_cut_in_two_and_many_are_split_by_name(tmp_path, number):
    texts = {f"{i:03d}.txt": f"{i} is the number of this text" for i in range(number)}
    pieces = pieces_of(texts, by_name_or_end(0.1), tmp_path)
    if number < 100:
        assert len(pieces) == 2 * number
    else:
        assert [piece.text for piece in pieces] == list(texts.values())
        assert 3 <= sum(piece.split == "validation" for piece in pieces) <= 20


def test_documents_that_repeat_others_count_as_many(tmp_path):
    """How a corpus is split does not hang on what of it is dropped later."""
    texts = {f"{i}.txt": f"{i % 60} is the number of this text" for i in range(100)}
    assert len(pieces_of(texts, by_name_or_end(0.1), tmp_path)) == 60


@pytest.mark.parametrize("number", [4, 400])
@pytest.mark.parametrize(("share", "most", "expected"), [(0.1, 10**9, 0.1), (0.3, 10**9, 0.3), (0.3, 40_000, 0.1)])
def test_validation_has_its_share_but_never_more_than_is_of_use(tmp_path, monkeypatch, number, share, most, expected):
    """400,000 characters in few files, or in many."""
    monkeypatch.setattr(split_module, "MAX_CHARACTERS", most)
    texts = {f"{tmp_path.name}/{index}.txt": f"{index:0{400_000 // number}}" for index in range(number)}
    pieces = pieces_of(texts, by_name_or_end(share), tmp_path)
    validation = sum(len(piece.text) for piece in pieces if piece.split == "validation")
    assert validation / 400_000 == pytest.approx(expected, rel=0.25 if number == 400 else 0.001)


@pytest.mark.parametrize("share", [0, -0.1, 0.9])
def test_a_share_that_leaves_nothing_on_one_side_is_refused(share):
    with pytest.raises(InputError, match="`validation_share` is .*must be above 0 and at most 0.5"):
        by_name_or_end(share)
