import json
import tracemalloc

import pytest
from corpus_files import found_in, skipped_in, texts_in

from gpt.corpus.readers import records
from gpt.errors import InputError

MARK = b"\xef\xbb\xbf"


def test_byte_order_marks_at_the_start_and_within_are_taken_off():
    """As where two files with one each were put together."""
    line = b'{"text": "one"}\n'
    assert list(texts_in(MARK + line + MARK + line + line, "x.jsonl", "text").values()) == ["one"] * 3


HOSTILE = {
    "a string": (b'"context"', "has no text in the field 'text'"),
    "a number": (b"42", "has no text in the field 'text'"),
    "a list": (b'["text"]', "has no text in the field 'text'"),
    "null": (b"null", "has no text in the field 'text'"),
    "no text": (b'{"text": null}', "has no text in the field 'text'"),
    "an empty text": (b'{"text": " "}', "empty"),
    "deep": (b"[" * 100_000, "it is nested too deeply"),
    "zeros": (b"\0" * 5000, "holds nothing but zero bytes, as a loss of power can leave them"),
    "zeros before": (b'\0\0{"text": "a"}', "not JSON: Expecting value at character 1"),
    "two": (b'{"text": "a"}{"text": "b"}', "holds more than one object, the second from character 14"),
    "two apart": (b'{"text": "a"} {"text": "b"}', "holds more than one object, the second from character 15"),
    "a comma": (b'{"text": "a"},', "goes on after its value, from character 14: ','"),
    "cut": (b'{"text": "a', "not JSON: Invalid control character at"),
    "Latin-1": (b'{"text": "\xfc"}', "not UTF-8: "),
}


@pytest.mark.parametrize(("line", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_bad_line_is_named_and_the_others_are_read(line, reason):
    content = b'{"text": "one"}\n\n \r\n' + line + b'\n{"text": "two"}'
    assert texts_in(content, "x.jsonl", "text") == {"x.jsonl, line 1": "one", "x.jsonl, line 5": "two"}
    skipped = skipped_in(content, "x.jsonl", "text")
    assert list(skipped) == ["x.jsonl, line 4"]
    assert skipped["x.jsonl, line 4"].startswith(reason)


def test_a_number_that_is_too_long_is_said_without_advice_for_programmers():
    content = b'{"text": "one", "n": %s}\n{"text": "two"}\n' % (b"9" * 5000)
    assert list(texts_in(content, "x.jsonl", "text").values())[-1] == "two"
    (reason,) = skipped_in(content, "x.jsonl", "text").values()
    assert reason.startswith("Exceeds the limit")
    assert reason.endswith("5000 digits")


def test_a_file_of_lines_that_are_all_bad_names_the_first_with_its_remedy():
    """As where files of one line without an end were put together."""
    assert skipped_in(b'\n{"text": "a"}{"text": "b"}\n', "x.jsonl", "text") == {
        "x.jsonl": "has no line of JSON; the first is left out: holds more than one object, the second from character "
        "14; give each a line of its own: jq -c . FILE (x.jsonl, line 2)"
    }


def test_of_many_bad_lines_before_the_first_text_all_are_named_and_few_are_held(monkeypatch):
    monkeypatch.setattr(records, "MOST_WAITING", 10)
    content = b'{"other": 1}\n' * 25 + b'{"text": "fine"}\n' + b"[]\n"
    assert list(skipped_in(content, "x.jsonl", "text")) == [f"x.jsonl, line {n}" for n in (*range(1, 26), 27)]
    assert texts_in(content, "x.jsonl", "text") == {"x.jsonl, line 26": "fine"}
    with pytest.raises(InputError, match="no line has a field 'text'; its fields are: other"):
        found_in(content[: 25 * 13], "x.jsonl", "text")


def lines(count):
    return "".join(json.dumps({"text": f"text {number} Müller"}, ensure_ascii=False) + "\n" for number in range(count))


def test_a_bad_byte_costs_no_line():
    content = lines(2000).encode().split(b"\n")
    content[1000] = content[1000].replace(b"text 1000", b"\xff text 1000")
    found = found_in(b"\n".join(content), "x.jsonl", "text")
    assert len(found) == 2000
    assert found[1000].text == "\ufffd text 1000 Müller"
    assert [each.name for each in found if each.note] == ["x.jsonl, line 1001"]
    assert found[1000].note == "1 bad byte, which is no UTF-8: replaced by U+FFFD"
    ((name, reason),) = skipped_in(b"\n".join(content), "x.jsonl", "text", bad_bytes="skip").items()
    assert (name, reason[:20]) == ("x.jsonl, line 1001", "1 bad byte that is n")
    with pytest.raises(InputError, match=r"x.jsonl, line 1001: 1 bad byte that is no UTF-8"):
        found_in(b"\n".join(content), "x.jsonl", "text", bad_bytes="error")


def test_json_lines_of_another_encoding_are_read_where_it_is_given():
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        content = lines(3).encode(encoding)
        given = {} if encoding == "utf-16" else {"encoding": encoding}
        assert list(texts_in(content, "x.jsonl", "text", **given).values()) == [f"text {i} Müller" for i in range(3)]
    mixed = lines(1).encode("latin-1") + b'{"text": "plain"}\n'
    assert list(texts_in(mixed, "x.jsonl", "text", encoding="cp1252").values()) == ["text 0 Müller", "plain"]
    assert "not CP932" in skipped_in(lines(1).encode("latin-1") * 2, "x.jsonl", "text", encoding="cp932")["x.jsonl"]
    reason = skipped_in(lines(3).encode("latin-1"), "x.jsonl", "text")["x.jsonl"]
    assert reason.startswith("has no line of JSON; the first is left out: not UTF-8: ")


@pytest.mark.parametrize(
    ("field", "text"),
    [("a", "top"), ("data.content", "in"), ("data.x.y", "dots"), ("b.c", "key"), ("data.n.m", "deep"), ("b", None)],
)
def test_a_field_may_be_a_path_and_a_key_may_have_dots(field, text):
    entry = {
        "a": "top",
        "b.c": "key",
        "b": {"c": "other"},
        "data": {"content": "in", "x.y": "dots", "n": {"m": "deep"}},
    }
    content = json.dumps(entry).encode() + b"\n"
    if text is None:
        with pytest.raises(
            InputError, match="the field 'b' holds no text in any line; its fields are: a, b.c, b.c, data"
        ):
            found_in(content, "x.jsonl", field)
    else:
        assert list(texts_in(content, "x.jsonl", field).values()) == [text]


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl"])
def test_a_large_document_is_in_memory_twice_at_most(name):
    size = 15_000_000
    content = b"word " * (size // 5)
    content = b'{"text": "' + content + b'"}\n' if name == "x.jsonl" else content
    found_in(b'{"text": "warm"}\n', name, "text" if name == "x.jsonl" else None)
    tracemalloc.start()
    (document,) = found_in(content, name, "text" if name == "x.jsonl" else None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(document.text) == size
    assert peak < 2.3 * size + 8_000_000


def test_many_lines_are_in_memory_one_at_a_time(tmp_path):
    content = json.dumps({"text": "word " * 2000}).encode() + b"\n"
    (tmp_path / "x.jsonl").write_bytes(content * 2000)  # 20 MB
    from gpt.corpus.sources import TextFiles

    files = TextFiles([tmp_path / "x.jsonl"], "text")
    tracemalloc.start()
    assert sum(len(found.text) for part in files.parts() for found in files.read(part)) == 20_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
