"""JSON that is called a text is named; what merely begins like it is not."""

import gzip
import json

import pytest
from corpus_files import texts_in

from gpt.corpus.decoding import SAMPLE
from gpt.corpus.pipes import suffix_of_json

OBJECTS = [{"text": "One day, there was a cat."}, {"text": "And a dog."}]
ARRAY = json.dumps(OBJECTS).encode()
LINES = "".join(json.dumps(each) + "\n" for each in OBJECTS).encode()


@pytest.mark.parametrize(
    ("name", "content", "called", "wanted"),
    [
        ("arr.txt", ARRAY, "a JSON array", ".json"),
        ("lines.txt", LINES, "JSON Lines", ".jsonl"),
        ("dump", LINES, "JSON Lines", ".jsonl"),
        ("dump.dat", b"\xef\xbb\xbf \n" + ARRAY, "a JSON array", ".json"),
        ("wide.dat", f"\ufeff\n{ARRAY.decode()}".encode("utf-16-be"), "a JSON array", ".json"),
        ("x.md", ARRAY, "a JSON array", ".json"),
        ("x.jsonl.bak", LINES, "JSON Lines", ".jsonl"),
        ("data.gz", gzip.compress(ARRAY, mtime=0), "a JSON array", ".json.gz"),
        ("lines.txt.gz", gzip.compress(LINES, mtime=0), "JSON Lines", ".jsonl.gz"),
    ],
)
def test_json_by_another_name_is_read_as_text_and_named(name, content, called, wanted, said):
    plain = gzip.decompress(content) if name.endswith(".gz") else content
    text = plain.decode("utf-16" if name == "wide.dat" else "utf-8-sig")
    assert texts_in(content, name) == {name: text}
    assert said == [
        f"{name}: begins like {called}, and is taken as it stands; the braces are learned with the text; to read its "
        f"records, give it a name that ends in {wanted}, and name their `field`"
    ]


def test_what_is_called_by_its_name_is_not_named_and_a_notebook_once(said):
    texts_in(ARRAY, "x.json", "text")
    assert not said
    texts_in(ARRAY, "x.ipynb")
    assert [each.partition("x.ipynb: ")[2] for each in said] == [
        "taken as it stands; the braces are learned with the text"
    ]


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (json.dumps(OBJECTS, indent=2), ".json"),
        ('["one", "two"]\n', ".json"),
        ('\ufeff [{"a": 1}]', ".json"),
        ('[{"a": 1}, {"b": 2}, {"cut', ".json"),
        (json.dumps([{"a": "x" * 2 * SAMPLE}]), ".json"),
        (json.dumps(["x" * 1000] * 2000), ".json"),
        (json.dumps({"a": "x" * 2 * SAMPLE}), ".jsonl"),
        ('{"a": 1}\n\n{"a": 2', ".jsonl"),
        (json.dumps({"a": {"b": 1}}, indent=2), ".jsonl"),
        ('["Yes," he said.] And then', ""),
        ('["a"]\nkey = 1\n', ""),
        ('["Yes", "no" and more', ""),
        ("[[package]]\nname = 'x'\n", ""),
        ("[[link]] is a page", ""),
        ("[1] A footnote.", ""),
        ("[section]\nkey = 1\n", ""),
        ('{"title": "front matter"}\n\nProse follows.', ""),
        ('{"quoted"} text', ""),
        ("{ return 1; }", ""),
        ("{'a': 1}", ""),
        ("[" * 100_000, ""),
        ('{"a":' * 100_000, ""),
        ("Prose, [with] brackets {and} braces.", ""),
        ("", ""),
    ],
)
def test_what_is_json_is_told_from_what_begins_like_it(content, suffix):
    assert suffix_of_json(content.encode()[:SAMPLE]) == suffix
