import base64
import functools
import hashlib
import itertools
import json
import random
from unittest import mock

import pytest
import tiktoken
import tokenizers
from helpers import assigned, python_text, random_text
from tokenizers import models, pre_tokenizers, trainers

from gpt.errors import InputError
from gpt.generation.completion import TextEngine, opening_ids
from gpt.generation.sampling import SamplingConfig
from gpt.generation.score import score_text
from gpt.text.spelling import byte_alphabet
from gpt.text.tokenizer import END_OF_TEXT, GPT2_PATTERN, LONGEST_RUN, StreamDecoder, Tokenizer, parts_of


def random_texts(count=1000):
    return [random_text(random.Random(seed), 60) for seed in range(count)]


def test_gpt2_encodes_like_tiktoken(gpt2_tokenizer):
    reference = tiktoken.get_encoding("gpt2")
    assert gpt2_tokenizer.vocab_size == reference.n_vocab == 50257
    assert gpt2_tokenizer.end_of_text == reference.eot_token
    for text in random_texts():
        assert gpt2_tokenizer.encode(text) == reference.encode_ordinary(text)


HOSTILE_CHARACTERS = [*map(chr, range(32)), "\x7f", "\u200b", "\u202e", "\ufeff", "\ufffd", "\U0010ffff", "\u0301"]
BROKEN = ["\ud800", "\udc80", "\udfff\ud800", "\ud83d\ude00"]  # as surrogateescape leaves bytes that are not UTF-8


@functools.cache
def hostile_texts(count=1000):
    rng = random.Random(0)
    pieces = [*HOSTILE_CHARACTERS, *BROKEN, END_OF_TEXT, "<|", "|>", "endoftext", " ", "\n", "a", "é", "中", "😀"]
    long = ["a", "ab ", ".", "_", "★", "—", " ", "\n", "\xa0", "\0", "1", "中", "😀", "\ud800", "\u0301", END_OF_TEXT]
    texts = ["", " ", "\t\n ", END_OF_TEXT, "a" * 60_000, "★" * 60_000, *(piece * 20_000 for piece in long)]
    texts += ["".join(rng.choices("a1.b2,Z9_ ", k=40_000)), "".join(rng.choices("abcdefgh", k=40_000))]
    while len(texts) < count:
        texts.append("".join(rng.choices(pieces, k=rng.choice((1, 3, 10, 200)))))
    return texts


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "bytes"])
def test_no_text_is_end_of_text_and_none_is_lost(request, kind):
    """Tokens give back what was said, all but what is not Unicode. How long it takes is measured by
    `make bench-generate`; a run that would take too long is cut."""
    tokenizer = {
        "gpt2": lambda: request.getfixturevalue("gpt2_tokenizer"),
        "bpe": lambda: request.getfixturevalue("bpe"),
        "bytes": Tokenizer.utf8_bytes,
    }[kind]()
    for text in hostile_texts():
        ids = tokenizer.encode(text)
        assert tokenizer.end_of_text not in ids
        said = b"".join(map(tokenizer.ranks.__getitem__, ids)).decode()
        assert said == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_only_runs_beyond_the_longest_are_cut(gpt2_tokenizer):
    reference = tiktoken.get_encoding("gpt2")
    rng = random.Random(1)
    word = "".join(rng.choices("abcdefgh", k=LONGEST_RUN))
    code = "".join(rng.choices("ab12._()", k=5 * LONGEST_RUN))
    for text in (word, f"it's {word} {word}!", f"{word}1{word}.{word}", code, " " * LONGEST_RUN + word + "\n\n x"):
        assert gpt2_tokenizer.encode(text) == reference.encode_ordinary(text)
    for text in (word + "a", " " * 20_000 + "x", ". ." + "." * 40_000 + "a"):
        parts = parts_of(text)
        assert "".join(parts) == text
        assert len(parts) > 1
        assert gpt2_tokenizer.encode(text) == [i for part in parts for i in reference.encode_ordinary(part)]


