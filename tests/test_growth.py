import json
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common, preparing, table
from benchmarks.growth import __main__ as growth
from benchmarks.growth import data, decoding, page, processes, training
from benchmarks.growth.curves import Curve, in_turns
from gpt import GPT, InputError, ModelConfig
from gpt.model.cache import KVBlock
from gpt.text.tokenizer import Tokenizer

TINY = ModelConfig(n_layer=2, n_head=2, n_embd=32, context_length=48, vocab_size=300)
CURVE = Curve(
    grows="width",
    unit="µs per token",
    theory="operations",
    sizes=[1, 10, 100],
    measured=[[4, 3, 5], [22, 20, 18], [201, 202, 203]],
    counts=[7, 70, 700],
    through=100,
    offset=2,
)
WHERE = {"date": "2026-11-30", "torch": "2.13.0", "device": "x86_64, 2 threads"}


def result(curves):
    return {"curves": {name: curve.as_json() | WHERE for name, curve in curves.items()}}


def test_theory_is_drawn_through_a_point_beside_what_does_not_grow():
    assert CURVE.medians == [4, 20, 202]
    assert CURVE.expected == pytest.approx([4, 22, 202])
    assert CURVE.ratios == pytest.approx([1, 20 / 22, 1])


def test_theory_may_be_in_the_measured_unit():
    assert replace(CURVE, through=None).expected == [7, 70, 700]


def test_a_curve_is_read_from_what_was_kept_of_it():
    assert Curve.from_json(json.loads(json.dumps(CURVE.as_json() | WHERE))) == CURVE


def test_sizes_take_turns():
    done = []

    def work(size):
        return lambda: done.append(size) or len(done)

    assert in_turns({1: work(1), 2: work(2)}, 3, "what") == {1: [1, 3, 5], 2: [2, 4, 6]}
    assert done == [1, 2, 1, 2, 1, 2]


# ---- the program ----


def test_curves_that_are_left_out_keep_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    other = replace(CURVE, unit="ms")
    monkeypatch.setattr(growth, "GROUPS", {"a": lambda runs: {"one": CURVE}, "b": lambda runs: {"two": CURVE}})
    monkeypatch.setattr("sys.argv", ["growth"])
    monkeypatch.setattr(growth, "cores", lambda: 2)
    growth.main()
    monkeypatch.setattr(growth, "GROUPS", {"a": lambda runs: {"one": CURVE}, "b": lambda runs: {"two": other}})
    monkeypatch.setattr("sys.argv", ["growth", "--only", "b"])
    growth.main()
    kept = json.loads(common.result_file("growth", "cpu").read_text(encoding="utf-8"))
    assert kept == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Curve.from_json(kept["curves"]["one"]) == CURVE
    assert Curve.from_json(kept["curves"]["two"]) == other
    assert {"date", "device", "torch", "load_before"} <= kept["curves"]["two"].keys()


def test_each_group_gets_the_number_of_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    asked = []
    monkeypatch.setattr(growth, "GROUPS", {"a": lambda runs: asked.append(runs) or {}})
    monkeypatch.setattr("sys.argv", ["growth", "--runs", "7"])
    growth.main()
    assert asked == [7]


def test_a_busy_machine_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(growth, "GROUPS", {"a": lambda runs: {}})
    monkeypatch.setattr("sys.argv", ["growth"])
    for load, told in ((0.4, False), (3.0, True)):
        monkeypatch.setattr(growth.os, "getloadavg", lambda load=load: (load, 0, 0))
        growth.main()
        assert ("3.0 programs are at work here" in capsys.readouterr().err) == told


def test_what_cannot_be_measured_is_refused_before_anything_is(monkeypatch, capsys):
    def no_vocabulary():
        raise InputError("GPT-2's vocabulary is not here")

    monkeypatch.setattr(growth, "cores", lambda: 1)
    monkeypatch.setattr(Tokenizer, "gpt2", no_vocabulary)
    for arguments, said in (
        (["--runs", "0"], "--runs 0: must be at least 1"),
        (["--only", "sleeping"], "invalid choice: 'sleeping'"),
        (["--only", "training", "processes"], "needs two cores"),
        (["--only", "preparing"], "GPT-2's vocabulary is not here"),
    ):
        with pytest.raises(SystemExit):
            growth.parse(arguments)
        assert said in capsys.readouterr().err
    assert growth.parse(["--only", "memory", "--runs", "2"]).only == ["memory"]


# ---- what theory counts ----


def test_operations_of_a_forward_pass_are_those_that_torch_counts():
    model, T = GPT(TINY), TINY.context_length
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # which it knows
        model(torch.zeros(1, T, dtype=torch.int64))
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)  # the rule of 2·N counts them as matrices
    assert (decoding.forward_flops(TINY, T) - 2 * vectors) * T == counter.get_total_flops()


