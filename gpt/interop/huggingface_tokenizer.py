"""A tokenizer in Hugging Face's files, both ways: tokenizer.json, or vocab.json and merges.txt."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gpt.errors import InputError
from gpt.files import read_json
from gpt.interop.huggingface_added_tokens import (
    ADDED,
    CONFIG,
    SPECIAL,
    Added,
    require_no_prefix_space,
    say_begun,
    with_added,
)
from gpt.log import log
from gpt.text.chat_template import FILE, ChatTemplate
from gpt.text.spelling import from_bytes, to_bytes
from gpt.text.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer

# tokenizers' regular expressions have no possessive quantifiers; without them the pattern means the same.
GPT2_PATTERN_PLAIN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_VOCABULARY = 50257
GPT2_SHA256 = "f43edfac33636658415b555d8c9565b369628e2ae2b143b6e19e119db456b3cf"  # of its tokens and merges
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", CONFIG, SPECIAL, ADDED, FILE)  # of those on the hub
OUR_TOKENIZER = "gpt_tokenizer.json"  # beside theirs, so that a round trip keeps every kind


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Read the tokenizer of a Hugging Face directory: ours if we exported it, else a byte-level BPE like GPT-2's.

    `vocab_size`: of the model, which may have no rows for tokens that were added last; 0 if it is not known.
    Raises InputError if there is none, or it is of another kind.
    """
    if (path / OUR_TOKENIZER).exists():
        return Tokenizer.load(path / OUR_TOKENIZER)
    if (path / "tokenizer.json").exists():
        vocabulary, merges, added = _read_bpe(path / "tokenizer.json")
    elif (path / "vocab.json").exists() and (path / "merges.txt").exists():
        vocabulary, merges, added = read_json(path / "vocab.json"), _read_merges(path / "merges.txt"), {}
    elif vocab_size == GPT2_VOCABULARY:
        return Tokenizer.gpt2()
    else:
        raise InputError(
            f"{path}: holds no tokenizer (tokenizer.json, or vocab.json and merges.txt); copy there the one that the "
            "model was trained with"
        )
    return _from_vocabulary(path, with_added(path, vocabulary, added), merges, vocab_size)