def test_a_run_is_cut_after_each_longest_run(monkeypatch):
    """By a plain reading of what a run is."""
    kinds = {"a": "letter", "é": "letter", "1": "number", ".": "other", "😀": "other", " ": "space", "\n": "space"}
    rng = random.Random(2)
    for longest in (1, 2, 5):
        monkeypatch.setattr("gpt.text.tokenizer.LONGEST_RUN", longest)
        for _ in range(2000):
            text = "".join(rng.choice("aé1.😀 \n") * rng.randint(1, 3 * longest) for _ in range(rng.randrange(6)))
            cuts, place = [0], 0
            for _, run in itertools.groupby(text, kinds.__getitem__):
                length = len(list(run))
                cuts += range(place + longest, place + length, longest)
                place += length
            assert parts_of(text) == [text[i:j] for i, j in itertools.pairwise([*cuts, len(text)])]


def test_pairs_of_surrogates_become_one_character_before_anything_is_cut():
    tokenizer = Tokenizer.utf8_bytes()
    text = "." + "\ud83d\ude00" * LONGEST_RUN + "\ud83d"
    assert tokenizer.decode(tokenizer.encode(text)) == "." + "😀" * LONGEST_RUN + "\ufffd"


def test_without_gpt2_file_the_error_says_what_to_do(monkeypatch):
    def refuse(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    with pytest.raises(InputError, match=r"TIKTOKEN_CACHE_DIR.*bpe:4096"):
        Tokenizer.gpt2()


def test_trained_bpe_encodes_like_the_library_that_trained_it(bpe):
    """The same training through `tokenizers` alone: equal vocabulary, equal ids."""
    reference = tokenizers.Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=599, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    reference.train_from_iterator([python_text()], trainer)
    assert bpe.vocab_size == 600
    for text in [*map(assigned, random_texts()), python_text()[:5000]]:
        assert bpe.encode(text) == reference.encode(text).ids


def test_every_kind_gives_its_text_back(bpe):
    texts = random_texts(200)
    for tokenizer in (bpe, Tokenizer.utf8_bytes(), Tokenizer.char("".join(texts), end_of_text=True)):
        for text in texts:
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.encode(text))


def test_bytes_are_the_utf8_bytes():
    assert Tokenizer.utf8_bytes().encode("aé") == list("aé".encode())
    assert Tokenizer.utf8_bytes().vocab_size == 257


def test_characters_are_numbered_in_code_point_order():
    tokenizer = Tokenizer.char("héllo\n", end_of_text=False)
    assert tokenizer.vocab_size == 5
    assert tokenizer.end_of_text is None
    assert tokenizer.encode("\nhéo") == [0, 1, 4, 3]
    assert Tokenizer.char("ab", end_of_text=True).end_of_text == 2


def test_an_unknown_character_is_named():
    with pytest.raises(InputError, match=r"2 character\(s\).*'x', 'y'"):
        Tokenizer.char("abc", end_of_text=True).encode("abxy")


MARKED = [END_OF_TEXT, f"a{END_OF_TEXT}b", f" {END_OF_TEXT}{END_OF_TEXT}\n", f"{END_OF_TEXT[:-1]} {END_OF_TEXT}"]


@pytest.fixture(params=["gpt2", "bytes", "char", "char of one document", "bpe"])
def each(request, bpe):
    """A tokenizer of each kind."""
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2_tokenizer")
    if request.param == "bpe":
        return bpe
    if request.param == "bytes":
        return Tokenizer.utf8_bytes()
    return Tokenizer.char("".join([*MARKED, "\ufffd"]), end_of_text=request.param == "char")


@pytest.mark.parametrize("text", MARKED)
def test_text_never_becomes_end_of_text(each, text):
    """By whatever way it is encoded: alone, with others, into arrays, as a prompt, or to be scored."""
    ids = each.encode(text)
    assert each.end_of_text not in ids
    assert each.decode(ids) == text
    assert [batch.tolist() for batch in each.encode_batch([text, text], threads=2)] == [ids, ids]
    assert opening_ids(each, text) == ids
    loaded = Tokenizer("bpe" if each.kind == "gpt2" else each.kind, each.ranks, each.pattern, bool(each.end_of_text))
    assert loaded.encode(text) == ids