def test_operations_of_training_leave_out_what_the_mask_hides():
    N = sum(p.numel() for name, p in GPT(TINY).named_parameters() if name != "position_embedding.weight")
    assert training.executed_flops(TINY) == 6 * N + 12 * TINY.n_layer * TINY.n_embd * TINY.context_length / 2


def test_bytes_of_decoding_are_those_of_weights_and_cache():
    model = GPT(TINY)
    positions = model.get_parameter("position_embedding.weight")
    assert decoding.weight_bytes(TINY) == sum(p.nbytes for p in model.parameters()) - positions.nbytes
    assert decoding.cache_bytes(TINY, 32) == KVBlock(TINY, 32).store.nbytes


# ---- what is measured ----


@pytest.fixture
def small(monkeypatch):
    """Curves of next to nothing."""
    monkeypatch.setattr(training, "MODELS", {"width": {n: replace(TINY, n_embd=n) for n in (16, 32)}})
    monkeypatch.setattr(training, "TOKENS", 96)
    monkeypatch.setattr(training, "AT_LEAST", 0)
    monkeypatch.setattr(decoding, "MODEL", TINY)
    monkeypatch.setattr(decoding, "POSITIONS", (5, 20))
    monkeypatch.setattr(decoding, "BATCHES", (1, 3))
    monkeypatch.setattr(decoding, "TOP_K", 20)
    monkeypatch.setattr(decoding, "memory_speed", lambda device: 1e9)
    monkeypatch.setattr(decoding, "matrix_speed", lambda device: 2e9)
    monkeypatch.setattr(data, "MILLIONS", (0.001, 0.002))
    monkeypatch.setattr(data, "NEXT_TO_NONE", 0.0001)
    monkeypatch.setattr(data, "SETTLED", 0)
    monkeypatch.setattr(preparing, "library_words", lambda: ["a", "word", "or", "two"])


def test_training_is_measured(small):
    curve = training.training(2)["training by width"]
    assert curve.sizes == [16, 32]
    assert [len(runs) for runs in curve.measured] == [2, 2]
    assert min(map(min, curve.measured)) > 0
    assert curve.ratios[-1] == pytest.approx(1)


def test_decoding_is_measured_beside_the_longer_of_bytes_and_operations(small):
    curves = decoding.decoding(2)
    alone, together = curves["decoding by position"], curves["decoding by batch"]
    seen = 5 + decoding.STEPS // 2
    assert alone.counts[0] == decoding.weight_bytes(TINY) + decoding.cache_bytes(TINY, seen)
    assert [len(runs) for runs in alone.measured + together.measured] == [2] * 4
    seen = decoding.PROMPT + decoding.STEPS // 2
    read = decoding.weight_bytes(TINY) + 3 * decoding.cache_bytes(TINY, seen)
    computed = 3 * decoding.forward_flops(TINY, seen)
    assert together.counts[1] == pytest.approx(1000 * max(read / 1e9, computed / 2e9))
    assert min(map(min, alone.measured + together.measured)) > 0


def test_opening_is_measured_for_the_first_time_and_again(small):
    curves = data.opening(2)
    first, again = curves["opening by tokens"], curves["opening again"]
    assert first.counts == [2000, 4000]
    assert first.offset > 0
    assert [len(runs) for runs in first.measured + again.measured] == [2] * 4
    assert again.expected[0] == again.expected[1]


def test_preparing_is_measured_beyond_its_start(small, monkeypatch):
    sizes = {}

    def seconds(command):
        file = command[command.index("--input") + 1]
        text = open(file, encoding="utf-8").read()
        sizes[file] = len(text.encode())
        assert text.count(preparing.END_OF_TEXT) > 1
        return 3 + sizes[file] / 1e6, 0.0

    monkeypatch.setattr(data, "MEGABYTES", (0.05, 0.1))
    monkeypatch.setattr(preparing, "measured", seconds)
    curve = data.prepare(1)["preparing by size"]
    tiny, *larger = sorted(sizes.values())
    assert larger == pytest.approx([5e4, 1e5], rel=0.1)
    assert curve.offset == pytest.approx(3 + tiny / 1e6)
    assert curve.ratios == pytest.approx([1, 1], abs=0.02)


@pytest.mark.process
def test_memory_is_that_of_a_process_beside_its_forecast(monkeypatch):
    monkeypatch.setattr(training, "MICRO_BATCHES", (2,))
    curve = training.memory(1)["memory by micro-batch"]
    assert 100 < curve.medians[0] < 2000
    assert 0.5 < curve.ratios[0] < 2


