"""The guard, held against 13-grams that are counted one by one."""

import random
import tracemalloc
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from word_grams import grams_of

from gpt.corpus import overlap as overlap_module
from gpt.corpus.content_split import SplitByContent, _chosen, _Keys, _StoredSplit
from gpt.corpus.documents import Document
from gpt.corpus.near_copies import by_family, validation_names
from gpt.corpus.reading import Corpus, Filters
from gpt.corpus.slices import DISTINCT, cut_slices
from gpt.corpus.sources import TextFiles, Texts
from gpt.corpus.split import TRAIN, VALIDATION, pieces_in
from gpt.corpus.stages import Stages
from gpt.errors import InputError
from gpt.log import Progress

WORDS = [f"word{number}" for number in range(3000)]


def text_of(rng, words):
    return " ".join(rng.choices(WORDS, k=words))


def corpus_of(texts, directory, before=None, slice_bytes=100_000):
    directory.mkdir(parents=True, exist_ok=True)
    source = Texts(texts)
    corpus = Corpus(
        Stages(directory, Progress()), source, list(cut_slices(source, source.parts(), slice_bytes)), Filters()
    )
    corpus.before = before
    return corpus


def divided(texts, directory, before=None, **settings):
    """Which texts train and validate, by name, and the report of the guard."""
    corpus = corpus_of(texts, directory, before)
    divide = SplitByContent(**settings)(corpus)
    sides = {name: Sides(divide(Document(name, text))) for name, text in texts.items()}
    return sides, corpus.report.get("overlap")


class Sides(frozenset):
    """The sides on which a document is, and its pieces."""

    def __new__(cls, pieces):
        pieces = list(pieces)
        sides = super().__new__(cls, (piece.split for piece in pieces))
        sides.pieces = pieces
        return sides


def grams_on(side, sides):
    return {
        gram for own in sides.values() for piece in own.pieces if piece.split == side for gram in grams_of(piece.text)
    }


def share_of(sides):
    """The reference: the share of the different 13-grams of validation that training has."""
    validation, train = grams_on(VALIDATION, sides), grams_on(TRAIN, sides)
    return len(validation & train) / len(validation)


@pytest.fixture
def texts():
    """240 documents that have nothing in common, too short to be cut."""
    rng = random.Random(0)
    return {f"{number}.txt": text_of(rng, rng.randrange(60, 150)) for number in range(240)}


def planted(texts, sides, change):
    """The texts, with a changed copy of each document of validation and of some of training."""
    chosen = [name for name, own in sides.items() if own == {VALIDATION}] + list(texts)[:30]
    return texts | {f"copy of {name}": change(texts[name]) for name in chosen}, chosen


