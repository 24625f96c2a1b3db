"""tiktoken's own encodings, beside tiktoken itself."""

import random

import numpy as np
import pytest
import tiktoken
from helpers import random_text

from gpt.errors import InputError
from gpt.text.encoding import TiktokenEncoding
from gpt.text.tokenizer import GPT2_PATTERN


@pytest.fixture
def gapped(monkeypatch):
    """An encoding whose special ids leave gaps, as cl100k_base's do."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"he": 256, b"hel": 257}
    encoding = tiktoken.Encoding("gapped", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|end|>": 270})
    monkeypatch.setattr(tiktoken, "get_encoding", {"gapped": encoding}.__getitem__)
    return TiktokenEncoding("gapped")


def test_it_encodes_as_tiktoken(gpt2_tokenizer):
    ours, reference = TiktokenEncoding("gpt2"), tiktoken.get_encoding("gpt2")
    rng = random.Random(5)
    for text in [random_text(rng, 200) for _ in range(50)] + ["", "<|endoftext|>"]:
        assert ours.encode(text) == reference.encode_ordinary(text)
        [ids] = ours.encode_batch([text], threads=2)
        assert ids.tolist() == reference.encode_ordinary(text)
    assert ours.vocab_size == reference.n_vocab
    assert np.array_equal(ours.byte_lengths(), gpt2_tokenizer.byte_lengths())


def test_ids_may_have_gaps(gapped):
    assert gapped.vocab_size == 271
    assert gapped.encode("hello<|end|>")[:3] == [257, ord("l"), ord("o")]
    assert gapped.token_bytes(257) == b"hel"
    assert gapped.token_bytes(270) == b"<|end|>"
    lengths = gapped.byte_lengths()
    assert (lengths.shape, lengths[257], lengths[258:].sum()) == ((271,), 3, 0)


@pytest.mark.parametrize("token", [258, 269, 271, -1, 2**40])
def test_an_id_that_is_none_is_refused(gapped, token):
    with pytest.raises(InputError, match=f"token id {token} is none of this vocabulary"):
        gapped.token_bytes(token)


def test_an_encoding_that_cannot_be_had_is_a_sentence(monkeypatch):
    def fail(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(InputError, match=r"could not get the vocabulary cl100k_base \(ConnectionError\)"):
        TiktokenEncoding("cl100k_base")
