"""Examples as shards with masks: held against ids and masks made of each line by itself."""

import gzip
import json
import random
import re
import zipfile

import numpy as np
import pytest
from helpers import run_here
from instruction_files import files_of, lines_of, made
from processes import Script

from gpt import InputError
from gpt.corpus import pipeline, slices
from gpt.corpus.content_split import SplitWhole
from gpt.corpus.examples import Examples
from gpt.corpus.ledger import read_ledger
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import Texts
from gpt.dataset.dataset import open_dataset
from gpt.text.tokenizer import Tokenizer


def drawn_lines(count):
    """Examples of all forms, some with end-of-text and lines of the template in them; no two are equal."""
    rng = random.Random(3)
    odd = ["<|endoftext|>", "\n### User:\n", "é", "\n\n", "### Assistant:", "  "]

    def words():
        return " ".join(rng.choice([*odd, "red", "green", "blue", "1"]) for _ in range(rng.randrange(1, 12))) + " x"

    for number in range(count):
        answer = f"{number} {words()}"
        yield [
            {"prompt": words(), "completion": answer},
            {"messages": [{"role": "user", "content": words()}, {"role": "assistant", "content": answer}]},
            {
                "messages": [
                    {"role": "system", "content": "Be."},
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": words()},
                    {"role": "assistant", "content": words()},
                    *([{"role": "user", "content": words()}] if number % 2 else []),
                ]
            },
        ][number % 3]


def reference(line, tokenizer):
    """The ids of an example and which are learned, from the words of the documentation, part by part."""
    parts, last = [], True
    if "prompt" in line:
        parts = [(line["prompt"], False), (line["completion"], True)]
    else:
        head = ""
        for message in line["messages"]:
            name = {"system": "System", "user": "User", "assistant": "Assistant"}[message["role"]]
            if parts and parts[-1][1] and not head:
                parts[-1] = (f"{parts[-1][0]}\n### {name}:", True)
                head += "\n"
            else:
                head += ("\n" if head or parts else "") + f"### {name}:\n"
            if message["role"] == "assistant":
                parts += [(head, False), (message["content"].strip(), True)]
                head = ""
            else:
                head += message["content"].strip()
        if head:
            parts, last = [*parts, (head, False)], False
    ids = [tokenizer.encode(text) for text, _ in parts]
    mask = [is_learned for own, (_, is_learned) in zip(ids, parts, strict=True) for _ in own]
    return [token for own in ids for token in own] + [tokenizer.end_of_text], [*mask, last]


def documents_of(dataset):
    """Each split's documents: ids with their end-of-text, and which are learned."""
    found = {}
    for split in (dataset.train, dataset.validation):
        ids, learned = split.read(0, split.tokens), split.learned(0, split.tokens)
        ends = np.flatnonzero(ids == dataset.tokenizer.end_of_text) + 1
        found[split.name] = [
            (i.tolist(), m.tolist()) for i, m in zip(np.split(ids, ends), np.split(learned, ends), strict=True)
        ][:-1]
    return found


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "bytes", "char"])
def test_shards_and_masks_are_those_of_each_line_by_itself(tmp_path, kind, request, monkeypatch):
    """In several slices and shards; each example is whole, in one of the splits."""
    monkeypatch.setattr(slices, "LEAST_BYTES", 1 << 12)
    monkeypatch.setattr("gpt.corpus.writer.ShardWriter.__init__.__defaults__", (700,))
    lines = [*drawn_lines(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fixture = {"gpt2": "gpt2_tokenizer", "bpe": "bpe"}.get(kind)
    dataset = made(tmp_path, tokenizer=request.getfixturevalue(fixture) if fixture else kind)
    found = documents_of(dataset)
    assert len(dataset.shards) > 6
    assert len(found["train"]) > len(found["validation"]) > 3
    wanted = [reference(line, dataset.tokenizer) for line in lines]
    assert sorted(found["train"] + found["validation"]) == sorted(wanted)
    report = json.loads((tmp_path / "d" / "report.json").read_text())["examples"]
    learned = sum(sum(mask) for _, mask in wanted)
    assert report == {"learned": learned, "cut": 0, "cut_tokens": 0, "unlearned": 0}
    assert sum(info.learned for info in dataset.shards) == learned


def test_preparing_again_encodes_nothing_and_gives_the_same_files(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, drawn_lines(90))))
    first = made(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}

    def write_examples(*_):
        pytest.fail("it was encoded again")

    monkeypatch.setattr(pipeline, "write_examples", write_examples)
    assert made(tmp_path).fingerprint == first.fingerprint
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before


def test_a_damaged_mask_is_made_anew(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, drawn_lines(90))))
    made(tmp_path)
    mask = tmp_path / "d" / "train-00000.mask.bin"
    before = mask.read_bytes()
    mask.unlink()
    mask.write_bytes(before[:-1] + bytes([1 - before[-1]]))
    made(tmp_path)
    assert mask.read_bytes() == before


