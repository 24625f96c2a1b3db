"""The text of a file's bytes, or what kind of file it is instead."""

BYTE_ORDER_MARKS = {  # UTF-32's little one begins like UTF-16's
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
BINARY = "binary: it has a zero byte"
SAVE_AS_TEXT = "save it as plain text from the program that wrote it"
UNPACK = "unpack it first"
OFFICE = {".docx": "a Word document", ".pptx": "a presentation", ".xlsx": "a spreadsheet", ".epub": "an e-book"}
OFFICE |= {".odt": "an OpenDocument text", ".odp": OFFICE[".pptx"], ".ods": OFFICE[".xlsx"]}
KINDS = {
    b"%PDF-": "a PDF: convert it to text first, such as with pdftotext",
    b"\xd0\xcf\x11\xe0": f"an old Office document: {SAVE_AS_TEXT}",
    b"PK\x03\x04": f"a zip archive: {UNPACK}",
    b"\x1f\x8b": f"compressed by gzip: {UNPACK}",
    b"BZh91AY&SY": f"compressed by bzip2: {UNPACK}",
    b"\xfd7zXZ\0": f"compressed by xz: {UNPACK}",
    b"(\xb5/\xfd": f"compressed by zstd: {UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive: {UNPACK}",
    b"Rar!\x1a\x07": f"a rar archive: {UNPACK}",
    b"{\\rtf": f"a Rich Text document: {SAVE_AS_TEXT}",
}


def decoded(content: bytes, suffix: str = "") -> str:
    """Return the text, its line ends as \\n: UTF-8, or what a byte-order mark says.

    Raises ValueError, with the kind of file and what to do, for what is no text; `suffix` tells kinds of archive apart.
    """
    mark, encoding = next(((m, e) for m, e in BYTE_ORDER_MARKS.items() if content.startswith(m)), (b"", "utf-8"))
    if not mark:
        _require_text(content, suffix.lower())
    try:
        text = content[len(mark) :].decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start + len(mark)}"
        if mark:
            raise ValueError(f"not {encoding.upper()}, as it begins: {where}") from None
        raise ValueError(
            f"not UTF-8: {where}; convert it with iconv -f ENCODING -t utf-8 (latin1, shift_jis, gb18030, …)"
        ) from None
    if "\0" in text:
        raise ValueError(BINARY)
    if not text.strip():
        raise ValueError("empty")
    return text


def _require_text(content: bytes, suffix: str) -> None:
    kind = next((kind for magic, kind in KINDS.items() if content.startswith(magic)), None)
    if kind and content.startswith(b"PK") and suffix in OFFICE:
        kind = f"{OFFICE[suffix]}: {SAVE_AS_TEXT}"
    if kind:
        raise ValueError(kind)
    if b"\0" in content:
        raise ValueError(BINARY)