CHANGES = {
    "other header": lambda text: f"Title: Something\nDate: today\n\n{text}",
    "one word": lambda text: text.replace(text.split()[len(text.split()) // 2], "changed", 1),
    "line ends": lambda text: text.replace(" ", "\r\n"),
    "decomposed": lambda text: unicodedata.normalize("NFD", text.replace("word1", "wörd1")),
    "quoted": lambda text: (
        f"{text_of(random.Random(text), 300)} {text[: len(text) // 2]} {text_of(random.Random(text[::-1]), 300)}"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_end_on_one_side_and_the_report_is_a_plain_count(texts, tmp_path, change):
    if change == "decomposed":
        texts = {name: unicodedata.normalize("NFC", text.replace("word1", "wörd1")) for name, text in texts.items()}
    sides, _ = divided(texts, tmp_path / "first")
    texts, chosen = planted(texts, sides, CHANGES[change])
    reported, report = divided(texts, tmp_path / "second", overlap="report")
    assert report["before"] == report["after"] == pytest.approx(share_of(reported), abs=1e-12)
    assert report["left"] > 0 or change in ("line ends", "decomposed")
    assert report["before"] > 0.1 or change in ("line ends", "decomposed")  # those are twins, which go together
    for mode in ("move", "drop"):
        guarded, report = divided(texts, tmp_path / "second", overlap=mode)
        assert report["after"] == pytest.approx(share_of(guarded), abs=1e-12)
        assert report["after"] <= (0.001 if change == "quoted" else 0)
        assert report["left"] == 0
        if change == "quoted":  # in documents that are long enough to be cut
            continue
        assert all({TRAIN, VALIDATION} != guarded[name] | guarded[f"copy of {name}"] for name in chosen)
        validating, before = (sum(own == {VALIDATION} for own in each.values()) for each in (guarded, reported))
        if mode == "drop":
            assert validating == before
            assert report["dropped"] == sum(own == set() for own in guarded.values())
        else:
            assert validating == report["moved"] + before


def test_a_passage_that_is_known_from_many_places_a_little_from_each_is_found(texts, tmp_path):
    sides, _ = divided(texts, tmp_path / "first")
    name = max((name for name, own in sides.items() if own == {VALIDATION}), key=lambda name: len(texts[name]))
    words = texts[name].split()
    rng = random.Random(3)
    for number, start in enumerate(range(0, len(words) - 25, 12)):  # some 13 of its 13-grams each
        texts[f"quoting {number}"] = f"{text_of(rng, 300)} {' '.join(words[start : start + 25])} {text_of(rng, 300)}"
    guarded, report = divided(texts, tmp_path / "second")
    assert report["before"] > 0.01
    own = set(grams_of(texts[name]))
    assert len(own & grams_on(TRAIN, guarded)) <= 0.1 * len(own) or guarded[name] == {TRAIN}


def test_text_that_is_added_later_moves_nothing(texts, tmp_path):
    """Also where new text is a copy of what trains, or of what validates: then it goes where that is."""
    names = list(texts)
    first = {name: texts[name] for name in names[:99]}
    before, _ = divided(first, tmp_path / "d")
    for count in (100, 240):
        grown = {name: texts[name] for name in names[:count]}
        grown |= {f"copy of {name}": f"{texts[name]} {index}" for index, name in enumerate(names[:99])}
        after, report = divided(grown, tmp_path / f"d{count}", before=tmp_path / "d" / "of-part-1")
        assert {name: after[name] for name in first} == before
        assert report["after"] <= 0.001
        for name in names[:99]:
            if len(before[name]) == 1:  # a longer one may be cut elsewhere than its copy
                assert after[f"copy of {name}"] == before[name], name
        assert report["returned"] > 0


def test_what_is_added_and_is_more_than_half_of_all_trains(tmp_path):
    first = {"a": text_of(random.Random(0), 100)}
    before, _ = divided(first, tmp_path / "d")
    for number in range(12, 18):
        grown = first | {"b": f"again {number} " * 500}
        after, _ = divided(grown, tmp_path / f"{number}", before=tmp_path / "d" / "of-part-1")
        assert after["a"].pieces == before["a"].pieces
        trains = sum(len(piece.text) for piece in after["b"].pieces if piece.split == TRAIN)
        assert trains > len(grown["b"]) / 2, number


def test_to_find_what_is_more_than_half_of_all_reads_not_all_that_was_known(tmp_path):
    known = np.arange(1 << 20, dtype=np.uint64) << np.uint64(44)
    known.tofile(tmp_path / "known")
    corpus = SimpleNamespace(slices=[SimpleNamespace(passages=tmp_path / "slice")])
    before = _StoredSplit({}, 512, 7, {}, tmp_path / "known", {})
    for heavy, sides in ((6 << 44, {}), (6 << 44 | 1, {6 << 44 | 1: TRAIN})):
        np.save(tmp_path / f"slice{DISTINCT}", np.array([(5, 10), (heavy, 1000)], dtype=np.uint64))
        keys = _Keys(corpus, tmp_path / "keys")
        tracemalloc.start()
        threshold, found = _chosen(keys, 0.1, before, np.memmap(tmp_path / "known", dtype="<u8", mode="r"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (threshold, found) == (7, sides)
        assert peak < known.nbytes / 8


@pytest.mark.parametrize("begun", [1, 2, 3])
@pytest.mark.parametrize("words", [25, 60, 1000])
def test_nor_is_anything_moved_where_it_begins_with_one_two_or_three_small_files(tmp_path, begun, words):
    rng = random.Random(begun)
    texts = {f"{number}.txt": text_of(rng, words) for number in range(30)}
    first = dict([*texts.items()][:begun])
    before, _ = divided(first, tmp_path / "d")
    total = sum(map(len, first.values()))
    validating = sum(len(piece.text) for own in before.values() for piece in own.pieces if piece.split == VALIDATION)
    assert 0.04 * total < validating <= max(0.25 * total, 130)
    for count in (begun + 1, 30):
        after, _ = divided(dict([*texts.items()][:count]), tmp_path / f"d{count}", before=tmp_path / "d" / "of-part-1")
        assert {name: after[name].pieces for name in first} == {name: own.pieces for name, own in before.items()}


def test_a_split_of_other_settings_or_a_damaged_one_is_not_gone_on_with(texts, tmp_path, said):
    divided(texts, tmp_path / "d")
    divided(texts, tmp_path / "e", before=tmp_path / "d" / "of-part-1", share=0.2)
    assert any("was divided by other settings" in line for line in said)
    (tmp_path / "d" / "of-part-1" / "split.keys").write_bytes(b"12345678")
    divided(texts, tmp_path / "f", before=tmp_path / "d" / "of-part-1")
    assert any("split.keys: is damaged" in line for line in said)


def test_texts_from_a_template_are_left_and_said_and_dropping_them_all_is_refused(tmp_path, said):
    rng = random.Random(0)
    template = text_of(rng, 200)
    texts = {f"{number}.txt": f"{template} {text_of(rng, 60)}" for number in range(140)}
    sides, report = divided(texts, tmp_path / "a")
    assert {TRAIN, VALIDATION} == set().union(*sides.values())
    assert report["left"] > 70
    assert any("as texts do that are made from a template" in line for line in said)
    validating = sum(len(texts[name]) for name, own in sides.items() if own == {VALIDATION})
    assert validating / sum(map(len, texts.values())) < 0.2  # to move some of them would have been of no use
    assert report["moved"] == report["dropped"] == 0
    with pytest.raises(InputError, match="`overlap` drop would leave out .* of .* characters"):
        divided(texts, tmp_path / "b", overlap="drop")


def test_nothing_is_listed_of_each_text_that_is_made_from_a_template(tmp_path, monkeypatch):
    rng = random.Random(0)
    template = text_of(rng, 200)
    texts = {f"{number}.txt": f"{template} {text_of(rng, 60)}" for number in range(140)}
    monkeypatch.setattr(overlap_module, "leaks_of", None)  # calling it would be an error
    assert divided(texts, tmp_path)[1]["left"] > 70
    assert divided(texts, tmp_path, overlap="report")[1]["left"] > 70


def divided_by_files(texts, held, directory, **settings):
    """How many texts train and validate, where files of their own validate, and the report of the guard."""
    for name, own in {"texts": texts, "held": held}.items():
        (directory / name).mkdir(parents=True)
        for number, text in enumerate(own):
            (directory / name / f"{number}.txt").write_text(text)
    source = TextFiles([directory / "texts"], validation=[directory / "held"])
    corpus = Corpus(Stages(directory, Progress()), source, list(cut_slices(source, source.parts(), 100_000)), Filters())
    divide = SplitByContent(**settings)(corpus)
    pieces = [piece.split for _, own in pieces_in(corpus, divide) for piece in own]
    return pieces.count(TRAIN), pieces.count(VALIDATION), corpus.report["overlap"]


@pytest.mark.parametrize("mode", ["move", "drop"])
def test_what_is_like_files_that_validate_is_dropped_and_they_stay_as_they_are(tmp_path, mode):
    rng = random.Random(0)
    held = [text_of(rng, 80) for _ in range(5)]  # none of which is cut
    texts = [text_of(rng, 80) for _ in range(40)] + [f"{text_of(rng, 30)} {text}" for text in held]
    train, validation, report = divided_by_files(texts, held, tmp_path, overlap=mode)
    assert (train, validation, report["dropped"], report["moved"], report["after"]) == (40, 5, 5, 0, 0.0)


@pytest.mark.parametrize("mode", ["move", "drop", "report"])
def test_where_files_validate_nothing_else_does_not_even_their_twins_and_passages(tmp_path, mode):
    """Twins have the same key, and so have the passages of a long document under another header."""
    rng = random.Random(0)
    held = [text_of(rng, 80) for _ in range(5)] + [text_of(rng, 4000)]
    texts = [text_of(rng, 80) for _ in range(60)]
    twins = [held[0].upper(), held[1].replace(" ", "\n\n"), f"{text_of(rng, 400)}\n{held[5]}"]
    _, alone, _ = divided_by_files(texts, held, tmp_path / "alone", overlap=mode)
    train, validation, report = divided_by_files(texts + twins, held, tmp_path / "with", overlap=mode)
    assert validation == alone == 6
    assert train == len(texts) + (3 if mode == "report" else 1)  # what stands before the long one
    assert report["before"] > 0.8
    assert (report["after"] > 0.8) == (mode == "report")


def test_what_shares_a_gram_with_what_validates_as_given_is_not_dropped_for_another_that_shares_much(tmp_path):
    rng = random.Random(0)
    held = [text_of(rng, 80) for _ in range(5)]
    common = " ".join(held[0].split()[:15])
    texts = [text_of(rng, 80) for _ in range(40)] + [f"{common} {text_of(rng, 80)}", f"{held[0]} {text_of(rng, 30)}"]
    for mode in ("move", "drop"):
        train, validation, report = divided_by_files(texts, held, tmp_path / mode, overlap=mode)
        assert (train, validation, report["dropped"]) == (41, 5, 1)
        assert 0 < report["after"] < 0.1


def test_most_of_a_text_is_not_dropped_for_files_that_validate_unless_that_is_asked_for(tmp_path, said):
    """As stories that begin alike might be."""
    rng = random.Random(0)
    template = text_of(rng, 40)
    held, texts = ([f"{template} {text_of(rng, 60)}" for _ in range(count)] for count in (5, 40))
    train, validation, report = divided_by_files(texts, held, tmp_path / "a")
    assert (train, validation, report["left"], report["dropped"]) == (40, 5, 40, 0)
    assert any("40 passages of training share more than 10% with validation, as texts do that" in line for line in said)
    with pytest.raises(InputError, match="`overlap` drop would leave out"):
        divided_by_files(texts, held, tmp_path / "b", overlap="drop")


@pytest.mark.parametrize("mode", ["move", "drop"])
def test_what_validation_has_no_room_for_is_dropped_and_said(texts, tmp_path, said, mode):
    """Near-copies of a few documents, more than may be moved: no passage of training shares too much in the end."""
    rng = random.Random(1)
    sides, _ = divided(texts, tmp_path / "first")
    validating = [name for name, own in sides.items() if own == {VALIDATION}]
    for name in sorted(validating, key=lambda name: -len(texts[name]))[:4]:
        for number in range(25):
            texts[f"{name} {number}"] = f"{text_of(rng, 60)} {texts[name]} {text_of(rng, 60)}"
    guarded, report = divided(texts, tmp_path / "second", overlap=mode)
    assert report["before"] > 0.1
    assert report["left"] == 0
    assert report["after"] == pytest.approx(share_of(guarded), abs=1e-12)
    kept = {name for name, own in guarded.items() if TRAIN in own}
    validation = grams_on(VALIDATION, guarded)
    for name in kept:
        own = {gram for piece in guarded[name].pieces if piece.split == TRAIN for gram in grams_of(piece.text)}
        assert len(own & validation) <= 0.1 * len(own), name
    dropped = [name for name, own in guarded.items() if not own]
    assert len(dropped) == report["dropped"] > 10
    total = sum(map(len, texts.values()))
    validating = sum(len(piece.text) for own in guarded.values() for piece in own.pieces if piece.split == VALIDATION)
    assert 0.05 < validating / total < 0.35
    if mode == "move":
        assert report["moved"] > 0
        size = sum(len(texts[name]) for name in dropped)
        assert (
            f"{len(dropped)} passages of training, {size:,} characters, are dropped: they share more than 10% with "
            "validation, which would become too large with them; `overlap` report keeps them"
        ) in said


def test_a_split_by_families_is_left_as_it_is_and_reported(texts, tmp_path, said):
    rng = random.Random(2)
    names = list(texts)
    for number, name in enumerate(names[:60]):  # a little of each stands in another one, too
        words = texts[name].split()
        texts[f"quoting {number}"] = f"{text_of(rng, 300)} {' '.join(words[:16])} {text_of(rng, 300)}"
    corpus = corpus_of(texts, tmp_path)
    divide = by_family(0.2)(corpus)
    sides = {name: Sides(divide(Document(name, text))) for name, text in texts.items()}
    assert {name for name, own in sides.items() if own == {VALIDATION}} == validation_names(texts, 0.2)
    assert all(len(own.pieces) == 1 for own in sides.values())
    report = corpus.report["overlap"]
    assert report["after"] == report["before"] == pytest.approx(share_of(sides), abs=1e-12)
    assert 0 < report["after"] < 0.05
    assert report["moved"] == report["dropped"] == 0
    assert said[0] == f"overlap: {report['after']:.2%} of validation's 13-grams stand in training"
    assert not any("`overlap`" in line for line in said)  # which that recipe has not


@pytest.mark.parametrize("text", ["A good text. " * 2000, "x" * 9999, "A good text. " * 200])
def test_all_that_repeats_itself_can_still_be_divided_and_mostly_trains(tmp_path, text):
    sides, _ = divided({"a": text}, tmp_path)
    assert sides["a"] == {TRAIN, VALIDATION}
    assert sum(len(piece.text) for piece in sides["a"].pieces if piece.split == TRAIN) > len(text) / 2
    grown, _ = divided({"a": text, "b": "Another text."}, tmp_path / "b", before=tmp_path / "of-part-1")
    assert grown["a"].pieces == sides["a"].pieces


@pytest.mark.parametrize(("setting", "value"), [("max_overlap", 0), ("max_overlap", 1.5), ("share", 0.7)])
def test_shares_that_cannot_be_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        SplitByContent(**{setting: value})


def test_no_number_of_documents_changes_the_rule(texts, tmp_path):
    """99, 100 and 101 documents, divided anew each time: the same sides for all that they share."""
    found = [divided(dict(list(texts.items())[:count]), tmp_path / str(count))[0] for count in (99, 100, 101)]
    for name in list(texts)[:99]:
        assert found[0][name] == found[1][name] == found[2][name]


def test_the_report_does_not_hang_on_slices(texts, tmp_path):
    sides, _ = divided(texts, tmp_path / "first")
    texts, _ = planted(texts, sides, CHANGES["one word"])
    found = []
    for size in (20_000, 10**9):
        corpus = corpus_of(texts, tmp_path / str(size), slice_bytes=size)
        divide = SplitByContent()(corpus)
        found.append((corpus.report["overlap"], divide.threshold, divide.exceptions))
    assert found[0] == found[1]
    assert len(list(Path(tmp_path / "20000").glob("sort_grams-*.json"))) > 10


def test_a_long_text_and_its_twin_in_capitals_which_is_cut_at_other_places_are_on_one_side(tmp_path):
    rng = random.Random(4)
    texts = {f"{number}": text_of(rng, 300) for number in range(60)}
    texts |= {"long": text_of(rng, 6000)}
    texts |= {"capitals": texts["long"].upper()}
    for mode in ("move", "drop"):
        sides, report = divided(texts, tmp_path / mode, overlap=mode)
        assert report["before"] > 0.1
        assert report["after"] < 0.02
        assert report["left"] == 0
        assert share_of(sides) == pytest.approx(report["after"])