def test_end_of_text_in_a_text_is_scored_and_continued_as_text(model):
    tokenizer = Tokenizer.utf8_bytes()
    assert bytes(score.id for score in score_text(model, tokenizer, MARKED[1])) == MARKED[1].encode()
    sampling = SamplingConfig(max_tokens=2, seed=1)
    engine = TextEngine(model, tokenizer)
    ((_, _, result), *_) = engine.complete([MARKED[1]], sampling, top_logprobs=0, echo=True)
    assert bytes(score.id for score in result.prompt_tokens) == MARKED[1].encode()


def test_batches_encode_like_single_texts(bpe):
    texts = random_texts(50) + MARKED + ["", "\ud800", "a" * 40_000 + END_OF_TEXT]
    assert [ids.tolist() for ids in bpe.encode_batch(texts, threads=2)] == [bpe.encode(text) for text in texts]


EVERYTHING = "".join(map(chr, range(0x110000)))
RUNS = ["a", "^", " ", "\n", "\t ", "\0", "\u0301", "e\u0301", "\u4e2d", "\U0001f642", "'", "0", "\u3000", "\ud800"]


def test_all_of_unicode_and_long_runs_of_anything_are_encoded(each):
    """Nothing makes tiktoken panic; whatever UTF-8 can hold comes back."""
    if each.kind == "char":
        with pytest.raises(InputError, match="lacks"):
            each.encode(EVERYTHING[::20])
        return
    for text in [EVERYTHING, *(run * 20_000 for run in RUNS), "\ud83d\ude42", "\ude42\ud83d"]:
        expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert each.decode(each.encode(text)).replace("\ufffd", "") == expected.replace("\ufffd", "")


def test_a_panic_of_tiktokens_is_a_sentence(bpe):
    """Which takes a vocabulary that lacks a byte; none of ours can."""
    broken = Tokenizer.utf8_bytes()
    broken._encoding = tiktoken.Encoding("broken", pat_str=".", mergeable_ranks={b"a": 0, b"b": 1}, special_tokens={})
    with pytest.raises(InputError, match="tiktoken cannot encode the text"):
        broken.encode("xyz")
    with pytest.raises(InputError, match="tiktoken cannot encode the text"):
        broken.encode_batch(["xyz"], threads=2)


def test_streams_whole_characters_only():
    tokenizer = Tokenizer.utf8_bytes()
    text = "aé🙂e\u0301"
    pieces = list(tokenizer.stream_decode(tokenizer.encode(text)))
    assert pieces[:3] == ["a", "", "é"]
    assert pieces[3:7] == ["", "", "", "🙂"]
    assert "".join(pieces) == text
    decoder = StreamDecoder(tokenizer.token_bytes)
    assert decoder.push(0xF0) == ""
    assert decoder.finish() == "\ufffd"


def test_bytes_that_are_no_text_become_replacement_characters():
    assert Tokenizer.utf8_bytes().decode([0xFF, 0x61]) == "\ufffda"


@pytest.mark.parametrize("token", [-1, 257, 10**9])
def test_ids_out_of_range_are_refused(token):
    with pytest.raises(InputError, match="outside this vocabulary of 257"):
        Tokenizer.utf8_bytes().decode([token])


def test_byte_lengths_add_up_to_the_text(bpe):
    text = python_text()[:3000] + "é🙂"
    assert bpe.byte_lengths()[bpe.encode(text)].sum() == len(text.encode())
    assert bpe.byte_lengths()[bpe.end_of_text] == 0


def test_a_saved_tokenizer_is_the_same(bpe, tmp_path):
    bpe.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.kind, loaded.fingerprint, loaded.vocab_size) == ("bpe", bpe.fingerprint, 600)
    assert loaded.encode(python_text()) == bpe.encode(python_text())


def test_a_fingerprint_is_worked_out_once(monkeypatch):
    """GPT-2's takes longer than opening a small dataset."""
    tokenizer = Tokenizer.utf8_bytes()
    asked = mock.Mock(return_value=tokenizer._content())
    monkeypatch.setattr(tokenizer, "_content", asked)
    assert len({tokenizer.fingerprint for _ in range(3)}) == 1
    assert asked.call_count == 1


