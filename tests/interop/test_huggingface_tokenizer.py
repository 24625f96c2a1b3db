import itertools
import json
import random

import pytest
from helpers import assigned, python_text, random_text
from transformers import AutoTokenizer, GPT2Tokenizer

from gpt import GPT, InputError, ModelConfig, Tokenizer
from gpt.interop.huggingface import export
from gpt.interop.huggingface_tokenizer import OUR_TOKENIZER, read_tokenizer, recover_merges
from gpt.tokens.tokenizer import END_OF_TEXT, from_bytes


def exported(tokenizer, to):
    export(GPT(ModelConfig(n_layer=1, n_head=1, width=8, context=16, vocab_size=tokenizer.vocab_size)), tokenizer, to)
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
        bpe, AutoTokenizer.from_pretrained(exported(bpe, tmp_path / "e")), [*texts(), python_text()[:20_000]]
    )


def test_gpt2_encodes_alike_in_transformers(gpt2_tokenizer, tmp_path):
    theirs = AutoTokenizer.from_pretrained(exported(gpt2_tokenizer, tmp_path / "e"))
    require_same_ids(gpt2_tokenizer, theirs, [*texts(), python_text()[:20_000]])
    assert theirs.eos_token_id == 50256


def test_bytes_and_characters_encode_alike_in_transformers(tmp_path):
    some = texts(200)
    for i, tokenizer in enumerate([Tokenizer.utf8_bytes(), Tokenizer.char("".join(some), end_of_text=True)]):
        theirs = AutoTokenizer.from_pretrained(exported(tokenizer, tmp_path / str(i)))
        require_same_ids(tokenizer, theirs, some)


def test_end_of_text_is_special_there_too(bpe, tmp_path):
    theirs = AutoTokenizer.from_pretrained(exported(bpe, tmp_path / "e"))
    assert theirs.eos_token == END_OF_TEXT
    assert theirs.eos_token_id == bpe.end_of_text


@pytest.mark.parametrize("own_file", [True, False])
def test_an_export_is_read_back(bpe, tmp_path, own_file):
    """By our own file, or, without it, from Hugging Face's tokenizer.json."""
    path = exported(bpe, tmp_path / "e")
    if not own_file:
        (path / OUR_TOKENIZER).unlink()
    assert read_tokenizer(path, bpe.vocab_size).fingerprint == bpe.fingerprint


def test_their_gpt2_tokenizer_is_read(gpt2_tokenizer, tmp_path):
    """As GPT2Tokenizer saves it, and as vocab.json and merges.txt alone."""
    vocabulary = {from_bytes(token): rank for rank, token in enumerate(gpt2_tokenizer.ranks)} | {END_OF_TEXT: 50256}
    merges = [f"{from_bytes(left)} {from_bytes(right)}" for left, right in original_merges(gpt2_tokenizer.ranks)]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    assert read_tokenizer(tmp_path, 50257).fingerprint == gpt2_tokenizer.fingerprint
    GPT2Tokenizer(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]).save_pretrained(
        tmp_path / "saved"
    )
    assert read_tokenizer(tmp_path / "saved", 50257).fingerprint == gpt2_tokenizer.fingerprint


def original_merges(ranks):
    """The one merge that made each token: the split that lower ranks alone arrive at."""
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    for token in ranks[256:]:
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [rank_of.get(a + b, 10**9) for a, b in itertools.pairwise(parts)]
            at = min((rank, i) for i, rank in enumerate(joined) if rank < rank_of[token])[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        yield parts[0], parts[1]


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
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
    ):
        (path / "tokenizer.json").write_text(json.dumps(content | change))
        with pytest.raises(InputError, match="not a byte-level BPE"):
            read_tokenizer(path, 600)
    swapped = dict(content["model"], merges=content["model"]["merges"][::-1])
    (path / "tokenizer.json").write_text(json.dumps(content | {"model": swapped}))
    with pytest.raises(InputError, match="not in the order of its merges"):
        read_tokenizer(path, 600)
