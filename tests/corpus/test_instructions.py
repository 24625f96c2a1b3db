"""Lines of prompts and answers: what each becomes, and which are refused, with file, line and reason."""

import json

import pytest
from instruction_files import lines_of, made

from gpt import InputError
from gpt.corpus.documents import Document, Notice, ReadOptions
from gpt.corpus.examples import Examples
from gpt.corpus.ledger import read_ledger
from gpt.corpus.reading import say_notices
from gpt.corpus.sources import TextFiles

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}


def read(tmp_path, content, name="a.jsonl"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = TextFiles([tmp_path / name], how=ReadOptions(examples=True))
    found = [found for part in source.parts() for found in source.read(part)]
    say_notices([each for each in found if isinstance(each, Notice)])
    return [each for each in found if not isinstance(each, Notice)]


def learned(document):
    whole = document.text + "$"  # end-of-text
    return [whole[start:stop] for start, stop in document.learned]


@pytest.mark.parametrize(
    ("line", "text", "answers"),
    [
        ({"prompt": " 2 + 2 =", "completion": " 4 "}, " 2 + 2 = 4 ", [" 4 $"]),
        ({"prompt": "", "completion": "x", "id": 7}, "x", ["x$"]),
        ({"prompt": "a\r\n", "completion": "b\r\nc"}, "a\nb\nc", ["b\nc$"]),
        ({"prompt": "\ud800", "completion": "<|endoftext|>"}, "\ufffd<|endoftext|>", ["<|endoftext|>$"]),
        ({"messages": [USER, ANSWER]}, "### User:\nHi\n### Assistant:\nHello!", ["Hello!$"]),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
            "### User:\nHi\n### Assistant:\nHello!",
            ["Hello!$"],
        ),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            "### User:\nAdd.\n\n1 2\n### Assistant:\n3",
            ["3$"],
        ),
        ({"instruction": "Add.", "input": "", "output": "3"}, "### User:\nAdd.\n### Assistant:\n3", ["3$"]),
        ({"instruction": "Add.", "input": None, "output": "3"}, "### User:\nAdd.\n### Assistant:\n3", ["3$"]),
        ({"instruction": "Add.", "output": "3"}, "### User:\nAdd.\n### Assistant:\n3", ["3$"]),
    ],
)
def test_an_example_becomes_a_text_of_which_the_answers_are_learned(tmp_path, line, text, answers):
    (found,) = read(tmp_path, json.dumps(line))
    assert isinstance(found, Document)
    assert (found.name, found.text, learned(found)) == ("a.jsonl, line 1", text, answers)


FAULTS = {
    '{"prompt": "a"}': "has no field 'completion'",
    '{"completion": "a"}': "has no field 'prompt'",
    '{"prompt": "a", "completion": ""}': "its completion is empty",
    '{"prompt": "a", "completion": " \\n"}': "its completion is empty",
    '{"prompt": "a", "completion": 4}': "its field 'completion' is a number, and must be a text",
    '{"prompt": ["a"], "completion": "b"}': "its field 'prompt' is a list, and must be a text",
    '{"prompt": null, "completion": "b"}': "its field 'prompt' is null, and must be a text",
    '{"prompt": "a", "completion": "b", "messages": []}': "has fields of several forms (prompt, messages)",
    '{"text": "a", "label": 1}': "has none of the fields of an example (prompt and completion, or messages, or",
    "{}": "its fields are: none",
    '{"prompt": "a", "prompt": "b", "completion": "c"}': "has the same key twice",
    '{"messages": [{"role": "user", "role": "user", "content": "c"}]}': "has the same key twice",
    '{"messages": "a"}': "its conversation is a text, and must be a list",
    '{"messages": []}': "has no answer (of the assistant)",
    '{"messages": ["a"]}': "its message 1 is a text, and must be an object",
    '{"messages": [{"role": "user"}]}': "its message 1 has no field 'content'",
    '{"messages": [{"content": "a"}]}': "its message 1 has no field 'role'",
    '{"messages": [{"role": "tool", "content": "a"}]}': "its message 1 has the role 'tool'; roles are system, user",
    '{"messages": [{"role": "user", "content": [{"type": "text"}]}]}': "the field 'content' of its message 1 is a list",
    '{"messages": [{"role": "user", "content": "a"}]}': "has no answer (of the assistant)",
    '{"messages": [{"role": "assistant", "content": " "}]}': "its message 1, an answer, is empty",
    '{"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]}': "are both answers",
    '{"messages": [{"role": "assistant", "content": "a", "weight": 0}]}': "its message 1 has the field 'weight'",
    '{"conversations": [{"from": "bing", "value": "a"}]}': "has the role 'bing'; roles are human, gpt",
    '{"instruction": "a", "output": ""}': "its message 2, an answer, is empty",
    '{"instruction": "a", "input": 3, "output": "b"}': "its field 'input' is a number",
    '{"instruction": "a"}': "has no field 'output'",
    "[1, 2]": "is a list, and an example is an object; of a JSON array, this makes lines: jq",
    '"a"': "is a text, and an example is an object",
    "true": "is true or false, and",
    '{"prompt": "a", "completion": "b"} {"prompt": "c", "completion": "d"}': "holds more than one object",
    '{"prompt": "a", "comp': "not JSON",
}