def test_another_length_is_encoded_anew(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(lines_of(60)))
    whole, cut = made(tmp_path), made(tmp_path, Examples(max_tokens=21))
    assert cut.train.tokens < whole.train.tokens


def test_what_is_too_long_is_cut_at_its_end_and_counted(tmp_path, said):
    lines = [*lines_of(60), json.dumps({"prompt": "a" * 30, "completion": "b" * 30})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = documents_of(made(tmp_path, Examples(max_tokens=40)))
    cut = [document for document in found["train"] + found["validation"] if len(document[0]) == 40]
    assert cut == [([97] * 30 + [98] * 9 + [256], [False] * 30 + [True] * 9 + [False])]
    assert "1 examples are longer than 40 tokens (`max_tokens`): their last 21 tokens are cut off" in said
    report = json.loads((tmp_path / "d" / "report.json").read_text())["examples"]
    assert (report["cut"], report["cut_tokens"]) == (1, 21)
    found = documents_of(made(tmp_path, Examples(max_tokens=61)))
    assert any(len(ids) == 61 and mask[-1] for ids, mask in found["train"] + found["validation"])


@pytest.mark.parametrize("faulty", ["error", "skip"])
def test_an_answer_that_is_cut_away_is_refused_by_its_line(tmp_path, said, faulty):
    lines = lines_of(60)
    lines[7] = json.dumps({"prompt": "a" * 39, "completion": "b"})  # with an end-of-text 41 tokens
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    reason = "a.jsonl, line 8: its answer begins after 40 tokens (`max_tokens`)"
    if faulty == "error":
        with pytest.raises(InputError, match=re.escape(reason)):
            made(tmp_path, Examples(max_tokens=40))
        assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
        return
    dataset = made(tmp_path, Examples(max_tokens=40, faulty="skip"))
    assert f"skipped {reason}" in said
    assert sum(len(documents) for documents in documents_of(dataset).values()) == 59
    assert [e["document"] for e in read_ledger(tmp_path / "d") if "reason" in e] == ["a.jsonl, line 8"]
    report = json.loads((tmp_path / "d" / "report.json").read_text())
    assert report["examples"]["unlearned"] == 1
    assert report["documents"]["left_out"] == {"its answer begins after N tokens (`max_tokens`)": 1}


def test_an_answer_that_is_learned_in_part_is_kept_and_one_token_less_is_not(tmp_path):
    lines = [*lines_of(60), json.dumps({"prompt": "a" * 38, "completion": "bb"})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made(tmp_path, Examples(max_tokens=40))
    with pytest.raises(InputError, match="line 61: its answer begins after 39 tokens"):
        made(tmp_path, Examples(max_tokens=39))


def test_files_of_validation_validate_and_copies_of_them_do_not_train(tmp_path):
    lines = lines_of(90)
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:80]))
    (tmp_path / "held.jsonl").write_text("\n".join(lines[70:]))
    found = documents_of(made(tmp_path, validation=[tmp_path / "held.jsonl"]))
    wanted = [reference(json.loads(line), Tokenizer.utf8_bytes()) for line in lines]
    assert (sorted(found["train"]), sorted(found["validation"])) == (sorted(wanted[:70]), sorted(wanted[70:]))


def test_examples_with_one_preamble_stay_where_they_are(tmp_path, said):
    """They share nearly all their 13-grams; moved or dropped, nothing would be left of one side."""
    preamble = " ".join(f"word{number}" for number in range(60))
    lines = [json.dumps({"prompt": f"{preamble} {n} ", "completion": f"{n} times"}) for n in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    dataset = made(tmp_path)
    found = documents_of(dataset)
    assert 3 <= len(found["validation"]) <= 20
    assert any("passages of training share more than 10% with validation" in line for line in said)


def test_too_few_examples_are_refused_and_none_is_divided(tmp_path):
    lines = [json.dumps({"prompt": "a", "completion": "b" * size}) for size in (300, 3)]
    for count, tokens in ((1, 0), (2, 5)):
        (tmp_path / "a.jsonl").write_text("\n".join(lines[:count]))
        with pytest.raises(InputError, match=f"the text is too small: the validation split has {tokens} tokens"):
            made(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(lines_of(60)))
    tokenizer = Tokenizer.char("".join(lines_of(60)), end_of_text=False)
    with pytest.raises(InputError, match="the char tokenizer has no end-of-text here, with which an answer ends"):
        made(tmp_path, tokenizer=tokenizer)


def test_max_tokens_has_bounds():
    with pytest.raises(InputError, match="max_tokens"):
        Examples(max_tokens=1)


def test_plain_text_has_no_masks(tmp_path):
    texts = Texts((str(number), f"{number} " * 300) for number in range(20))
    dataset = prepare(texts, SplitWhole(), "bytes", tmp_path / "d", {"name": "x"})
    assert not [*(tmp_path / "d").glob("*.mask.bin")]
    assert not dataset.train.is_masked
    assert json.loads((tmp_path / "d" / "manifest.json").read_text())["version"] == 1


def test_the_command_reads_packed_files_and_records_its_settings(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines_of(60)).encode()))
    options = ("--max-tokens", "64", "--faulty", "skip", "--tokenizer", "bytes")
    said = run_here("data/prepare.py", "instruct", "--input", "a.jsonl.gz", "--name", "q", *options, cwd=tmp_path)
    assert "tokens are learned, of answers and what ends them" in said
    dataset = open_dataset(tmp_path / "data" / "q")
    assert "--data data/q --windows packed --document-mask" in said
    assert dataset.recipe["sample_prompt"] == "What is 0 and 0? "
    wanted = {"name": "instruct", "max_tokens": 64, "faulty": "skip", "overlap": "move", "input": ["a.jsonl.gz"]}
    assert wanted.items() <= dataset.recipe.items()
    manifest = json.loads((tmp_path / "data" / "q" / "manifest.json").read_text())
    assert manifest["version"] == 2
    assert dataset.train.count_learned(0, dataset.train.tokens) == manifest["shards"][0]["learned"]
    bad = run_here("data/prepare.py", "instruct", "--input", "a.jsonl.gz", "--name", "x/y", cwd=tmp_path, code=2)
    assert "is no plain name" in bad


