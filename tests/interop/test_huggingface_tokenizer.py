import json
import random

import pytest
import tokenizers
from helpers import assigned, python_text, random_text, transformers
from tiktoken.load import read_file_cached

from gpt import GPT, InputError, ModelConfig, Tokenizer
from gpt.interop.huggingface_export import export
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER, read_tokenizer, recover_merges
from gpt.text.added import with_added
from gpt.text.spelling import from_bytes
from gpt.text.tokenizer import END_OF_TEXT


def exported(tokenizer, to):
    export(
        GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=16, vocab_size=tokenizer.vocab_size)),
        tokenizer,
        to,
    )
    return to


def require_same_ids(tokenizer, theirs, texts):
    assert len(theirs) == tokenizer.vocab_size
    for text in texts:
        ids = tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids, repr(text)
        assert theirs.decode(ids) == text


def texts(count=1000):
    return [assigned(random_text(random.Random(seed), 60)) for seed in range(count)]


def test_a_trained_bpe_encodes_alike_in_transformers(bpe, tmp_path):
    require_same_ids(
        bpe,
        transformers.AutoTokenizer.from_pretrained(exported(bpe, tmp_path / "e")),
        [*texts(), python_text()[:20_000]],
    )


def test_gpt2_encodes_alike_in_transformers(gpt2_tokenizer, tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(exported(gpt2_tokenizer, tmp_path / "e"))
    require_same_ids(gpt2_tokenizer, theirs, [*texts(), python_text()[:20_000]])
    assert theirs.eos_token_id == 50256


def test_bytes_and_characters_encode_alike_in_transformers(tmp_path):
    some = texts(200)
    for i, tokenizer in enumerate([Tokenizer.utf8_bytes(), Tokenizer.char("".join(some), end_of_text=True)]):
        theirs = transformers.AutoTokenizer.from_pretrained(exported(tokenizer, tmp_path / str(i)))
        require_same_ids(tokenizer, theirs, some)


def test_end_of_text_is_special_there_too(bpe, tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(exported(bpe, tmp_path / "e"))
    assert theirs.eos_token == END_OF_TEXT
    assert theirs.eos_token_id == bpe.end_of_text


@pytest.mark.parametrize("own_file", [True, False])
def test_an_export_is_read_back(bpe, tmp_path, own_file):
    """By our own file, or, without it, from Hugging Face's tokenizer.json."""
    path = exported(bpe, tmp_path / "e")
    if not own_file:
        (path / OUR_TOKENIZER).unlink()
    assert read_tokenizer(path, bpe.vocab_size).fingerprint == bpe.fingerprint


@pytest.mark.parametrize("own_file", [True, False])
def test_special_tokens_behind_end_of_text_are_read_back(bpe, tmp_path, own_file):
    """Such as a <pad> that somebody has added: they are ids that no text is encoded as."""
    tokenizer = with_added(bpe, ["<pad>", "<|im_end|>"])
    path = exported(tokenizer, tmp_path / "e")
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert theirs.convert_tokens_to_ids(["<pad>", "<|im_end|>"]) == [bpe.vocab_size, bpe.vocab_size + 1]
    assert theirs.encode("a<pad>b") == [*bpe.encode("a"), bpe.vocab_size, *bpe.encode("b")]
    if not own_file:
        (path / OUR_TOKENIZER).unlink()
    assert read_tokenizer(path, tokenizer.vocab_size).fingerprint == tokenizer.fingerprint


def test_their_gpt2_tokenizer_is_read(gpt2_tokenizer, tmp_path):
    """As GPT2Tokenizer saves it, and as vocab.json and merges.txt alone."""
    for name, original in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):  # OpenAI's own files
        content = read_file_cached(f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{original}")
        (tmp_path / name).write_bytes(content)
    assert read_tokenizer(tmp_path, 50257).fingerprint == gpt2_tokenizer.fingerprint
    transformers.GPT2Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved", 50257).fingerprint == gpt2_tokenizer.fingerprint


def test_every_way_to_make_a_token_is_a_merge():
    ranks = [b"a", b"b", b"c", b"ab", b"bc", b"abc"]
    assert recover_merges(ranks) == [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc"), (b"ab", b"c")]


def test_without_a_tokenizer_gpt2s_size_means_gpt2s(gpt2_tokenizer, tmp_path):
    assert read_tokenizer(tmp_path, 50257).fingerprint == gpt2_tokenizer.fingerprint
    with pytest.raises(InputError, match="holds no tokenizer"):
        read_tokenizer(tmp_path, 5000)


def test_other_kinds_of_tokenizer_are_refused(bpe, tmp_path):
    path = exported(bpe, tmp_path / "e")
    (path / OUR_TOKENIZER).unlink()
    content = json.loads((path / "tokenizer.json").read_text())
    for change in (
        {"model": {"type": "WordLevel", "vocab": {}}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel"}},  # which puts a space before a text unless it is told not to
    ):
        (path / "tokenizer.json").write_text(json.dumps(content | change))
        with pytest.raises(InputError, match="not a byte-level BPE"):
            read_tokenizer(path, 600)
    swapped = dict(content["model"], merges=content["model"]["merges"][::-1])
    (path / "tokenizer.json").write_text(json.dumps(content | {"model": swapped}))
    with pytest.raises(InputError, match="not in the order of its merges"):
        read_tokenizer(path, 600)


def trained_by_them(to, special_tokens=()):
    """A tokenizer that tokenizers has trained, whose merges make each token in one way."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=alphabet, special_tokens=[*special_tokens], show_progress=False
    )
    theirs.train_from_iterator([python_text()], trainer)
    theirs.save(str(to / "tokenizer.json"))
    return theirs


def test_a_tokenizer_that_they_trained_encodes_alike(tmp_path):
    theirs = trained_by_them(tmp_path)
    ours = read_tokenizer(tmp_path, 800)
    for text in [*texts(200), python_text()[:20_000]]:
        assert theirs.encode(text).ids == ours.encode(text)


def test_special_tokens_before_all_others_are_refused(tmp_path):
    """As `train_new_from_iterator` puts them."""
    trained_by_them(tmp_path, [END_OF_TEXT, "<pad>"])
    with pytest.raises(InputError, match=r"it has the id 0 here.*: run this model with transformers, or by ids alone"):
        read_tokenizer(tmp_path, 800)


@pytest.mark.parametrize(
    ("more", "merges", "named"),
    [
        (["ab", "bc", "abc"], ["a b", "b c", "a bc"], "abc"),  # a and b are merged before b and c
        (["ab", "<pad>"], ["a b"], "<pad>"),
    ],
)
def test_a_token_that_merges_do_not_make_is_refused(tmp_path, more, merges, named):
    """Ours would find it in a text, and theirs does not."""
    content = {"model": {"type": "BPE", "vocab": VOCABULARY | {token: 256 + n for n, token in enumerate(more)}}}
    content |= {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, "trim_offsets": True}
    }
    content["model"]["merges"] = merges
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert len(theirs.encode(named).ids) > 1
    with pytest.raises(InputError, match=f"has the token '{named}', which its merges do not make of its bytes"):
        read_tokenizer(tmp_path, 0)


VOCABULARY = {from_bytes(bytes([byte])): byte for byte in range(256)}
UNSOUND = {
    "ids that are text": (VOCABULARY | {"ab": "256"}, ["a b"]),
    "ids that are true": (VOCABULARY | {from_bytes(b"\1"): True}, []),
    "ids that are fractions": (VOCABULARY | {"ab": 256.0}, ["a b"]),
    "an id twice": (VOCABULARY | {"ab": 255}, ["a b"]),
    "an id left out": (VOCABULARY | {"ab": 257}, ["a b"]),
    "an id below 0": (VOCABULARY | {"ab": -1}, ["a b"]),
    "a huge id": (VOCABULARY | {"ab": 10**40}, ["a b"]),
    "a byte missing": ({token: id for token, id in VOCABULARY.items() if id < 255}, []),
    "an empty token": (VOCABULARY | {"": 256}, []),
    "a surrogate": (VOCABULARY | {"\ud800": 256}, []),
    "another alphabet": (VOCABULARY | {"漢": 256}, []),
    "a merge of three": (VOCABULARY | {"abc": 256}, ["a b c"]),
    "a merge of one": (VOCABULARY | {"abc": 256}, ["abc"]),
    "a merge of numbers": (VOCABULARY, [[1, 2]]),
    "a merge that is null": (VOCABULARY, [None]),
    "a merge of what is unknown": (VOCABULARY, ["x 漢"]),
    "no vocabulary": ([], []),
}


@pytest.mark.parametrize(("vocabulary", "merges"), UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_vocabulary_is_a_sentence(tmp_path, vocabulary, merges):
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False}
    content = {"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}, "pre_tokenizer": pre_tokenizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=str(tmp_path)):
        read_tokenizer(tmp_path, 257)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = [merge if isinstance(merge, str) else "one" for merge in merges]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=str(tmp_path)):
        read_tokenizer(tmp_path, 257)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"model": {"type": "BPE", "vocab": VOCABULARY, "merges": [], "dropout": 0.5}},
        {"model": {"type": "BPE", "vocab": VOCABULARY, "merges": [], "end_of_word_suffix": "</w>"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [5, "x"]}},
        {"pre_tokenizer": {"pretokenizers": [{"pattern": {"Regex": "(a+)+$"}}, {"type": "ByteLevel"}]}},
        {"added_tokens": [{"content": "x"}]},
        {"added_tokens": 5},
        {"model": {"vocab": VOCABULARY, "merges": 5}},
    ],
)
def test_what_does_something_else_to_a_text_is_refused(tmp_path, change):
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False}
    content = {"model": {"type": "BPE", "vocab": VOCABULARY, "merges": []}, "pre_tokenizer": pre_tokenizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert read_tokenizer(tmp_path, 256).vocab_size == 256
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path, 256)
