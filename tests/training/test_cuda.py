"""What only a GPU can show: exact resume, memory that really runs out, and its forecast."""

import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT
from processes import run_script

from gpt.dataset.loader import Loader, Prefetcher
from gpt.runs.checkpoint import list_checkpoints, load, step_of
from gpt.training.micro_batch import SHARE_OF_CUDA

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.timeout(1200),
]
MODEL = (
    "--model.n-layer",
    6,
    "--model.n-embd",
    384,
    "--model.n-head",
    6,
    "--model.context-length",
    1024,
    "--device",
    "cuda",
)
PACE = ("--steps", 300, "--checkpoint.every", 50, "--evaluation.every", 100, "--batch-tokens", 16 * 1024)


@pytest.mark.parametrize("more", [(), ("--model.dropout", 0.1, "--recompute", "blocks")])
def test_a_run_killed_in_bfloat16_compiled_and_fused_resumes_bit_for_bit(dataset, tmp_path, more):
    options = ("nano", "--data", dataset.path, *MODEL, *PACE, "--dtype", "bfloat16", "--compile", "on", "--exact", "on")
    options += more
    run_script("train.py", *options, "--run-dir", "whole", cwd=tmp_path)
    command = [sys.executable, str(ROOT / "train.py"), *map(str, options), "--run-dir", "parts"]
    process = subprocess.Popen(command, cwd=tmp_path)
    end = time.monotonic() + 600
    while not list_checkpoints(tmp_path / "parts"):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_script("train.py", "--run-dir", "parts", "--resume", cwd=tmp_path)
    one, two = (load(list_checkpoints(tmp_path / name)[-1], optimizer=True) for name in ("whole", "parts"))
    assert step_of(one.path) == step_of(two.path) == 300
    for ours, theirs in ((one.model, two.model), (one.optimizer, two.optimizer)):
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_far_too_large_micro_batch_ends_at_one_that_fits(dataset, tmp_path):
    """GPT-2's shape with 4,096 sequences of 1,024 tokens at a time: more than a terabyte of activations."""
    options = ("gpt2", "--data", dataset.path, "--steps", 1, "--batch-tokens", 4096 * 1024, "--micro-batch-size", 4096)
    options += ("--compile", "off")  # which would take the loss's hundreds of chunks one by one
    output = run_script("train.py", *options, "--device", "cuda", cwd=tmp_path)
    assert "out of memory with 4096 sequences at a time; it is done again with 2048" in output
    assert "1 steps, 4,194,304 tokens" in output


@pytest.mark.parametrize("micro_batch_size", [4, 16])
def test_the_forecast_is_as_near_to_what_cuda_measures_as_the_automatic_micro_batch_takes_for_granted(
    dataset, tmp_path, micro_batch_size
):
    options = (
        "gpt2",
        "--data",
        dataset.path,
        "--steps",
        4,
        "--batch-tokens",
        32 * 1024,
        "--micro-batch-size",
        micro_batch_size,
    )
    forecast = run_script("train.py", *options, "--device", "cuda", "--dry-run", cwd=tmp_path)
    measured = run_script("train.py", *options, "--device", "cuda", cwd=tmp_path)
    figures = [
        int(re.search(pattern, text)[1].replace(",", ""))
        for pattern, text in ((r"memory, peak +([\d,]+) MB", forecast), (r"peak memory +([\d,]+) MB", measured))
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1 - SHARE_OF_CUDA)


def test_batches_that_are_read_ahead_lie_in_pinned_memory_and_are_the_same(dataset):
    loader = Loader(dataset.train, 4, 64, seed=3)
    with Prefetcher(loader, device="cuda") as ahead:
        for step in range(20):
            batch, own = ahead.batch(step), loader.batch(step)
            assert batch.inputs.is_pinned() and batch.targets.is_pinned()
            assert torch.equal(batch.inputs.to("cuda", non_blocking=True).cpu(), own.inputs)
            assert torch.equal(batch.targets, own.targets)
