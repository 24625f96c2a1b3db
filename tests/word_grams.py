"""The 13-grams of a text, by a regular expression: what gpt.corpus.grams is held against."""

import functools
import re
import unicodedata

from gpt.corpus import grams as module

ALONE = "".join(f"{chr(first)}-{chr(last)}" for first, last in module.WITHOUT_SPACES)


def words_of(text):
    """The reference: runs of letters, digits and marks, and letters of scripts without spaces one by one."""
    normal = unicodedata.normalize("NFC", text).lower()
    spaced = re.sub(f"([{ALONE}])", lambda match: f" {match[0]} " if is_letter(match[0]) else " ", normal)
    kept = "".join(character if is_letter(character) else " " for character in spaced)
    return kept.split()


@functools.cache
def is_letter(character):
    return unicodedata.category(character)[0] in "LNM"


@functools.cache
def grams_of(text):
    words = words_of(text)
    return [tuple(words[i : i + 13]) for i in range(len(words) - 12)] or ([tuple(words)] if words else [])
