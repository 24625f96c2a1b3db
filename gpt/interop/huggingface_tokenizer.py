"""A tokenizer in Hugging Face's files, both ways: tokenizer.json, or vocab.json and merges.txt."""

import json
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.tokens.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, from_bytes, to_bytes

# tokenizers' regular expressions have no possessive quantifiers; without them the pattern means the same.
GPT2_PATTERN_PLAIN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_VOCABULARY = 50257
OUR_TOKENIZER = "gpt_tokenizer.json"  # beside theirs, so that a round trip keeps every kind


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a Hugging Face directory: ours if we exported it, else a byte-level BPE like GPT-2's.

    Raises InputError if there is none, or it is of another kind.
    """
    if (path / OUR_TOKENIZER).exists():
        return Tokenizer.load(path / OUR_TOKENIZER)
    if (path / "tokenizer.json").exists():
        vocabulary, merges = _read_bpe(path / "tokenizer.json")
    elif (path / "vocab.json").exists() and (path / "merges.txt").exists():
        vocabulary = read_json(path / "vocab.json")
        lines = (path / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    elif vocab_size == GPT2_VOCABULARY:
        return Tokenizer.gpt2()
    else:
        raise InputError(
            f"{path}: holds no tokenizer (tokenizer.json); copy there the one that the model was trained with"
        )
    return _from_vocabulary(path, vocabulary, merges)


def _from_vocabulary(path: Path, vocabulary: dict[str, int], merges: list[list[str]]) -> Tokenizer:
    """Ids must be ranks: bytes and merges in order, and end-of-text last, as in GPT-2's own vocabulary."""
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    end_of_text = END_OF_TEXT in vocabulary
    merged = [vocabulary.get(left + right, -1) for left, right in merges]
    in_order = merged == sorted(merged) and -1 not in merged and sorted(vocabulary.values()) == list(range(len(tokens)))
    if not in_order or (end_of_text and tokens[-1] != END_OF_TEXT):
        raise InputError(
            f"{path}: its tokenizer's ids are not in the order of its merges, with {END_OF_TEXT} last, as GPT-2's are; "
            "only such a tokenizer can be read"
        )
    try:
        ranks = [to_bytes(token) for token in tokens[: len(tokens) - end_of_text]]
    except KeyError as error:
        raise InputError(f"{path}: its tokenizer has a token that is not byte-level BPE (character {error})") from None
    kind = "gpt2" if len(tokens) == GPT2_VOCABULARY else "bpe"
    return Tokenizer(kind, ranks, GPT2_PATTERN, end_of_text)


def _read_bpe(path: Path) -> tuple[dict[str, int], list[list[str]]]:
    """(vocabulary, merges) of a tokenizer.json. Raises InputError unless it is byte-level with GPT-2's pattern."""
    content = read_json(path)
    model = content.get("model") or {}
    pre_tokenizer = content.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    byte_level = steps[-1].get("type") == "ByteLevel" and not steps[-1].get("add_prefix_space", True)
    patterns = [step.get("pattern", {}).get("Regex") for step in steps[:-1]]
    expected = [] if steps[-1].get("use_regex", True) else [GPT2_PATTERN_PLAIN]
    if "merges" not in model or not byte_level or patterns != expected:
        raise InputError(f"{path}: is not a byte-level BPE with GPT-2's pattern; only that kind is read")
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return model["vocab"] | added, merges


def write_tokenizer(tokenizer: Tokenizer, to: Path, context: int) -> None:
    """tokenizer.json and tokenizer_config.json for AutoTokenizer, and our own file beside them."""
    write_json(to / "tokenizer.json", _their_tokenizer(tokenizer))
    special = (
        {} if tokenizer.end_of_text is None else dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(to / "tokenizer_config.json", config | special)
    tokenizer.save(to / OUR_TOKENIZER)


def _their_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json: a byte-level BPE, or for characters a plain list of words of one character."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as TheirTokenizer

    if tokenizer.kind == "char":
        vocabulary = {token.decode(): rank for rank, token in enumerate(tokenizer.ranks)}
        theirs = TheirTokenizer(models.WordLevel(vocabulary))
        theirs.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        theirs.decoder = decoders.Fuse()
    else:
        vocabulary = {from_bytes(token): rank for rank, token in enumerate(tokenizer.ranks)}
        merges = [(from_bytes(left), from_bytes(right)) for left, right in recover_merges(tokenizer.ranks)]
        theirs = TheirTokenizer(models.BPE(vocabulary, merges))
        theirs.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(GPT2_PATTERN_PLAIN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        theirs.decoder = decoders.ByteLevel()
    if tokenizer.end_of_text is not None:
        theirs.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        assert theirs.token_to_id(END_OF_TEXT) == tokenizer.end_of_text
    return json.loads(theirs.to_str())


def recover_merges(ranks: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merges of a BPE from its tokens, in order of rank.

    tiktoken merges any two neighbours whose joint bytes are a token, by the token's rank; so every way to split
    a token into two tokens is listed, which makes the merging of `tokenizers` the same.
    """
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    merges = []
    for token in ranks:
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in pairs if left in rank_of and right in rank_of]
        merges += sorted(known, key=lambda pair: (rank_of[pair[0]], rank_of[pair[1]]))
    return merges


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