def test_fingerprints_tell_tokenizers_apart(bpe):
    others = [
        Tokenizer.utf8_bytes(),
        Tokenizer.char("ab", end_of_text=True),
        Tokenizer.char("ab", end_of_text=False),
        Tokenizer.train_bpe([python_text()], 500),
    ]
    assert len({bpe.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content | {"ranks": content["ranks"][:-1]},
        lambda content: content | {"version": 99},
        lambda content: content | {"format": "something else"},
        lambda content: {key: value for key, value in content.items() if key != "pattern"},
        lambda content: [],
    ],
)
def test_a_damaged_file_is_refused_by_name(bpe, tmp_path, damage):
    path = tmp_path / "tokenizer.json"
    bpe.save(path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


BYTES = [bytes([byte]) for byte in range(256)]
UNSOUND = {
    "a pattern of its own": {"pattern": r"\w+|\W"},
    "a pattern that never ends": {"pattern": r"(a|a|aa)+$|(x+x+)+y"},
    "a pattern that is none": {"pattern": "("},
    "a pattern of another kind": {"pattern": r"(?s:.)"},
    "no pattern": {"pattern": None},
    "a byte missing": {"ranks": BYTES[:65] + BYTES[66:]},
    "most bytes missing": {"ranks": [b"a", b"b"]},
    "no token": {"ranks": []},
    "a token twice": {"ranks": [*BYTES, b"ab", b"ab"]},
    "an empty token": {"ranks": [*BYTES, b""]},
    "a kind that is none": {"kind": "wordpiece"},
    "no kind": {"kind": None},
    "a character of two": {"kind": "char", "pattern": r"(?s:.)", "ranks": [b"a", b"ab"]},
    "half a character": {"kind": "char", "pattern": r"(?s:.)", "ranks": [b"a", b"\xc3"]},
    "a surrogate": {"kind": "char", "pattern": r"(?s:.)", "ranks": [b"a", b"\xed\xa0\x80"]},
    "another special token": {"special_tokens": {"<|pad|>": 256}},
    "two special tokens with a gap": {"special_tokens": {END_OF_TEXT: 256, "<|pad|>": 258}},
    "special tokens in another order": {"special_tokens": {"<|pad|>": 256, END_OF_TEXT: 257}},
    "end-of-text elsewhere": {"special_tokens": {END_OF_TEXT: 0}},
    "end-of-text beyond": {"special_tokens": {END_OF_TEXT: 10**30}},
    "a list of special tokens": {"special_tokens": [END_OF_TEXT]},
}


@pytest.mark.parametrize("change", UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_vocabulary_is_refused_before_tiktoken_meets_it(tmp_path, change):
    """With a fingerprint that fits it, as whoever means harm would write."""
    content = {"kind": "bpe", "pattern": GPT2_PATTERN, "ranks": BYTES, "special_tokens": {}} | change
    content["ranks"] = [base64.b64encode(token).decode() for token in content["ranks"]]
    hashed = {name: content[name] for name in ("pattern", "ranks", "special_tokens")}
    fingerprint = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    content |= {"format": "gpt-tokenizer", "version": 1, "fingerprint": fingerprint}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with (
        mock.patch.object(tiktoken, "Encoding", side_effect=AssertionError("tiktoken met it")),
        pytest.raises(InputError, match=r"tokenizer\.json: is damaged"),
    ):
        Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("ranks", ["abc", 5, [5], [None], ["é"], ["a"], ["!!!!"], {"a": 1}])
def test_ranks_that_are_none_are_refused(tmp_path, ranks):
    Tokenizer.utf8_bytes().save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text()) | {"ranks": ranks}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer\.json: is damaged"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"format": ')
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(tmp_path / "torn.json")


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(InputError, match="at least 257"):
        Tokenizer.train_bpe(["abc"], 100)


def test_a_small_text_gives_a_smaller_vocabulary():
    assert 257 <= Tokenizer.train_bpe(["abab"], 4096).vocab_size < 270


def test_byte_alphabet_is_that_of_the_tokenizers_library():
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    reference = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert reference.pre_tokenize_str(" é")[0][0] == "".join(byte_alphabet()[byte] for byte in " é".encode())
