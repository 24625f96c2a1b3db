"""The text of a file's bytes, or what kind of file it is instead.

A text is UTF-8, or what its byte-order mark says, or else what `encoding` says; nothing is guessed. Bytes that are no
UTF-8 in a text that is are counted, and become U+FFFD or not as `bad_bytes` says.
"""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt.corpus.documents import CUT, Document, Notice, ReadOptions, Skipped
from gpt.errors import InputError, did_you_mean

SAMPLE = 1 << 20  # bytes of the beginning, by which a file is judged; as many are decoded at once
BAD_SHARE, BAD_SHARE_OF_OTHERS = 1e-5, 0.1  # how many bad bytes are rare: of all bytes, and of those beyond ASCII
BAD_SHARE_OF_ONE = 1e-3  # of the characters of one document of many
BYTE_ORDER_MARKS = {  # UTF-32's little one begins like UTF-16's
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
WIDE = ("utf-16", "utf-32")  # how encodings begin in which letters have zero bytes
BINARY = "binary: it has a zero byte"
SAVE_AS_TEXT = "save it as plain text from the program that wrote it"
UNPACK = "unpack it first"
OFFICE = {".docx": "a Word document", ".pptx": "a presentation", ".xlsx": "a spreadsheet", ".epub": "an e-book"}
OFFICE |= {".docm": OFFICE[".docx"], ".pptm": OFFICE[".pptx"], ".xlsm": OFFICE[".xlsx"], ".xps": "a printed page"}
OFFICE |= {".pages": "a Pages document", ".key": OFFICE[".pptx"], ".numbers": OFFICE[".xlsx"]}
OFFICE |= {".odt": "an OpenDocument text", ".odp": OFFICE[".pptx"], ".ods": OFFICE[".xlsx"]}
KINDS = {
    b"%PDF-": "a PDF: convert it to text first, such as with pdftotext",
    b"\xd0\xcf\x11\xe0": f"an old Office document: {SAVE_AS_TEXT}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive: {UNPACK}",
    b"Rar!\x1a\x07": f"a rar archive: {UNPACK}",
    b"\x1f\x9d": f"packed by compress: {UNPACK}",
    b"\x04\x22\x4d\x18": f"packed by lz4: {UNPACK}",
    b"%!PS": "PostScript: convert it to text first, such as with ps2ascii",
    b"SQLite format 3\0": "an SQLite database: export its text as JSON Lines or CSV",
    b"ARROW1": "an Arrow or Feather file: write it as Parquet",
    b"\x93NUMPY": "a NumPy array: what it holds is no text",
    b"{\\rtf": f"a Rich Text document: {SAVE_AS_TEXT}",
}


def require_encodings(given: str) -> None:
    """Raise InputError for what is no encoding of texts, nor some of files that fit a pattern."""
    from gpt.corpus.encodings import CANDIDATES, is_encoding, parse_encodings

    for _, name in parse_encodings(given):
        if not is_encoding(name):
            names = (*CANDIDATES, "latin-1", "shift_jis", "euc_kr", "utf-16-le")
            raise InputError(f"`encoding` {name}: is no encoding that Python knows; {did_you_mean(name, names)}")


def mark_of(head: bytes) -> tuple[bytes, str]:
    """Return the byte-order mark at the beginning, and what it says; none and '' if there is none."""
    return next(((mark, name) for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), (b"", ""))


def wide_encoding(head: bytes, how: ReadOptions) -> str:
    """Return the encoding, of two or four bytes a letter, of a text that begins like this; '' for all others."""
    _, encoding = mark_of(head)
    given = codecs.lookup(how.encoding).name if how.encoding else ""
    if not encoding and given.startswith(WIDE) and b"\0" in head:
        return given
    return encoding if encoding.startswith(WIDE) else ""


@dataclass
class Damage:
    """How many bytes are no UTF-8, of how many, and how many stand for letters beyond ASCII."""

    bad: int = 0
    beyond_ascii: int = 0
    size: int = 0

    def of_wide(self, content: bytes, encoding: str) -> tuple[str, int]:
        """Do the same for letters of two or four bytes, among which there are lone surrogates."""
        decode = getattr(codecs, f"{encoding.replace('-', '_')}_decode")  # which tells how many bytes it used
        (text, used), (rest, _) = decode(content, "replace"), decode(content, "ignore")
        self.size, self.bad = self.size + used, self.bad + used - len(rest.encode(encoding))
        return text, used

    def of(self, content: bytes, final: bool = True) -> tuple[str, int]:
        """Decode bytes, count them, and return the text, with U+FFFD where it was none, and how many were used."""
        text, used = codecs.utf_8_decode(content, "replace", final)
        marks = text.count("\ufffd") - content.count(b"\xef\xbf\xbd")
        good = len(text.encode()) - 3 * marks
        self.size, self.bad = self.size + used, self.bad + used - good
        self.beyond_ascii += good - (len(text) - marks)
        return text, used

    def is_rare(self, share: float = BAD_SHARE) -> bool:
        """Tell whether this is UTF-8 for all that: in a text of another encoding, nearly all beyond ASCII is bad."""
        return self.bad <= max(share * self.size, BAD_SHARE_OF_OTHERS * self.beyond_ascii)


def said(bad: int) -> str:
    """Say how many bytes are bad."""
    return "1 bad byte" if bad == 1 else f"{bad:,} bad bytes"


def replaced(bad: int, encoding: str = "utf-8") -> str:
    """Say what became of so many bad bytes, if there are any."""
    return f"{said(bad)}, which {'is' if bad == 1 else 'are'} no {encoding.upper()}: replaced by U+FFFD" if bad else ""


class TextStream:
    """A stream of bytes as text, read block by block, its line ends as \\n.

    `damage` counts what was bad so far; `is_cut` says that only a beginning was to be read, and that it has come.
    """

    def __init__(self, stream: io.BufferedReader, name: str, how: ReadOptions, suffix: str = "") -> None:
        """Look at the beginning.

        Raises ValueError, with the kind of file and what to do, for what is no text; `suffix` tells kinds apart.
        """
        self._stream, self._name, self._how, self.damage, self._doubt = stream, name, how, Damage(), ""
        self.is_cut = False
        head = stream.peek(SAMPLE)
        mark, self.encoding = mark_of(head)
        stream.read(len(mark))
        self._is_certain = bool(mark) or is_utf8(how.encoding)
        if not mark:
            self.encoding = wide_encoding(head, how) or "utf-8"
            _require_text(head, suffix.lower(), self.encoding)
        self._decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        self._place = self._begin = len(mark)
        self._first_bad = 0

    def blocks(self) -> Iterator[str]:
        """Yield the text. Raises ValueError where it turns out to be none, and InputError for bytes that may not be."""
        carriage_return = ""
        while block := self._stream.read1(SAMPLE):
            text = carriage_return + self._decoded(block)
            self._place += len(block)
            carriage_return = "\r" if text.endswith("\r") else ""
            yield self._checked(text.removesuffix(carriage_return))
            if self._how.most is not None and self._place >= self._how.most:
                self.is_cut = True
                return
        yield self._checked(carriage_return + self._decoded(b"", final=True))

    def document(self, name: str, text: str, is_whole: bool = True) -> Document | Skipped:
        """Return a text that was read as a document, or as left out for what was bad in it.

        `is_whole` says that it is all there was. Raises ValueError where so much of that was bad that it is no UTF-8.
        """
        if is_whole and self._doubt and not self.damage.is_rare():
            raise ValueError(self._doubt)
        if not text or text.isspace():
            return Skipped(name, "empty")
        bad = self.damage.bad if is_whole or not self.damage.bad else text.count("\ufffd")
        if not is_whole and bad > max(1, BAD_SHARE_OF_ONE * len(text)):
            return Skipped(name, f"{said(bad)} in it")
        if bad and self._how.bad_bytes == "skip":
            first = self._first_bad if is_whole else None
            return Skipped(name, bad_bytes(self._how, name, bad, first, self.encoding))
        return Document(name, text, replaced(bad, self.encoding))

    def cut(self) -> Iterator[Notice]:
        """Say that only the beginning was read, if that is so."""
        if self.is_cut:
            yield Notice(CUT, f"{self._name}: only its beginning was read")

    def _checked(self, text: str) -> str:
        if "\0" in text:
            raise ValueError(BINARY)
        return text.replace("\r\n", "\n") if "\r" in text else text  # to find one takes far shorter

    def _decoded(self, block: bytes, final: bool = False) -> str:
        state = self._decoder.getstate()
        try:
            text = self._decoder.decode(block, final)
        except UnicodeDecodeError as error:
            self._decoder.setstate(state)
            return self._repaired(state[0] + block, final, error, self._place - len(state[0]))
        self.damage.size += len(block)
        self.damage.beyond_ascii += 0 if text.isascii() or self.encoding != "utf-8" else max(0, len(block) - len(text))
        return text

    def _repaired(self, content: bytes, final: bool, error: UnicodeDecodeError, place: int) -> str:
        """Decode bytes of which some are bad, or find that the encoding is another one."""
        where = place + error.start
        damage = replace(self.damage)
        if self.encoding != "utf-8":
            begins = ", as it begins" if self._begin else ""
            doubt = f"not {self.encoding.upper()}{begins}: {error.reason} at byte {where}"
            if not begins or final:  # a text that is cut off, or of which a byte is missing, so that it is another one
                raise ValueError(doubt)
            self._doubt = self._doubt or doubt
            text, used = damage.of_wide(content, self.encoding)
        else:
            text, used = damage.of(content, final)
        if not self._is_certain and not self.damage.bad:  # the first that are bad
            if self._how.encoding and not damage.is_rare(0):
                self.encoding = self._how.encoding
                self._decoder = codecs.getincrementaldecoder(self.encoding)("strict")
                self._place = place
                return self._decoded(content, final)
            self._doubt = not_utf8(content, error, where)
            if place < SAMPLE and not damage.is_rare():
                raise ValueError(self._doubt)
        if self._how.bad_bytes == "error":
            bad_bytes(self._how, self._name, damage.bad, where, self.encoding)
        if not self.damage.bad:
            self._first_bad = where
        self.damage = damage
        self._decoder.setstate((content[used:], 0))
        return text


def is_utf8(encoding: str | None) -> bool:
    return encoding is not None and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def bad_bytes(how: ReadOptions, name: str, bad: int, where: int | None, encoding: str = "utf-8") -> str:
    """Say why a text with bad bytes is left out. Raises InputError where they are an error."""
    first = "" if where is None else f", the first at byte {where}"
    return lost(how, name, f"{said(bad)} that {'is' if bad == 1 else 'are'} no {encoding.upper()}{first}")


def lost(how: ReadOptions, name: str, reason: str) -> str:
    """Say why a text is left out that is not all text. Raises InputError where that is an error."""
    if how.bad_bytes == "error":
        raise InputError(f"{name}: {reason}; give `bad_bytes` replace or skip to go on without")
    return f"{reason}; `bad_bytes` replace keeps the text"


def not_utf8(content: bytes, error: UnicodeDecodeError, where: int) -> str:
    """Say that a text is not UTF-8, and what it is likely to be."""
    from gpt.corpus.encodings import advice

    return f"not UTF-8: {error.reason} at byte {where}; {advice(content, error.start)}"


def _require_text(content: bytes, suffix: str, encoding: str) -> None:
    kind = next((kind for magic, kind in KINDS.items() if content.startswith(magic)), None)
    if content.startswith(b"PK\x03\x04") and suffix in OFFICE:
        kind = f"{OFFICE[suffix]}: {SAVE_AS_TEXT}"
    if kind:
        raise ValueError(kind)
    if b"\0" in content and not encoding.startswith(WIDE):
        from gpt.corpus.encodings import wide_guess

        guess = wide_guess(content)
        raise ValueError(f"{BINARY}{f'; {guess}' if guess else ''}")
