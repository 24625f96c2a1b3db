import pytest

from gpt import InputError
from gpt.tracking.jsonl import MetricsFile, read_metrics
from gpt.tracking.plot import draw_losses

SHOWN = {"gradient_norm": 1.0, "tokens_per_s": 1.0, "learning_rate": 1.0, "epoch": 0.0, "elapsed_s": 0.0}


def record(step):
    return {"step": step, "train_loss": 1.0 / step}


def write(run, steps, after=0):
    file = MetricsFile(run, after)
    for step in steps:
        file.write(record(step))
    file.close()


def test_each_record_is_a_line_of_json_at_once(tmp_path):
    file = MetricsFile(tmp_path, 0)
    file.write(record(1))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train_loss": 1.0}\n'
    file.close()


def test_going_on_removes_later_steps_and_a_torn_line(tmp_path):
    write(tmp_path, range(1, 10))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "tra')
    write(tmp_path, range(6, 8), after=5)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_damaged_line_in_the_middle_is_refused_by_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2}\nrubbish\n[]\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2}\n[]\n')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]


def test_the_picture_is_a_png(trained_run):
    path = draw_losses(trained_run)
    assert path.name == "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name",
    ["a$^$b", "price$5_$", r"$\frac{$", "[red]bold", "-x", "a'b\"c", "line\nbreak", "é漢🎉", "*?[a]", "x" * 250],
)
def test_a_run_of_any_name_is_drawn(tmp_path, name):
    (tmp_path / name).mkdir()
    write(tmp_path / name, range(1, 4))
    assert draw_losses(tmp_path / name).read_bytes().startswith(b"\x89PNG")


class FullDisk:
    """A file that takes a few bytes of each write and fails at some of them, as a full disk does."""

    def __init__(self, file):
        self.file, self.full = file, False

    def write(self, data):
        if self.full:
            self.file.write(data[:5])
            raise OSError(28, "No space left on device")
        return self.file.write(data[:7])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_delays_lines_but_loses_and_tears_none(tmp_path, said):
    metrics_file = MetricsFile(tmp_path, 0)
    metrics_file._file = disk = FullDisk(metrics_file._file)
    for step in range(1, 8):
        disk.full = step in (3, 4, 6)
        metrics_file.write(record(step))
        if not disk.full:
            assert [r["step"] for r in read_metrics(tmp_path)] == list(range(1, step + 1))
    assert len(said) == 2
    assert "metrics.jsonl: cannot be written (No space left on device); its lines are kept" in said[0]


def test_what_is_no_number_is_written_as_null_and_drawn_as_a_gap(tmp_path):
    file = MetricsFile(tmp_path, 0)
    file.write({"step": 1, "train_loss": float("nan"), "val_loss": float("inf"), "val_loss_se": None})
    file.write({"step": 2, "train_loss": 2.0, "val_loss": 2.5, "val_loss_se": 0.1})
    assert (tmp_path / "metrics.jsonl").read_text().startswith('{"step": 1, "train_loss": null, "val_loss": null')
    assert draw_losses(tmp_path).exists()
