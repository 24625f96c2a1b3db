"""How much less memory adapters need than all weights: the bound that docs/fine-tuning.md states."""

import pytest

from benchmarks.adapters import in_process, saved_base

pytestmark = pytest.mark.slow
BOUND = 0.60  # of the peak of training all weights of GPT-2 124M, at 2 × 1,024 tokens


def test_adapters_of_rank_16_need_at_most_60_percent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = saved_base(tmp_path / "base")
    full, adapters = (in_process(base, way, sequences=2)["peak_bytes"] for way in ("all weights", "rank 16"))
    assert adapters <= BOUND * full, f"{adapters:,} of {full:,} bytes"
