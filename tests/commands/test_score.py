"""`gpt score`: its figures add up, its scores come as they are computed, and nobody waits in the dark."""

import json
import math
import re
from itertools import count, pairwise

import pytest
from helpers import run_gpt

from gpt.commands import score
from gpt.runs.checkpoint import list_checkpoints, step_of


def test_a_long_text_is_read_in_windows_with_progress(trained_run, said, monkeypatch, capsys):
    text = "def f(x): return x\n" * 20
    monkeypatch.setattr(score.time, "monotonic", count(0.0, 0.2).__next__)
    score.main(["--run", str(trained_run), "--text", text, "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    assert "".join(entry["text"] for entry in found["scores"]) == text
    assert found["tokens"] == found["bytes"] == len(text)
    assert said[0].startswith("the text has 381 tokens and the model sees 32: it is read in windows, and each token is")
    shares = [int(re.fullmatch(rf"(\d+)% of {len(text)} bytes", line)[1]) for line in said[1:]]
    assert len(shares) > 3
    assert all(earlier < later for earlier, later in pairwise([*shares, 101]))


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_scores_are_printed_before_the_last_is_computed(trained_run, monkeypatch, capsys, arguments):
    seen = []

    def scores(*given):
        for one in score_text(*given):
            seen.append(len(capsys.readouterr().out))
            yield one

    score_text = score.score_text
    monkeypatch.setattr(score, "score_text", scores)
    score.main(["--run", str(trained_run), "--text", "abcdef", "--device", "cpu", *arguments])
    assert len(seen) == 6
    assert all(seen[1:])


def test_the_newest_run_is_named_where_none_was(trained_run, tmp_path, monkeypatch, said):
    (tmp_path / "runs").mkdir()
    trained_run.rename(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gpt"])
    score.main(["--text", "abc", "--device", "cpu"])
    following = "continue a text: gpt sample --run runs/mine"
    assert re.fullmatch(r"using runs/mine, step \d+", said[0])
    assert said[1:] == [following]
    score.main(["--text", "abc", "--device", "cpu", "--run", "runs/mine"])
    assert said[2:] == [following]
    score.main(["--text", "abc", "--device", "cpu", "--run", "runs/mine", "--json"])
    assert said[3:] == []


def test_a_file_that_is_not_there_is_named(tmp_path):
    found = run_gpt(tmp_path, "score", "--file", "none.txt", code=2)
    assert found == "error: --file none.txt: cannot be read (No such file or directory)\n"


def test_gpt_score_adds_up(trained, tmp_path):
    home, _ = trained
    text = "def read(self):\n    return é\n"
    (tmp_path / "text").write_text(text)
    found = json.loads(run_gpt(home, "score", "--file", tmp_path / "text", "--json", "--top-logprobs", 2))
    assert (
        "".join(bytes([score["id"]]).decode("latin-1") for score in found["scores"]).encode("latin-1").decode() == text
    )
    assert found["bits"] == pytest.approx(-sum(score["logprob"] for score in found["scores"]) / math.log(2))
    assert found["bits_per_byte"] == pytest.approx(found["bits"] / len(text.encode()))
    lines = run_gpt(home, "score", "--text", text).splitlines()
    assert len(lines) == len(found["scores"]) + 3
    assert lines[-3].startswith(f"{len(text.encode())} tokens, {len(text.encode())} bytes, {found['bits']:,.2f} bits")
    assert f"perplexity {found['perplexity']:,.2f}" == lines[-1]
    assert re.fullmatch(r"runs/python-nano, step \d+", found["run"])
    steps = [step_of(path) for path in list_checkpoints(home / "runs" / "python-nano")]
    other = json.loads(
        run_gpt(home, "score", "--run", "runs/python-nano", "--text", text, "--json", "--checkpoint", steps[0])
    )
    assert other["run"] == f"runs/python-nano, step {steps[0]}"
    assert "nothing to score" in run_gpt(home, "score", "--text", "", code=2)
    assert "give one of them" in run_gpt(home, "score", "--text", "a", "--file", tmp_path / "text", code=2)
