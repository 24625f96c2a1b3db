import io
import zipfile

import pytest
from corpus_files import found_in, skipped_in, texts_in

from gpt.errors import InputError

TEXT = "Müller, 山, \U0001f600\nzwei\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
def test_a_byte_order_mark_says_how_a_text_is_spelled(encoding):
    mark = "\ufeff".encode(encoding) if encoding.endswith("e") else b""  # the others write it themselves
    assert texts_in(mark + TEXT.replace("\n", "\r\n").encode(encoding)) == {"x.txt": TEXT}


@pytest.mark.parametrize("cut", [1, 3])
def test_a_cut_utf_16_is_named_as_what_it_begins_as(cut):
    assert skipped_in(TEXT.encode("utf-16")[:-cut])["x.txt"].startswith("not UTF-16-LE, as it begins: truncated data")


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
        (archive(["x"]), ".epub", "an e-book"),
        (b"%PDF-1.7\n1 0 obj\n", ".pdf", "a PDF: convert it to text first"),
        (b"{\\rtf1\\ansi notes}", ".rtf", "a Rich Text document"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), ".doc", "an old Office document"),
        (b"7z\xbc\xaf\x27\x1c", ".7z", "a 7z archive: unpack it first"),
        (b"\x89PNG\0\1\2", ".png", "binary: it has a zero byte"),
        (b"\xef\xbb\xbfa\0b", ".txt", "binary: it has a zero byte"),
        (b"\xff\xfe\0\1\0\0\x41\0", ".bin", "binary: it has a zero byte"),
        (b"a" * (1 << 20) + b"\0", ".txt", "binary: it has a zero byte"),
        (b"", ".txt", "empty"),
        (b" \r\n\n", ".txt", "empty"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(content, suffix, reason):
    assert skipped_in(content, f"x{suffix}")[f"x{suffix}"].startswith(reason)


BLOCK = 1 << 20  # bytes that are decoded at once


@pytest.mark.parametrize("place", [BLOCK - 1, BLOCK, 2 * BLOCK - 2])
@pytest.mark.parametrize("letter", ["山", "\r\n", "\U0001f600"])
def test_letters_and_line_ends_may_lie_across_blocks(place, letter):
    text = "a" * place + letter + "b" * 100
    assert texts_in(text.encode()) == {"x.txt": text.replace("\r\n", "\n")}


def test_a_rare_bad_byte_is_replaced_and_said():
    """Among letters beyond ASCII that are sound, or among a hundred thousand of ASCII."""
    for sound in ("Müller " * 40, "a" * 400_000):
        (document,) = found_in(sound.encode() + b"\xff." + b"\xe2\x82")
        assert document.text == sound + "\ufffd.\ufffd"
        assert document.note == "3 bad bytes, which are no UTF-8: replaced by U+FFFD"


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_a_bad_byte_is_found_wherever_it_is(place):
    content = b"a" * place + b"\xff" + b"a" * (4 * BLOCK - place)
    (document,) = found_in(content)
    assert document.text.encode() == content.replace(b"\xff", "\ufffd".encode())
    assert document.note.startswith("1 bad byte, which is")
    assert "1 bad byte that is no UTF-8, the first at byte" in skipped_in(content, bad_bytes="skip")["x.txt"]
    with pytest.raises(
        InputError, match=f"x.txt: 1 bad byte that is no UTF-8, the first at byte {place}; give `bad_byt"
    ):
        found_in(content, bad_bytes="error")


def test_a_genuine_replacement_character_is_no_bad_byte():
    (document,) = found_in("\ufffd\ufffd Müller".encode())
    assert (document.text, document.note) == ("\ufffd\ufffd Müller", "")
    (document,) = found_in("\ufffd\ufffd Müller ".encode() * 9 + b"\xfe")
    assert document.note.startswith("1 bad byte, which is")


def test_a_text_of_another_encoding_is_not_taken_for_utf_8_with_bad_bytes():
    """Also where its first letter beyond ASCII comes late."""
    text = "Der Müller hörte ein großes Geräusch. " * 1000
    for content in (text.encode("latin-1"), b"a" * 2 * BLOCK + text.encode("latin-1")):
        assert "not UTF-8: invalid" in skipped_in(content)["x.txt"]
        assert "looks like windows-1252" in skipped_in(content)["x.txt"]


def test_the_encoding_that_is_given_is_of_files_that_are_not_utf_8():
    text = "Der Müller hörte “ein großes Geräusch”. " * 100
    for late in (0, 2 * BLOCK):
        content = b"a" * late + text.encode("cp1252")
        assert texts_in(content, encoding="cp1252") == {"x.txt": "a" * late + text}
    assert texts_in(text.encode(), encoding="cp1252") == {"x.txt": text}
    assert texts_in(text.encode("utf-16"), encoding="cp1252") == {"x.txt": text}
    assert "\ufffd" in texts_in(text.encode() + b"\xff", encoding="cp1252")["x.txt"]  # it is UTF-8 all the same
    assert skipped_in(b"\x81\x8d", encoding="cp1252")["x.txt"].startswith("not CP1252: ")
    assert texts_in(b"a\xff", encoding="utf-8") == {"x.txt": "a\ufffd"}


def test_an_encoding_of_two_bytes_a_letter_can_be_given():
    content = TEXT.encode("utf-16-le")
    assert skipped_in("Müller".encode("utf-16-le"))["x.txt"].endswith(
        "looks like utf-16-le without a mark, in which it begins 'Müller': give it by `encoding` utf-16-le"
    )
    assert "utf-16-be" in skipped_in("Müller".encode("utf-16-be"))["x.txt"]
    assert texts_in(content, encoding="utf-16-le") == {"x.txt": TEXT}
    assert "binary" in skipped_in(b"\x89PNG\0\1\2", encoding="cp1252")["x.txt"]
    for numbers in (b"\0\1\2", b"\1\0\2\0" * 50, bytes(range(1, 9)) + b"\0" * 200):  # which no encoding makes a text
        assert skipped_in(numbers)["x.txt"] == "binary: it has a zero byte"
    assert "not UTF-16-LE" in skipped_in(content[:-1], encoding="utf-16-le")["x.txt"]


WIDE = [("utf-16-le", b"\x3d\xd8"), ("utf-16-be", b"\xdc\x00"), ("utf-32-le", b"\x3d\xd8\0\0")]


@pytest.mark.parametrize(("encoding", "lone"), WIDE)
def test_a_lone_surrogate_costs_no_large_text_of_wide_letters(encoding, lone):
    before, after = "guter Text ü\ufffd " * 8000, "ende " * 30
    content = ("\ufeff" + before).encode(encoding) + lone + after.encode(encoding)
    (document,) = found_in(content)
    assert document.text == f"{before}\ufffd{after}"
    assert document.note == f"{len(lone)} bad bytes, which are no {encoding.upper()}: replaced by U+FFFD"
    wanted = f"{len(lone)} bad bytes that are no {encoding.upper()}, the first at byte "
    assert skipped_in(content, bad_bytes="skip")["x.txt"].startswith(wanted)
    with pytest.raises(InputError, match=wanted):
        found_in(content, bad_bytes="error")


@pytest.mark.parametrize(("encoding", "lone"), WIDE)
def test_wide_letters_that_are_many_lone_surrogates_or_cut_off_are_no_text(encoding, lone):
    text = ("\ufeff" + "guter Text ü " * 200).encode(encoding)
    wanted = f"not {encoding.upper()}, as it begins: "
    assert skipped_in(text + lone + text)["x.txt"].startswith(wanted)
    assert skipped_in(text * 100 + b"x")["x.txt"].startswith(f"{wanted}truncated data")
