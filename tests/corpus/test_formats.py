import re

import pytest
from corpus_files import found_in, texts_in

from gpt.corpus.formats import FORM_FEED, MARKER, Separator, divided

END = "<|endoftext|>"


def test_lines_of_the_marker_divide_a_text_and_are_not_learned(said):
    """As in TinyStories' .txt, and where a marker begins or ends the file."""
    content = f"{END}\nOne day\n{END}\n\nTwo {END} in a line\r\n{END} \t\r\n{END}\nThree\n{END}".encode()
    texts = {
        "x.txt, document 1": "One day",
        "x.txt, document 2": f"\nTwo {END} in a line",
        "x.txt, document 3": "Three",
    }
    assert texts_in(content) == texts
    assert said == [f"x.txt: 3 documents, divided at lines of {END}; `separator` none keeps it as one"]
    assert list(texts_in(content, "x.md")) == [name.replace("txt", "md") for name in texts]
    assert texts_in(content, separator="none") == {"x.txt": content.decode().replace("\r\n", "\n")}


def test_a_marker_within_a_line_is_learned_and_said(said):
    assert texts_in(f"one{END}two".encode()) == {"x.txt": f"one{END}two"}
    assert said[0].startswith(f"x.txt: has {END} within lines")
    assert list(texts_in(f"one{END}two".encode(), separator=END).values()) == ["one", "two"]


def test_form_feeds_divide_a_text_and_not_source_code():
    assert list(texts_in(b"page one\n\x0cpage two\x0c").values()) == ["page one\n", "page two"]
    assert texts_in(b"def f():\n\x0c\n", "x.py") == {"x.py": "def f():\n\x0c\n"}
    assert list(texts_in(f"a\fb\n{END}\nc".encode()).values()) == ["a\fb", "c"]  # not both in one file


@pytest.mark.parametrize(
    ("separator", "content", "texts"),
    [
        ("###", "a###b####c", ["a", "b", "#c"]),
        ("\\n\\n\\n", "a\n\nb\n\n\nc", ["a\n\nb", "c"]),
        ("\\n\\n\\n", "\n\na", ["\n\na"]),
        ("\\r\\n", "a\r\nb", ["a", "b"]),
        ("\\f", "a\fb", ["a", "b"]),
        ("\\\\n", "a\\nb\nc", ["a", "b\nc"]),
        (".*", "a.*b", ["a", "b"]),
        ("%", "% %a% %b%%", ["a", "b"]),
    ],
)
def test_a_separator_can_be_given(separator, content, texts):
    assert list(texts_in(content.encode(), separator=separator).values()) == texts


def test_a_separator_that_a_text_does_not_have_is_said(said):
    assert texts_in(b"text", separator="###") == {"x.txt": "text"}
    assert said == ["x.txt: does not have the separator '###': one document"]


def whole(text, separator):
    """The reference: the text divided at once."""
    if separator is MARKER:
        return re.split(rf"(?:^|\n){re.escape(END)}[ \t]*(?:\n|$)", text)
    return re.split(separator.pattern, text)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 13, 50, 10_000])
@pytest.mark.parametrize(
    "separator", [MARKER, FORM_FEED, Separator(re.compile("##\n"), 3, "")], ids=["line", "ff", "own"]
)
def test_a_text_is_divided_alike_in_blocks_of_any_size(size, separator):
    mark = {MARKER: f"\n{END}\n", FORM_FEED: "\f"}.get(separator, "##\n")
    texts = ["One\n", "", "#", "two # ##", END[:-1], "\n\n", f"in {END} line", "last"]
    text = mark.join(texts)
    found = [part for part, _ in divided((text[i : i + size] for i in range(0, len(text), size)), [separator])]
    assert found == (texts if separator is not MARKER else whole(text, MARKER))


def test_bad_bytes_are_counted_by_document():
    sound = "Müller " * 100
    found = found_in(sound.encode() + b"\xff\n<|endoftext|>\nfine\n<|endoftext|>\n" + b"\xff\xfe\xff")
    assert [each.name for each in found] == ["x.txt, document 1", "x.txt, document 2", "x.txt, document 3"]
    assert found[0].note == "1 bad byte, which is no UTF-8: replaced by U+FFFD"
    assert found[1].note == ""
    assert found[2].reason == "3 bad bytes in it"
    skipped = found_in(sound.encode() + b"\xff\n<|endoftext|>\nfine", bad_bytes="skip")
    assert skipped[0].reason == "1 bad byte that is no UTF-8; `bad_bytes` replace keeps the text"
    assert skipped[1].text == "fine"
