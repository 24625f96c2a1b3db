import contextlib
import json
import re
import sys
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from benchmarks import attention, common, curves, generate, learning, overheads, own_text, steps, table
from gpt.config_io import to_dict
from gpt.presets import preset

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


def test_a_ratio_is_the_median_of_neighboring_runs():
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
    monkeypatch.setattr(common, "processor", lambda: "AMD Zen5 AVX512")
    common.finish("speed", "cpu", {"ratio": 1.234567})
    line = capsys.readouterr().out
    assert (tmp_path / "results" / "cpu-amd-zen5-avx512-speed.json").read_text() == line
    assert json.loads(line)["ratio"] == 1.2346
    assert {"benchmark", "date", "torch", "device", "python"} <= json.loads(line).keys()


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ({"cpu_name": "Intel Xeon", "amx_tile": True}, "Intel Xeon AVX512 with AMX"),
        ({"cpu_name": "AMD Zen5", "amx_tile": False}, "AMD Zen5 AVX512"),
        ({}, "some-machine AVX512"),
    ],
)
def test_a_result_names_the_processor(known, name, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(common.platform, "machine", lambda: "some-machine")
    assert common.processor() == name


def test_steps_are_timed_one_by_one(tiny_config, tmp_path, monkeypatch, capsys):
    settings = to_dict(tiny_config) | {"preset": "gpt2"}
    settings["model"] |= {"vocab_size": 65}  # that of the smallest shape that is measured
    monkeypatch.setattr(sys, "argv", ["steps.py", "gpt2", "3", json.dumps(settings)])
    steps.main()
    result = json.loads(capsys.readouterr().out)
    assert len(result["seconds"]) == 3
    assert result["peak_bytes"] > 0


def test_the_time_of_a_training_is_shared_out(tiny_config, dataset, monkeypatch):
    monkeypatch.setattr(overheads, "preset", lambda _: replace(tiny_config, steps=6, device="cpu"))
    shares = overheads.run_shares(dataset.path)
    assert 0 < shares["between steps"] < 1
    assert 0 < shares["evaluation and saving"] < 1
    assert shares["seconds"] > 0


def test_the_table_in_the_page_is_that_of_the_results():
    page = (common.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert table.with_table(page, common.RESULTS) == page, "run: python -m benchmarks.table"


def test_a_row_that_names_two_programs_names_their_models():
    named = r"(GPT-2|modern recipe) of \d+ layers? × \d+, .*(AdamW|Muon), [\d.]+ M parameters"
    for file in common.RESULTS.glob("*.json"):
        result = json.loads(file.read_text())
        for what, _, program in table.ROWS_OF[result["benchmark"]](result):
            if program in ("time_to_loss", "bits_per_byte", "learning", "throughput", "memory"):
                assert re.search(f"both {named}", what) or re.search(f"ours {named}; nanoGPT {named}", what), what
            elif "by those of" in what:
                assert "GPT-2 124M with the same random weights in both" in what


def test_models_are_described_by_what_tells_them_apart():
    assert common.described_nanogpt_cpu(65) == "GPT-2 of 4 layers × 128, AdamW, 0.804 M parameters"
    modern = common.described_preset("shakespeare-char-modern", 65)
    assert modern.startswith("modern recipe of 1 layer × 128, n-grams up to 4 in 3 × ")


def test_a_comparison_of_recipes_says_whether_both_were_tuned():
    result = {"models": {"ours": "A", "nanogpt": "B"}, "nanogpt_tokens": 250_000, "ratio": 4}
    assert "at its documented rate of 0.0006, where ours was tuned" in table.learning(result)[0][0]
    assert "at 0.0024, its best rate of those tried" in table.learning(result | {"nanogpt_rate": 0.0024})[0][0]
    assert learning.best_rate({6e-4: 5.2, 1.2e-3: 4.9, 2.4e-3: 5.0}) == 1.2e-3


def test_a_best_rate_at_the_edge_is_said_to_be_none(capsys):
    assert learning.best_rate({6e-4: 5.2, 1.2e-3: 4.9}) == 1.2e-3
    assert "try higher ones" in capsys.readouterr().err


@pytest.mark.parametrize("mfu", [None, 1.3])
def test_a_share_of_matrix_speed_that_cannot_be_is_not_printed(mfu):
    found = {"models": "A", "tokens_per_s": {"ours": [10.0]}, "model_tflops": 1.0, "mfu": mfu}
    assert table.throughput({"x": found})[0][1].endswith("MFU —)")


def test_what_was_measured_of_generation_is_kept_and_shown(tmp_path, monkeypatch, capsys, gpt2_tokenizer):
    (file,) = common.RESULTS.glob("cpu-amd-epyc-avx512-generate.json")
    measured = json.loads(file.read_text())
    for name in ("benchmark", "date", "torch", "device", "python", "ratios"):
        del measured[name]
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate", "--runs", "1"])
    stubs = {"save_model": str, "save_run": lambda *_: "", "start_seconds": lambda *_: (1.5, 1.0)}
    for name, stub in (stubs | {"workers": lambda *_: [], "alternate": lambda *_: measured}).items():
        monkeypatch.setattr(generate, name, stub)
    generate.main()
    said = capsys.readouterr()
    assert json.loads(common.result_file("generate", "cpu").read_text()) == json.loads(said.out)
    assert f"GPT-2 124M on {common.here('cpu')['device']}: new tokens/s" in said.err


def test_kernels_of_attention_are_timed_and_one_that_refuses_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(attention, "SHAPES", {"cpu": ((1, 8),)})
    monkeypatch.setattr(sys, "argv", ["attention", "--runs", "2"])
    attention.main()
    result = json.loads(capsys.readouterr().out)
    assert [*result["kernels"]] == ["1 × 8, 12 heads of 64", "1 × 8, 6 heads of 128"]
    for kernels in result["kernels"].values():
        assert all(len(kernels[name]["seconds"]) == 2 for name in ("torch", "exact", "flash", "math"))
        assert all("No viable backend" in kernels[name]["fault"] for name in ("cudnn", "efficient"))
    what, figures, _ = table.attention(result)[0]
    assert "float32, 1 × 8, 12 heads of 64" in what
    assert re.fullmatch(r"exact [\d.]+, flash [\d.]+, math [\d.]+", figures)


def test_a_kernel_that_fails_later_is_left_out(monkeypatch):
    """In the second of its turns, by a counter of its calls."""
    inputs, attend, calls = [torch.ones(1, 1, 4, 2).requires_grad_() for _ in range(3)], attention.once, []

    def failing(given):
        calls.append(1)
        if len(calls) > 6 * attention.TIMES:
            raise RuntimeError("broken\nat length")
        return attend(given)

    monkeypatch.setattr(attention, "KERNELS", {"math": attention.KERNELS["math"]} | dict.fromkeys("abc"))
    monkeypatch.setattr(attention, "by", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(attention, "once", failing)
    ways = ("torch", "exact", "math", *"abc")
    assert attention.measured(inputs, "cpu", 2) == {way: {"fault": "broken"} for way in ways}


def test_a_kernel_with_other_bits_each_time_is_told(monkeypatch):
    inputs = [torch.ones(1, 1, 4, 2).requires_grad_() for _ in range(3)]
    assert attention.repeats(inputs)
    noise = iter((0.0, 0.0, 1e-6))
    attend = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda *given, **how: attend(*given, **how) * (1 + next(noise))
    )
    assert not attention.repeats(inputs)
    kernel = {"seconds": [0.5], "same_bits": False}
    failed = {"dtype": "bfloat16", "kernels": {"a": {"torch": {"fault": "too old"}, "x": kernel}}}
    assert table.attention(failed)[0][1] == "too old"
    rows = table.attention(
        {"dtype": "bfloat16", "kernels": {"a": {"torch": {"seconds": [1.0], "same_bits": True}, "x": kernel}}}
    )
    assert rows[0][1] == "x 2.00; other bits each time: x"


def test_each_result_has_its_rows():
    for file in common.RESULTS.glob("*.json"):
        result = json.loads(file.read_text())
        assert re.fullmatch(rf"(cpu|gpu)-[a-z0-9-]+-{result['benchmark']}\.json", file.name)
        assert table.ROWS_OF[result["benchmark"]](result)


def test_each_processor_keeps_its_rows_and_the_last_stand_first(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    share = {"between steps": 0.01, "evaluation and saving": 0.02}
    for day, name in enumerate(("Intel Xeon AVX2", "AMD Zen5 AVX512", "AMD Zen5 AVX512"), start=1):
        monkeypatch.setattr(common, "processor", lambda name=name: name)
        figures = {"import_seconds_beyond_torch": day, "batch_tokens_per_s": 1e6, "share_of_default_run": share}
        common.finish("overheads", "cpu", figures | {"date": f"2026-12-0{day}"})
    lines = [line for line in table.table(tmp_path).splitlines() if "import gpt" in line]
    assert len(lines) == 2
    assert "3.00 s" in lines[0] and "AMD Zen5 AVX512, " in lines[0]
    assert "1.00 s" in lines[1] and "Intel Xeon AVX2, " in lines[1]


def test_own_text_reads_the_last_table_and_sums_up_the_worst(tmp_path):
    tables = {
        "learned by heart no: of 6 samples, the longest stretch that stands letter for letter in the training text has "
        "1,011 characters": (0, 1011),
        "learned by heart 3 of 6 samples hold 100+ characters of it; the longest stretch that stands letter for letter "
        "in 27% of the training text (searched) has 412 characters": (3, 412),
    }
    for output, (by_heart, longest) in tables.items():
        assert own_text.copies(output) == {"samples_by_heart": by_heart, "longest_copy": longest}
    ours = {"final": 3.0, "best": 2.9, "untrained": 5.0, "samples_by_heart": 0, "bits_per_byte": 2.0}
    runs = {
        "a": {"ours": ours, "nanogpt": {"bits_per_byte": 4.0}},
        "b": {"ours": ours | {"final": 6.0, "samples_by_heart": 2}},
    }
    assert own_text.summary(runs) == {
        "largest_rise": pytest.approx(3.1), "runs_above_untrained": 1, "runs_by_heart": 1, "ratio": 0.5
    }  # fmt: skip
    (tmp_path / "text.txt").write_text("".join(f"{i:9}\n" for i in range(100)))
    slices = [own_text.slice_of(tmp_path / "text.txt", 100, seed) for seed in range(3)]
    assert [len(text) for text in slices] == [100, 100, 100]
    assert len(set(slices)) == 3
    assert own_text.slice_of(tmp_path / "text.txt", 5000, 0) is None


def test_reference_curves_are_of_three_seeds_and_go_to_the_end_of_their_preset():
    names = {file.stem.rpartition("-seed-")[0] for file in curves.CURVES.iterdir()}
    assert "shakespeare-char-modern" in names
    for name in names:
        for seed in curves.SEEDS:
            lines = (curves.CURVES / f"{name}-seed-{seed}.jsonl").read_text(encoding="utf-8").splitlines()
            assert json.loads(lines[-1])["tokens"] == preset(name).steps * preset(name).batch_tokens


@pytest.mark.parametrize("name", ["shakespeare-char-modern", "shakespeare-char-cpu", "nano"])
def test_the_page_has_what_the_reference_curves_say(name):
    files = curves.CURVES.glob(f"{name}-seed-*.jsonl")
    runs = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    page = (common.ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    found = 0
    for records in zip(*runs, strict=True):
        bits = [record["val_bits_per_byte"] for record in records]
        row = rf"^\| {records[0]['tokens']:,}(, the end)? \| {fmean(bits):.3f} \| {max(bits) - min(bits):.3f} \|$"
        found += len(re.findall(row, page, flags=re.M))
    assert found == 5
