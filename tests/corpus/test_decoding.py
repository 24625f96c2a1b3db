import gzip
import io
import zipfile

import pytest

from gpt.corpus.decoding import decoded

TEXT = "Müller, 山, \U0001f600\nzwei\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
def test_a_byte_order_mark_says_how_a_text_is_spelled(encoding):
    mark = "\ufeff".encode(encoding) if encoding.endswith("e") else b""  # the others write it themselves
    assert decoded(mark + TEXT.replace("\n", "\r\n").encode(encoding)) == TEXT


@pytest.mark.parametrize("cut", [1, 3])
def test_a_cut_utf_16_is_named_as_what_it_begins_as(cut):
    with pytest.raises(ValueError, match="not UTF-16-LE, as it begins: truncated data"):
        decoded(TEXT.encode("utf-16")[:-cut])


def archive(names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, "text")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        (archive(["word/document.xml"]), ".docx", "a Word document: save it as plain text"),
        (archive(["x"]), ".DOCX", "a Word document"),
        (archive(["x"]), ".odt", "an OpenDocument text"),
        (archive(["x"]), ".xlsx", "a spreadsheet"),
        (archive(["notes.txt"]), ".zip", "a zip archive: unpack it first"),
        (archive(["notes.txt"]), "", "a zip archive: unpack it first"),
        (gzip.compress(b"text", mtime=0), ".gz", "compressed by gzip: unpack it first"),
        (b"%PDF-1.7\n1 0 obj\n", ".pdf", "a PDF: convert it to text first"),
        (b"{\\rtf1\\ansi notes}", ".rtf", "a Rich Text document"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), ".doc", "an old Office document"),
        (b"\x89PNG\0\1\2", ".png", "binary: it has a zero byte"),
        (b"\xef\xbb\xbfa\0b", ".txt", "binary: it has a zero byte"),
        (b"\xff\xfe\0\1\0\0\x41\0", ".bin", "binary: it has a zero byte"),
        (b"", ".txt", "empty"),
        (b" \r\n\n", ".txt", "empty"),
        ("Müller".encode("latin-1"), ".txt", "not UTF-8: invalid .* at byte 1; convert it with iconv -f .* -t utf-8"),
        ("山".encode("shift_jis"), ".txt", "not UTF-8: .*shift_jis"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(content, suffix, reason):
    with pytest.raises(ValueError, match=reason):
        decoded(content, suffix)
