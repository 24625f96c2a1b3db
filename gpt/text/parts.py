"""A text in the parts that are encoded one by one, so that no run of one kind of character is too long."""

import itertools

import regex

# Merging a piece takes longer than in proportion to its length: runs of one kind of character are cut at this many.
LONGEST_RUN = 16_384
RUN = regex.compile(r"\p{L}++|\p{N}++|[^\s\p{L}\p{N}]++|\s++")
RUN_BACKWARDS = regex.compile("(?r)" + RUN.pattern)
LONE_SURROGATES = regex.compile(r"[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def parts_of(text: str) -> list[str]:
    """Cut a text within runs that are too long; what cannot be UTF-8 becomes U+FFFD, as tiktoken has it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = LONE_SURROGATES.sub("\ufffd", text).encode("utf-16", "surrogatepass").decode("utf-16")  # joins pairs
    cuts, end = [0], 0
    for place in range(LONGEST_RUN, len(text), LONGEST_RUN):  # at least one of these is in every run that is too long
        if place >= end:
            start, end = RUN_BACKWARDS.match(text, 0, place + 1).start(), RUN.match(text, place).end()
            cuts += range(start + LONGEST_RUN, end, LONGEST_RUN)
    return [text[start:end] for start, end in itertools.pairwise([*cuts, len(text)])]