def test_a_prompt_that_is_long_is_not_shown_at_each_evaluation(tmp_path):
    long = json.dumps({"prompt": "What? " * 80, "completion": "x"})
    (tmp_path / "a.jsonl").write_text("\n".join([long, *lines_of(60)]))
    assert made(tmp_path).recipe["sample_prompt"] == "What is 0 and 0? "
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"prompt": "", "completion": f"{n} x"}) for n in range(300)))
    assert made(tmp_path).recipe["sample_prompt"] == ""


def test_of_a_directory_hidden_files_are_passed_over_and_others_are_refused(tmp_path):
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "a.jsonl").write_text("\n".join(lines_of(60)))
    (tmp_path / "chats" / ".DS_Store").write_bytes(b"\0")
    options = ("--input", "chats", "--name", "q", "--tokenizer", "bytes")
    assert "skipped chats/.DS_Store" in run_here("data/prepare.py", "instruct", *options, cwd=tmp_path)
    (tmp_path / "chats" / "README.md").write_text("About them.")
    said = run_here("data/prepare.py", "instruct", *options, cwd=tmp_path, code=2)
    assert "--input: 1 line is no example" in said
    assert "chats/README.md: examples are read from JSON Lines (.jsonl)" in said
    run_here("data/prepare.py", "instruct", *options, "--faulty", "skip", cwd=tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_files_are_no_faulty_lines_however_many_and_a_fault_behind_them_is_named(tmp_path, packed):
    """An archive that macOS made has a hidden file beside each."""
    files = {f"{number}/.DS_Store": b"\0" for number in range(25)} | {"__MACOSX/._a.jsonl": b"\0"}
    files["z.jsonl"] = "\n".join(lines_of(60)).encode()

    def written(name):
        """Write the files to a directory, or to an archive; return its name."""
        for file, content in () if packed else files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        if packed:
            with zipfile.ZipFile(tmp_path / (name := f"{name}.zip"), "w") as archive:
                [archive.writestr(file, content) for file, content in files.items()]
        return name

    assert made(tmp_path, name=written("chats")).train.tokens > 500
    files["z/x.txt"] = b"About them."
    with pytest.raises(InputError, match=r"1 line is no example[^\n]*\n.*z/x.txt: examples are read from"):
        made(tmp_path, name=written("faulty"))


INSTRUCT = ("instruct", "--input", "a.jsonl", "--max-tokens", "64", "--tokenizer", "bytes")


@pytest.fixture
def in_slices(tmp_path, monkeypatch):
    """Examples in several slices, each with shards and masks of its own."""
    (tmp_path / "a.jsonl").write_text("\n".join(lines_of(200)))
    monkeypatch.setattr(slices, "LEAST_BYTES", 2048)
    return tmp_path


@pytest.mark.process
def test_jobs_that_share_the_examples_write_the_same_bytes(in_slices):
    program = in_slices / "prepare.py"
    program.write_text(
        "from gpt.__main__ import main\nfrom gpt.corpus import slices\n\n"
        "if __name__ == '__main__':\n    slices.LEAST_BYTES = 2048\n    main()\n"
    )
    command = ("prepare", *INSTRUCT, "--workers", "1", "--name", "parts", "--part")
    jobs = [Script(program, *command, part, cwd=in_slices) for part in ("2/2", "1/2")]
    run_here("data/prepare.py", *INSTRUCT, "--name", "whole", "--workers", "1", cwd=in_slices)
    assert [job.end() for job in jobs] == [0, 0], [job.said() for job in jobs]
    whole = files_of(in_slices / "data" / "whole")
    assert files_of(in_slices / "data" / "parts") == whole
    assert sum(name.endswith(".mask.bin") for name in whole) > 3
    assert open_dataset(in_slices / "data" / "parts").train.is_masked
