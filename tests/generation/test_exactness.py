"""Rows and samples have the same bits in any company, on this processor and as it were on others.

oneDNN and torch read at their start which instructions they may use. What a processor has not is as if unset.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT

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
def test_rows_and_samples_have_the_same_bits_in_any_company(onednn, aten, what):
    """For float32 and int8, GPT-2's widths, one and two threads; `all`: XL's, too, and layers with three."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    for name, value in (("ONEDNN_MAX_CPU_ISA", onednn), ("ATEN_CPU_CAPABILITY", aten)):
        environment |= {name: value} if value else {}
    result = subprocess.run(
        [sys.executable, PROGRAM, what], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["differs"] == []
    assert report["unpromised"] == [], "x86 processors are known to keep it"
    assert report["tried"] >= (25 if what == "few" else 40)
