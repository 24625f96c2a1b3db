"""What README shows runs, and what it names is there."""

import re
import threading
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(README.splitlines()) <= 180


@pytest.mark.process
@pytest.mark.parametrize("in_a_thread", [False, True])
def test_training_from_python_takes_ten_lines(dataset, in_a_thread, capsys):
    """On another dataset, and for three steps."""
    [code] = re.findall(r"## In Python\n\n```python\n(.*?)```", README, flags=re.DOTALL)
    training = code.partition("\n\nprompt")[0].strip().splitlines()
    assert len([line for line in training if line]) <= 10
    code = code.replace('"data/python"', repr(str(dataset.path))).replace("state.step < 100", "state.step < 3")
    failures = []

    def run():
        try:
            exec(code, {})
        except BaseException as error:
            failures.append(error)

    if in_a_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert failures == []
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[1]) for line in lines[:3]]
    assert [line.split()[0] for line in lines[:3]] == ["0", "1", "2"]
    assert losses[2] < losses[0]
    assert lines[3:]  # a sample


def test_every_file_that_it_links_to_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) > 10
    for link in links:
        assert (Path(__file__).parents[1] / link).exists(), link
