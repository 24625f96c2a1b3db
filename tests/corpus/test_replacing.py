"""Which dataset another one may replace without being asked for."""

import pytest

from gpt.corpus.recipes.files import Files
from gpt.corpus.recipes.instruct import Instruct
from gpt.corpus.replacing import differences, require_replaceable
from gpt.errors import InputError

WAS = {"name": "files", "tokenizer": "bpe:512", "input": ["notes"], "validation": [], "share": 0.1, "field": None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"tokenizer": "auto"}, []),  # which stands for what it was
        ({"input": ["notes", "more"]}, []),
        ({"input": ["./notes/"]}, []),
        ({"new": "a setting of a later version"}, []),
        ({"tokenizer": "gpt2"}, ["`tokenizer` was bpe:512, and is gpt2 now"]),
        ({"input": ["more"]}, ["`input` had notes too, which is not given now"]),
        ({"share": 0.2}, ["`share` was 0.1, and is 0.2 now"]),
        ({"validation": ["a", "b"]}, ["`validation` was not given, and is a, b now"]),
        (
            {"field": "text", "share": 0.2},
            ["`share` was 0.1, and is 0.2 now", "`field` was not given, and is text now"],
        ),
    ],
)
def test_only_added_text_is_no_difference(change, said):
    assert sorted(differences(WAS, WAS | change)) == sorted(said)


def test_more_files_of_a_download_are_added_text_and_fewer_are_not():
    assert differences({"files": 1}, {"files": 2}) == []
    assert differences({"files": 2}, {"files": 1}) == ["`files` was 2, and is 1 now"]


def test_lines_that_are_no_examples_were_in_no_dataset():
    was, now = (Instruct(input=[], name="n", faulty=faulty).manifest_entry() for faulty in ("error", "skip"))
    assert differences(was, now) == []


def test_a_refusal_says_what_to_do(tmp_path):
    asked = Files(input=[tmp_path / "b"], name="n", tokenizer="gpt2").manifest_entry()
    was = Files(input=[tmp_path / "a"], name="n", tokenizer="bytes").manifest_entry()
    with pytest.raises(InputError) as refusal:
        require_replaceable(tmp_path, was, asked)
    assert str(refusal.value) == (
        f"{tmp_path}: was prepared otherwise: `tokenizer` was bytes, and is gpt2 now; "
        f"`input` had {tmp_path / 'a'} too, which is not given now; choose another `name`, "
        "or replace it by `replace`. Nothing was changed"
    )
    with pytest.raises(InputError, match="choose another `out`, or replace it by `replace`"):
        require_replaceable(tmp_path, {"name": "python", "share": 1}, {"name": "python", "share": 2})