def _read_merges(file: Path) -> list[Any]:
    """Read the lines of a merges.txt, each of which should be two tokens. Raises InputError if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    return [line.split(" ") for line in lines if line and not line.startswith("#version")]


def _read_bpe(path: Path) -> tuple[dict[str, Any], list[Any], Added]:
    """Read (vocabulary, merges, added tokens) of a tokenizer.json.

    Raises InputError unless it is byte-level with GPT-2's pattern.
    """
    content = read_json(path)
    try:
        require_no_prefix_space(path, _steps(content)[-1])
        if not _is_gpt2s_kind(content):
            raise InputError(f"{path}: is not a byte-level BPE with GPT-2's pattern; only that kind is read")
        if (content.get("post_processor") or {}).get("special_tokens"):
            say_begun(path, "its post_processor")
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or []}
        special = {token["content"]: token.get("special", False) for token in content.get("added_tokens") or []}
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in content["model"]["merges"]]
        return content["model"]["vocab"] | added, merges, special
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not what tokenizers writes ({error!r})") from None


def _steps(content: dict[str, Any]) -> list[dict[str, Any]]:
    pre_tokenizer = content.get("pre_tokenizer") or {}
    return pre_tokenizer.get("pretokenizers", [pre_tokenizer])


def _from_vocabulary(path: Path, vocabulary: dict[str, Any], merges: list[Any], vocab_size: int) -> Tokenizer:
    """Require that ids are ranks: bytes and merges in order, and end-of-text last, as in GPT-2's own vocabulary.

    Special tokens may come behind it: those for which the model has no row are left out.
    """
    if not all(type(id) is int for id in vocabulary.values()):
        raise InputError(f"{path}: its tokenizer's vocabulary has ids that are no integers")
    pairs = all(isinstance(m, list) and len(m) == 2 and all(isinstance(part, str) for part in m) for m in merges)
    if not pairs:
        raise InputError(f"{path}: its tokenizer has merges that are not of two tokens each")
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    end_of_text = END_OF_TEXT in vocabulary
    behind = ordered.index(END_OF_TEXT) + 1 if end_of_text and vocabulary[END_OF_TEXT] >= len(merges) else len(ordered)
    tokens, added = ordered[:behind], ordered[behind:]  # such as a <pad> that somebody has added
    merged = [vocabulary.get(left + right, -1) for left, right in merges]
    in_order = (
        merged == sorted(merged) and -1 not in merged and sorted(vocabulary.values()) == list(range(len(ordered)))
    )
    if not in_order or (end_of_text and tokens[-1] != END_OF_TEXT):
        at = f" (it has the id {vocabulary[END_OF_TEXT]} here)" if end_of_text else ""
        raise InputError(
            f"{path}: its tokenizer's ids are not in the order of its merges, with {END_OF_TEXT} last{at}, as GPT-2's "
            "are; only such a tokenizer can be read: run this model with transformers, or by ids alone"
        )
    words = tokens[: len(tokens) - end_of_text]
    try:
        ranks = [to_bytes(token) for token in words]
    except KeyError as error:
        raise InputError(f"{path}: its tokenizer has a token that is not byte-level BPE (character {error})") from None
    _require_merged(path, words, merges)
    if 0 < vocab_size < len(ordered):
        added = _with_rows(path, added, len(ordered) - vocab_size)
    kind = "gpt2" if len(tokens) == GPT2_VOCABULARY else "bpe"
    try:
        return Tokenizer(kind, ranks, GPT2_PATTERN, end_of_text, added)
    except InputError as error:
        raise InputError(f"{path}: its tokenizer cannot be used: {error}") from None


def _with_rows(path: Path, added: list[str], missing: int) -> list[str]:
    """Leave out the last tokens, for which the model has no row. Raises InputError if they are more than the added."""
    if missing > len(added):
        raise InputError(
            f"{path}: its tokenizer has {missing - len(added)} tokens more than its model: they do not fit"
        )
    lost = ", ".join(added[-missing:])
    log.warning_once(f"{path}: its tokenizer has {lost}, for which its model has no row; left out")
    return added[:-missing]


def _require_merged(path: Path, tokens: list[str], merges: list[list[str]]) -> None:
    """Raise InputError for a token that merges do not make of its bytes.

    Ours merges any two neighbors that are a token together. If each token is what merges make of its bytes, these are
    the same; GPT-2's are, and trying 50,000 takes a second.
    """
    known = hashlib.sha256("\n".join([*tokens, *map(" ".join, merges)]).encode(errors="replace")).hexdigest()
    if known == GPT2_SHA256:
        return
    from tokenizers import models

    try:
        made = models.BPE({token: id for id, token in enumerate(tokens)}, [(left, right) for left, right in merges])
    except Exception as error:  # which is what tokenizers raises
        raise InputError(f"{path}: its tokenizer cannot be used: {error}") from None
    if unmade := [token for token in tokens if len(made.tokenize(token)) != 1]:
        raise InputError(
            f"{path}: its tokenizer has the token {unmade[0]!r}, which its merges do not make of its bytes; that "
            "cannot be read exactly"
        )


def _is_gpt2s_kind(content: dict[str, Any]) -> bool:
    """Tell whether a tokenizer.json cuts text as GPT-2 does, and does nothing to it before."""
    model, steps = content.get("model") or {}, _steps(content)
    byte_level = steps[-1].get("type") == "ByteLevel" and not steps[-1].get("add_prefix_space", True)
    patterns = [step.get("pattern", {}).get("Regex") for step in steps[:-1]]
    expected = [] if steps[-1].get("use_regex", True) else [GPT2_PATTERN_PLAIN]
    affixes = [model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")]
    plain = content.get("normalizer") is None and not any(affixes)
    return "merges" in model and byte_level and patterns == expected and plain


def write_tokenizer(tokenizer: Tokenizer, to: Path, context_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json for AutoTokenizer, and our own file beside them."""
    write_json(to / "tokenizer.json", _their_tokenizer(tokenizer))
    special = (
        {} if tokenizer.end_of_text is None else dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(to / "tokenizer_config.json", config | special)
    tokenizer.save(to / OUR_TOKENIZER)


def write_template(template: ChatTemplate, tokenizer: Tokenizer, to: Path) -> None:
    """Write chat_template.jinja beside the tokenizer, with nothing for bos_token, and what ends an answer."""
    (to / FILE).write_text(template.source, encoding="utf-8")
    config = read_json(to / "tokenizer_config.json")
    config.pop("bos_token", None)  # a template would write it, and no conversation was learned with it
    write_json(to / "tokenizer_config.json", config)
    ends = [tokenizer.end_of_text, *(tokenizer.special_tokens[name] for name in template.ends)]
    generation = read_json(to / "generation_config.json")
    write_json(to / "generation_config.json", generation | {"eos_token_id": ends})


def _their_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Build tokenizer.json: a byte-level BPE, or for characters a plain list of words of one character."""
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
        special = tokenizer.special_tokens
        theirs.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
        assert [theirs.token_to_id(name) for name in special] == [*special.values()]
    return json.loads(theirs.to_str())


def recover_merges(ranks: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Recover the merges of a BPE from its tokens, in order of rank.

    tiktoken merges any two neighbors whose joint bytes are a token, by the token's rank; so every way to split
    a token into two tokens is listed, which makes the merging of `tokenizers` the same.
    """
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    merges = []
    for token in ranks:
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in pairs if left in rank_of and right in rank_of]
        merges += sorted(known, key=lambda pair: (rank_of[pair[0]], rank_of[pair[1]]))
    return merges


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