def test_a_process_tells_its_speed_at_each_width(monkeypatch, capsys):
    monkeypatch.setattr(processes, "WIDTHS", (16, 32))
    monkeypatch.setattr(processes, "TOKENS", 256)
    monkeypatch.setattr("sys.argv", ["processes", str(torch.get_num_threads())])
    processes.main()
    speeds = json.loads(capsys.readouterr().out)
    assert speeds.keys() == {"16", "32"}
    assert min(speeds.values()) > 0


def test_gains_are_those_of_runs_that_took_turns(monkeypatch):
    speeds = iter([10, 20, 30, 10, 10, 5])  # of one thread, two threads, two processes; each again
    monkeypatch.setattr(processes, "tokens_per_s", lambda name: dict.fromkeys(processes.WIDTHS, next(speeds)))
    curves = processes.processes(2)
    assert curves["two threads by one"].measured == [[2, 1]] * len(processes.WIDTHS)
    assert curves["two processes by one"].measured == [[3, 0.5]] * len(processes.WIDTHS)


def test_what_a_process_says_beside_its_speeds_is_passed_over(monkeypatch):
    said = common.Process(1.0, 1, 'a warning\n{"64": 10.5}\nthe end\n')
    monkeypatch.setattr(processes, "measured", lambda command, directory: said)
    assert processes.tokens_per_s("two processes") == {64: 10.5}


# ---- the page ----


def test_each_curve_has_its_place_in_the_page(small, monkeypatch):
    monkeypatch.setattr(training, "MODELS", {name: {16: TINY} for name in training.MODELS})
    for name in ("context", "width", "depth"):
        assert f"training by {name}" in page.ORDER
    monkeypatch.setattr(training, "measured", lambda *_: common.Process(1.0, 1, '{"peak": 1, "forecast": 1}'))
    monkeypatch.setattr(processes, "tokens_per_s", lambda name: dict.fromkeys(processes.WIDTHS, 1.0))
    monkeypatch.setattr(preparing, "measured", lambda command: (1.0, 1.0))
    monkeypatch.setattr(data, "MEGABYTES", (0.001,))
    others = {name for group, measure in growth.GROUPS.items() if group != "training" for name in measure(1)}
    assert others | {f"training by {name}" for name in ("context", "width", "depth")} == set(page.ORDER)


def test_the_page_has_a_table_of_each_curve():
    text = page.section(result({"training by width": CURVE, "opening again": replace(CURVE, measured=[[1], [2], [3]])}))
    assert "| training by width: width | 1 | 10 | 100 |" in text
    assert "| µs per token | 4.00 | 20.0 | 202 |\n| theory | 4.00 | 22.0 | 202 |" in text
    assert "| measured by theory | 1.00 | 0.91 | 1.00 |" in text
    assert "Theory: operations, drawn through 100. Measured: medians of 3 runs in turns, x86_64, 2 threads" in text
    assert "Measured: one run, " in text
    assert f"]({page.PICTURE})" in text


def test_a_page_without_a_result_says_how_to_get_it(tmp_path):
    text = f"a\n{table.BEGIN}{table.END}\nb\n{table.BEGIN_GROWTH}{table.END_GROWTH}\nc"
    made = table.with_table(text, tmp_path)
    assert f"{table.BEGIN_GROWTH}\n\n{page.NONE_YET}\n\n{table.END_GROWTH}\nc" in made
    assert "make bench-growth" in made


def test_the_first_table_sums_each_curve_up():
    assert page.rows(result({"training by width": CURVE})) == [
        ("training by width, 1 to 100: measured by theory", "0.91 to 1.00", "growth")
    ]


@pytest.mark.parametrize(
    ("value", "written"), [(1234567.0, "1,230,000"), (1060.2, "1,060"), (21.96, "22.0"), (0.01234, "0.0123"), (0, "0")]
)
def test_figures_have_three_digits(value, written):
    assert page._figure(value) == written


def test_the_picture_is_drawn_whole(tmp_path):
    from matplotlib.image import imread

    page.draw(result({"training by width": CURVE}), tmp_path / "one.png")
    page.draw(result(dict.fromkeys(page.ORDER[:3], CURVE)), tmp_path / "3.png")
    one, three = (imread(tmp_path / name) for name in ("one.png", "3.png"))
    assert one.shape == three.shape
    width = one.shape[1]
    assert (one[:, : width // 4] != 1).any()
    assert (one[:, width // 3 :] == 1).all(), "places that are left are empty"
    assert (three[:, width // 2 : 3 * width // 4] != 1).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.png", "one.png"]
