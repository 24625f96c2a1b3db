"""The text of an HTML page: what a reader sees, paragraphs apart, without tags, scripts and styles.

Its own scanner, since Python's html.parser takes quadratic time for hostile pages before its newest releases, and fails
for some. What begins here ends where the HTML standard says: a tag at its >, a comment at -->, a script at its end tag.
"""

import html as entities
import io
import re
from collections.abc import Iterator
from dataclasses import replace

from gpt.corpus.decoding import SAMPLE, TextStream
from gpt.corpus.documents import LARGEST, Document, Notice, ReadOptions, Skipped
from gpt.corpus.encodings import declared_by_html

ENDS = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style", "template", "noscript")}
WITHIN_LINES = {"a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img", "ins"}
WITHIN_LINES |= {"kbd", "label", "mark", "q", "ruby", "rb", "rp", "rt", "s", "samp", "small", "span", "strike"}
WITHIN_LINES |= {"strong", "sub", "sup", "time", "tt", "u", "var", "wbr", "button", "input", "select", "option"}
PARAGRAPHS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "ul", "ol", "dl", "table", "title"}
CELLS = {"td", "th"}
BLANKS = re.compile(r"[ \t\n\r\f]+")
TAG = re.compile(r"</?([a-zA-Z][^\s/>]*)")
TAG_END = re.compile(r">|=\s*([\"'])")  # or a value in quotes, in which > is a letter
COMMENT = re.compile(r"<(?:!|\?|/[^a-zA-Z])")


def html(stream: io.BufferedReader, name: str, how: ReadOptions) -> Iterator[Document | Skipped | Notice]:
    """Yield what a reader sees of an HTML page, in the encoding that it says it has."""
    encoding = declared_by_html(stream.peek(SAMPLE)) or how.encoding
    source = TextStream(stream, name, replace(how, encoding=encoding))
    page = _page(source)
    found = source.document(name, text_of(page))
    is_empty = isinstance(found, Skipped) and found.reason == "empty"
    yield Skipped(name, "has no text beside its tags") if is_empty else found
    yield from source.cut()


def _page(source: TextStream) -> str:
    """Read a page. Raises ValueError for one that memory does not hold with all its tags."""
    blocks, size = list[str](), 0
    for block in source.blocks():
        blocks.append(block)
        size += len(block)
        if size > 2 * LARGEST:
            raise ValueError(f"over {2 * LARGEST:,} characters in a page; divide it, or keep its tags by `html` keep")
    return "".join(blocks)


def text_of(page: str) -> str:
    """Return the text of a page."""
    text, place = _Text(), 0
    while (begin := page.find("<", place)) >= 0:
        text.add(page[place:begin])
        if tag := TAG.match(page, begin):
            name, is_end = tag[1].lower(), page[begin + 1] == "/"
            text.add_tag(name, is_end)
            place = _end_of_tag(page, tag.end())
            if name in ENDS and not is_end and page[place - 2] != "/":
                end = ENDS[name].search(page, place)
                place = end.start() if end else len(page)
        elif COMMENT.match(page, begin):
            mark = "-->" if page.startswith("<!--", begin) else ">"
            end = page.find(mark, begin + 2)
            place = end + len(mark) if end >= 0 else len(page)
        else:
            text.add("<")
            place = begin + 1
    text.add(page[place:])
    return str(text)


def _end_of_tag(page: str, place: int) -> int:
    """Return the place after a tag; what is never closed goes on to the end."""
    while found := TAG_END.search(page, place):
        if not found[1]:
            return found.end()
        place = page.find(found[1], found.end()) + 1
        if not place:
            break
    return len(page)


class _Text:
    """Collects what is seen, in lines."""

    def __init__(self) -> None:
        self._pieces: list[str] = [""]
        self._preformatted = 0

    def add(self, raw: str) -> None:
        """Add text between tags; blanks are one space, but in what is preformatted."""
        if not self._preformatted:
            raw = BLANKS.sub(" ", raw)
            if self._pieces[-1][-1:] in ("", " ", "\n", "\t"):
                raw = raw.lstrip(" ")
        if raw:
            self._pieces.append(entities.unescape(raw))

    def add_tag(self, name: str, is_end: bool) -> None:
        """Begin another line, paragraph or cell, if a tag does."""
        if name == "pre":
            self._preformatted = max(0, self._preformatted + (-1 if is_end else 1))
        if name in CELLS:
            self._pieces.append("" if is_end else "\t")
        elif name not in WITHIN_LINES:
            self._pieces.append("\n\n" if name in PARAGRAPHS else "\n")

    def __str__(self) -> str:
        """Return what was collected, without blanks at the ends of lines, and with no more than one empty line."""
        text = "\n".join(line.rstrip(" \t") for line in "".join(self._pieces).replace("\n\t", "\n").split("\n"))
        return re.sub(r"\n{3,}", "\n\n", text).strip("\n ") + "\n"
