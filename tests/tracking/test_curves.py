import pytest

from gpt.tracking.curves import Curve, draw_curves, text_curves

LABELS = ("step", "loss")
FALLING = Curve("falling", [0, 10, 20], [3.0, 2.0, 1.0], [0.1, 0.1, 0.0])
FLAT = Curve("flat", [0, 20], [2.0, 2.0], [0.0, 0.0])


def test_text_shows_each_curve_where_it_is():
    lines = text_curves([FALLING, FLAT], LABELS, width=30, height=5).splitlines()
    assert lines[0] == "loss"
    grid = [line.partition("│")[2].ljust(25) for line in lines[1:6]]
    width = max(len(line) for line in grid)
    assert grid[0].startswith("a")
    assert grid[-1].rstrip().endswith("a")
    assert set(grid[2].strip()) == {"b"}  # flat, from the left to the right, over the other one
    assert len(grid[2].strip()) == width
    assert [line.split("│")[0].strip() for line in lines[1:6]] == ["3", "", "2", "", "1"]
    assert lines[7].split() == ["0", "20", "step"]
    assert lines[-2:] == ["a  falling", "b  flat"]


def test_points_are_joined_so_that_no_column_is_empty():
    lines = text_curves([FALLING], LABELS, width=60, height=12).splitlines()[1:13]
    grid = [line.partition("│")[2].ljust(60) for line in lines]
    filled = {column for row in grid for column, mark in enumerate(row) if mark == "a"}
    assert filled == set(range(max(filled) + 1))


@pytest.mark.parametrize(
    "curve", [Curve("point", [5], [1.0], [0.0]), Curve("flat", [0, 9], [1.0, 1.0], [0.0, 0.0])], ids=["point", "flat"]
)
def test_a_curve_without_extent_is_drawn(curve, tmp_path):
    assert "a" in text_curves([curve], LABELS).splitlines()[1]
    draw_curves([curve], LABELS, tmp_path / "one.png")


def test_no_line_is_wider_than_asked_for():
    wide = Curve("big", [1_000_000, 2_000_000], [123.456, 0.001], [0.0, 0.0])
    assert max(map(len, text_curves([wide], LABELS, width=50).splitlines())) <= 50


@pytest.mark.parametrize(
    ("ending", "begins"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_picture_is_of_the_kind_of_its_ending(tmp_path, ending, begins):
    path = tmp_path / f"a$b$ curves.{ending}"
    path.write_text("older")
    draw_curves([FALLING, Curve("a$^$b", [0, 5], [1.0, 2.0], [0.0, 0.0])], LABELS, path)
    assert path.read_bytes().startswith(begins)
    assert [*tmp_path.iterdir()] == [path]
