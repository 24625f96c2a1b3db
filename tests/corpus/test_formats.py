import csv
import gzip
import html
import io
import json
import re

import pytest
from corpus_files import found_in, texts_in

from gpt.corpus.separators import FORM_FEED, MARKER, Separator, divided
from gpt.errors import InputError

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
    assert said == [
        f"x.txt: 3 documents, divided at lines of {END}; `separator` none keeps it as one",
        f"x.txt: has {END} within lines (1 in all, the first in x.txt, document 2), learned as any other text; "
        f"`separator` '{END}' ends a document at each",
    ]
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


# ---- records ----


def as_json_lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def as_json(texts):
    return json.dumps([{"text": text} for text in texts]).encode()


def as_table(texts):
    table = io.StringIO()
    csv.writer(table).writerows([["text", "n"], *([text, "1"] for text in texts)])
    return table.getvalue().encode()


def as_parquet(texts):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `data` reads Parquet")
    file = io.BytesIO()
    parquet.write_table(pytest.importorskip("pyarrow").table({"text": texts}), file)
    return file.getvalue()


RECORDS = {
    "x.jsonl": (as_json_lines, "x.jsonl, line"),
    "x.json": (as_json, "x.json, entry"),
    "x.csv": (as_table, "x.csv, row"),
    "x.parquet": (as_parquet, "x.parquet, row"),
}
TEXTS = ["plain", f"one\n{END}\ntwo\n{END}", f"in {END} line", f"{END}\n", f"a\n{END}\n{END}\n\nb ###c{END}"]


@pytest.mark.parametrize(("name", "kind"), RECORDS.items(), ids=RECORDS)
def test_the_text_of_a_record_is_divided_as_that_of_a_file(name, kind, said):
    write, label = kind
    content = write(TEXTS)
    found = {each.name: getattr(each, "text", "left out") for each in found_in(content, name, "text")}
    assert found == {
        f"{label} 1": "plain",
        f"{label} 2, document 1": "one",
        f"{label} 2, document 2": "two",
        f"{label} 3": f"in {END} line",
        f"{label} 4": "left out",
        f"{label} 5, document 1": "a",
        f"{label} 5, document 2": f"\nb ###c{END}",
    }
    assert said == [
        f"{name}: 3 records divided at lines of {END} into 4 documents, the first {label} 2; `separator` none keeps "
        "each as one",
        f"{name}: has {END} within lines (2 in all, the first in {label} 3), learned as any other text; "
        f"`separator` '{END}' ends a document at each",
    ]
    assert list(texts_in(content, name, "text", separator=END).values()) == [
        *("plain", "one\n", "\ntwo\n", "in ", " line", "a\n", "\n\nb ###c"),
    ]
    assert list(texts_in(content, name, "text", separator="###").values())[-2:] == [TEXTS[-1][:-17], f"c{END}"]
    said.clear()
    assert list(texts_in(content, name, "text", separator="none").values()) == TEXTS
    assert said == [
        f"{name}: has {END} (7 in all, the first in {label} 2), learned as any other text; `separator` '{END}' ends a "
        "document at each"
    ]


def test_a_separator_that_no_record_has_is_said(said):
    assert list(texts_in(as_json_lines(["a", "b"]), "x.jsonl", "text", separator="###").values()) == ["a", "b"]
    assert said == ["x.jsonl: does not have the separator '###': one document for each record"]


@pytest.mark.parametrize("name", ["x.md", "x.txt", "x.html", "x.md.gz"])
def test_names_of_other_special_tokens_are_said_with_the_first_place(name, said):
    text = "<|not one|> a|>b<|\n\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>\n"
    content = html.escape(text).encode() if name == "x.html" else text.encode()
    assert list(texts_in(gzip.compress(content) if name.endswith("gz") else content, name)) == [name]
    line = 1 if name == "x.html" else 3  # where lines are no lines
    (message,) = said
    assert message.startswith(f"{name}: has <|im_end|>, <|im_start|> within lines (3 in all, the first in line {line})")
    assert message.endswith(", learned as any other text")


def test_lone_surrogates_are_treated_as_bad_bytes():
    """JSON spells them, and half a pair of an emoji is what is left where a text was cut by its UTF-16."""
    texts = ["fine \U0001f600", "cut \ud83d", "both \ud83d and \udc00"]
    for name, content in (("x.jsonl", as_json_lines(texts)), ("x.json", as_json(texts))):
        found = found_in(content, name, "text")
        assert [each.text for each in found] == ["fine \U0001f600", "cut \ufffd", "both \ufffd and \ufffd"]
        assert [each.note for each in found] == [
            "",
            "1 lone surrogate, which UTF-8 cannot spell: replaced by U+FFFD",
            "2 lone surrogates, which UTF-8 cannot spell: replaced by U+FFFD",
        ]
        kept, *skipped = found_in(content, name, "text", bad_bytes="skip")
        assert kept.text == texts[0]
        assert [each.reason for each in skipped] == [
            "1 lone surrogate, which UTF-8 cannot spell; `bad_bytes` replace keeps the text",
            "2 lone surrogates, which UTF-8 cannot spell; `bad_bytes` replace keeps the text",
        ]
        with pytest.raises(InputError, match=f"{skipped[0].name}: 1 lone surrogate, which UTF-8 cannot spell; give `b"):
            found_in(content, name, "text", bad_bytes="error")
