"""Rows and samples have the same bits in any company, on this processor and as it were on others.

oneDNN and torch read when they first compute which instructions they may use, which a forked process has yet to do.
What a processor has not is as if unset.
"""

import json
from pathlib import Path

import pytest
import torch
from processes import Script

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).with_name("exactness_program.py")
SETTINGS = [
    ("SSE41", "default"),
    pytest.param("AVX", "default", marks=pytest.mark.slow),
    ("AVX2", "avx2"),
    ("AVX512_CORE", "avx512"),
    (None, None),
]


@pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines or not torch.backends.mkldnn.is_available(),
    reason="needs oneDNN, and an x86 processor for 8-bit integers",
)
@pytest.mark.parametrize("what", ["few", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("onednn", "aten"), SETTINGS)
def test_rows_and_samples_have_the_same_bits_in_any_company(onednn, aten, what, tmp_path):
    """For float32, float16 and int8, GPT-2's widths, one and two threads; `all`: XL's, too, and layers with three."""
    names = {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
    limits = {name: value for name, value in names.items() if value}
    started = Script(PROGRAM, what, cwd=tmp_path, OMP_WAIT_POLICY="passive", **limits)
    started.process.join()  # pytest's own limit is the longest wait, as `all` takes a while
    assert started.end() == 0, started.said()
    *beginning, result = started.said().splitlines()
    report = json.loads(result)
    if onednn == "SSE41":  # which every processor has
        assert report["processor"] == "DEFAULT"
        assert any("isa:Intel SSE4.1" in line for line in beginning)
    assert report["differs"] == []
    assert report["unpromised"] == [], "x86 processors are known to keep it"
    assert report["tried"] >= (35 if what == "few" else 60)
