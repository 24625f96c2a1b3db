import json
import sys

import pytest

from benchmarks import common, steps, table
from gpt.settings import to_dict

LOG = """\
step 0: train loss 4.1676, val loss 4.1649
iter 0: loss 4.1828, time 575.36ms, mfu -100.00%
iter 1: loss 3.6635, time 38.50ms, mfu -100.00%
step 2: train loss 2.5050, val loss 2.6049
iter 2: loss 2.5039, time 37.00ms, mfu 0.03%
"""


def test_nanogpts_log_is_read():
    assert common.iteration_seconds(LOG) == pytest.approx([0.57536, 0.0385, 0.037])
    assert common.validation_loss(LOG) == 2.6049


def test_a_ratio_is_the_median_of_neighbouring_runs():
    assert common.ratio([10, 20, 90], [1, 4, 10]) == 9


def test_figures_have_five_digits():
    assert common.rounded({"a": [1.234567, 7], "b": {"c": 123456.7}}) == {"a": [1.2346, 7], "b": {"c": 123460.0}}


def test_a_directory_that_is_no_checkout_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["time_to_loss.py", "--nanogpt", str(tmp_path)])
    with pytest.raises(SystemExit):
        common.arguments("what it does", runs=3)
    assert "holds no train.py; it must be a checkout of nanoGPT" in capsys.readouterr().err


def test_a_result_is_one_json_line_and_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    common.finish("speed", "cpu", {"ratio": 1.234567})
    line = capsys.readouterr().out
    assert (tmp_path / "results" / "cpu-speed.json").read_text() == line
    assert json.loads(line)["ratio"] == 1.2346
    assert {"benchmark", "date", "torch", "device", "python"} <= json.loads(line).keys()


def test_steps_are_timed_one_by_one(tiny_config, tmp_path, monkeypatch, capsys):
    settings = to_dict(tiny_config) | {"preset": "gpt2"}
    settings["model"] |= {"vocab_size": 65}  # that of the smallest shape that is measured
    monkeypatch.setattr(sys, "argv", ["steps.py", "gpt2", "3", json.dumps(settings)])
    steps.main()
    result = json.loads(capsys.readouterr().out)
    assert len(result["seconds"]) == 3
    assert result["peak_bytes"] > 0


def test_the_table_in_the_readme_is_that_of_the_results():
    readme = (common.ROOT / "README.md").read_text(encoding="utf-8")
    assert table.with_table(readme, common.RESULTS) == readme, "run: python -m benchmarks.table"


def test_each_result_has_its_rows():
    for file in common.RESULTS.glob("*.json"):
        result = json.loads(file.read_text())
        assert file.name in (f"{device}-{result['benchmark']}.json" for device in ("cpu", "gpu"))
        assert table.ROWS[result["benchmark"]](result)