def test_each_line_that_teaches_nothing_is_named_with_the_reason(tmp_path):
    """In a file with a byte-order mark and blank lines, all other lines of which are examples."""
    good = '{"prompt": "a", "completion": "b"}'
    lines = [line for fault in FAULTS for line in (fault, "", good)]
    found = read(tmp_path, b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert [each.name for each in found[::2]] == [f"a.jsonl, line {3 * n + 1}" for n in range(len(FAULTS))]
    for left, reason in zip(found[::2], FAULTS.values(), strict=True):
        assert reason in left.reason, left
    assert {document.text for document in found[1::2]} == {"ab"}


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_examples_is_named(tmp_path, content):
    (left,) = read(tmp_path, content)
    assert left.reason == "has no line of JSON"


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.csv", "a.html"])
def test_other_files_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"`input` .*{name}: examples are read from JSON Lines \(\.jsonl\)"):
        read(tmp_path, '{"prompt": "a", "completion": "b"}', name)


def test_all_lines_are_read_before_any_is_refused_and_nothing_is_written(tmp_path):
    lines = lines_of(60)
    lines[3] = lines[50] = '{"prompt": "a"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError) as refused:
        made(tmp_path)
    said = str(refused.value)
    assert said.startswith(
        "`input`: 2 lines are no example to learn from; mend or remove what is named, or leave it out"
    )
    assert [line.strip() for line in said.splitlines()[1:]] == [
        "a.jsonl, line 4: has no field 'completion'",
        "a.jsonl, line 51: has no field 'completion'",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_of_many_faults_the_first_are_named_and_all_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join([*lines_of(9), *["{}"] * 31]))
    with pytest.raises(InputError, match="31 lines are no example") as refused:
        made(tmp_path)
    lines = str(refused.value).splitlines()
    assert (len(lines), lines[1].split(":")[0].strip(), lines[-1].strip()) == (22, "a.jsonl, line 10", "and 11 more")


def test_faults_can_be_skipped_and_are_counted(tmp_path, said):
    lines = lines_of(60)
    lines[3] = '{"prompt": "a"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made(tmp_path, Examples(faulty="skip"))
    assert "skipped a.jsonl, line 4: has no field 'completion'" in said
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert report["documents"] == {"read": 59, "kept": 59, "left_out": {"has no field 'completion'": 1}}
    assert [e["document"] for e in read_ledger(tmp_path / "d") if "reason" in e] == ["a.jsonl, line 4"]


def test_what_is_learned_otherwise_than_it_is_meant_is_said(tmp_path, said):
    """Names of special tokens, and characters that UTF-8 cannot spell."""
    lines = [{"prompt": "a", "completion": "b"}, {"prompt": "\ud83d", "completion": "<|im_end|>b\udc00<|endoftext|>"}]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert [each.note for each in found] == [
        "",
        "2 lone surrogates, which UTF-8 cannot spell: replaced by U+FFFD",
    ]
    assert learned(found[1]) == ["<|im_end|>b\ufffd<|endoftext|>$"]  # a character for a character
    assert said == [
        "a.jsonl: has <|endoftext|>, <|im_end|> (2 in all, the first in a.jsonl, line 2), learned as any other text; "
        "what ends an answer is learned without them"
    ]
