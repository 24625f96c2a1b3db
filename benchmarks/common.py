"""What the benchmarks share: running a program and nanoGPT as processes, and where results go."""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gpt.analysis.cost import parameter_count
from gpt.dataset.shards import Split
from gpt.device import choose_products
from gpt.model.config import ModelConfig
from gpt.presets import preset
from gpt.training.utilization import measured_peak_flops

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
NANOGPT_FILES = ("train.py", "model.py", "configurator.py")
# The documented CPU run of nanoGPT's README, without its number of iterations.
NANOGPT_CPU = (
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--log_interval=1", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0",
)  # fmt: skip


def described(model: ModelConfig, optimizer: str) -> str:
    """A model in the words of a table: who compares two programs must name what each of them trains."""
    layers = f"{model.n_layer} layer{'s' if model.n_layer > 1 else ''} × {model.n_embd}"
    tables = (
        f"n-grams up to {model.ngram} in {model.ngram - 1} × {model.ngram_buckets:,} rows" if model.ngram > 1 else ""
    )
    values = "value embeddings" if model.value_embeddings else ""
    kind = "GPT-2" if model.positions == "learned" else "modern recipe"
    size = f"{parameter_count(model) / 1e6:.3g} M parameters"
    return ", ".join(part for part in (f"{kind} of {layers}", tables, values, optimizer, size) if part)


def described_preset(name: str, vocab_size: int) -> str:
    config = preset(name)
    optimizer = {"adamw": "AdamW", "muon": "Muon and AdamW"}[config.optimizer.name]
    return described(replace(config.model, vocab_size=vocab_size), optimizer)


def described_nanogpt_cpu(vocab_size: int) -> str:
    """The model of nanoGPT's documented CPU run."""
    model = ModelConfig(n_layer=4, n_head=4, n_embd=128, context_length=64, vocab_size=vocab_size, bias=False)
    return described(model, "AdamW")


def arguments(description: str | None, peer: bool = True, **defaults: Any) -> argparse.Namespace:
    """Options of a benchmark: --nanogpt where it has a peer, and one for each default."""
    parser = argparse.ArgumentParser(description=description)
    if peer:
        parser.add_argument("--nanogpt", type=Path, required=True, help="checkout of github.com/karpathy/nanoGPT")
    for name, default in defaults.items():
        kind = Path if default is None else type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=f"default: {default}")
    options = parser.parse_args()
    if peer and not (options.nanogpt / "train.py").exists():
        parser.error(f"--nanogpt {options.nanogpt}: holds no train.py; it must be a checkout of nanoGPT")
    return options


@dataclass(frozen=True)
class Process:
    """A process that has ended well."""

    seconds: float
    peak_bytes: int
    output: str


def matrix_speed(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Measure floating-point operations per second of matrix products, by the library that is fastest here."""
    with choose_products("highest", device)():
        return measured_peak_flops(device, dtype)


def measured(command: list[str], cwd: Path) -> Process:
    """Run a command as a process of its own; ends the benchmark with its output if it fails."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)}\nended with {code}:\n{output}")
    return Process(seconds, usage.ru_maxrss * 1024, output)


def ours(work: Path, *options: object) -> Process:
    """train.py as a process."""
    return measured([sys.executable, str(ROOT / "train.py"), *map(str, options)], work)


class NanoGPT:
    """A copy of a checkout, so that nothing is written into it."""

    def __init__(self, checkout: Path, work: Path) -> None:
        self.path = work / "nanogpt"
        self.path.mkdir(parents=True)
        for name in NANOGPT_FILES:
            shutil.copy(checkout / name, self.path)
        shutil.copytree(checkout / "config", self.path / "config")

    def prepare(self, name: str, train: np.ndarray, validation: np.ndarray, vocab_size: int) -> None:
        """A dataset in its format: headerless uint16, and the size of the vocabulary, which it wants pickled."""
        import pickle

        directory = self.path / "data" / name
        directory.mkdir(parents=True, exist_ok=True)
        train.astype(np.uint16).tofile(directory / "train.bin")
        validation.astype(np.uint16).tofile(directory / "val.bin")
        (directory / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size}))

    def train(self, *options: object) -> Process:
        return measured([sys.executable, "train.py", *map(str, options)], self.path)


def iteration_seconds(output: str) -> list[float]:
    """The times that nanoGPT's log gives for its iterations."""
    return [float(ms) / 1000 for ms in re.findall(r"iter \d+: loss [\d.naninf]+, time ([\d.]+)ms", output)]


def validation_loss(output: str) -> float:
    """The last that nanoGPT's log gives, in nats."""
    return float(re.findall(r"val loss ([\d.]+)", output)[-1])


def all_ids(split: Split) -> np.ndarray:
    return split.read(0, split.tokens)


def ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median of the ratios of runs that were made one after the other."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))


def rounded(value: Any) -> Any:
    """Five digits are more than a shared machine repeats."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def processor() -> str:
    """Name the processor's kind, and what of it torch uses."""
    known = torch.cpu.get_capabilities()
    name = known.get("cpu_name") or platform.machine()
    matrices = " with AMX" if known.get("amx_tile") else ""
    return f"{name} {torch.backends.cpu.get_cpu_capability()}{matrices}"


def hardware(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def here(device: str) -> dict[str, str]:
    """Say when and where something is measured."""
    where = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    if device == "cuda":
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        where |= {"device": hardware(device), "driver": driver.stdout.strip()}
    else:
        where |= {
            "device": f"{hardware(device)}, {torch.get_num_threads()} threads",
            "python": platform.python_version(),
        }
    return where


def finish(name: str, device: str, result: dict[str, Any]) -> dict[str, Any]:
    """Print the result as one JSON line, keep it in benchmarks/results/, and return it with when and where."""
    whole = rounded({"benchmark": name} | here(device) | result)
    line = json.dumps(whole)
    RESULTS.mkdir(exist_ok=True)
    result_file(name, device).write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)
    return whole


def result_file(name: str, device: str) -> Path:
    """Name the file that keeps a benchmark's result: another one for each kind of processor, as ratios differ too."""
    kind = re.sub(r"[^a-z0-9]+", "-", hardware(device).lower()).strip("-")
    return RESULTS / f"{'gpu' if device == 'cuda' else 'cpu'}-{kind}-{name}.json"


def show(message: str) -> None:
    """Print a line of progress to standard error; the result is the one line on standard output."""
    print(message, file=sys.stderr, flush=True)
