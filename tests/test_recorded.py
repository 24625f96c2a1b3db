"""What commands gave on a recorded text before names and rooms changed: they give it still.

`tests/recorded/` holds a text; the weights of two small runs that were trained on it, exactly GPT-2 and with every
option of the model; and record.json: hashes of shards, each step's batch and losses, and texts drawn from those weights
with the log-probability of each token. `python tests/test_recorded.py` wrote it, with the program of 2026-11-25.
"""

import json
import shutil
import tempfile
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import run_here

from gpt.config import TrainConfig
from gpt.dataset.dataset import open_dataset
from gpt.dataset.loader import Loader
from gpt.dataset.manifest import ShardInfo, write_manifest
from gpt.dataset.shards import write_shard
from gpt.hashing import row_hashes
from gpt.runs import integrity
from gpt.runs.checkpoint import list_checkpoints, load_best, step_of
from gpt.text.tokenizer import Tokenizer

pytestmark = pytest.mark.process

RECORDED = Path(__file__).parent / "recorded"
SHAPE = (
    *(
        "--model.n-layer",
        2,
        "--model.n-head",
        4,
        "--model.n-embd",
        32,
        "--model.context-length",
        32,
        "--model.dropout",
        0.1,
    ),
    *("--batch-tokens", 192, "--micro-batch-size", 4, "--log-every", 1, "--steps", 24, "--optimizer.warmup-steps", 4),
    *("--evaluation.every", 8, "--evaluation.sample-tokens", 4, "--checkpoint.every", 0, "--device", "cpu"),
)
RUNS = {
    "gpt2": ("gpt2", *SHAPE),
    "modern": (
        *("nano", *SHAPE, "--model.ngram-buckets", 64, "--model.logit-softcap", 15, "--model.n-kv-head", 2),
        *("--model.sliding-window", 8, "--model.window-pattern", "SL", "--optimizer.embedding-lr-scale", 1),
    ),
}
PROMPTS = ("The model", "A run, ", "1 2 3")
DRAWN = ("--json", "--seed", 7, "--max-tokens", 40, "--logprobs", 1, "--device", "cpu")


def prepared(name: str, home: Path) -> dict[str, str]:
    """The hashes of a dataset's shards, data/NAME: its end validates, as it was when this was recorded."""
    text, data, infos = (RECORDED / "text.md").read_text(encoding="utf-8"), home / "data" / name, []
    data.mkdir(parents=True)
    cut = int(len(text) * 0.9)
    tokenizer = Tokenizer.utf8_bytes() if name == "gpt2" else Tokenizer.train_bpe([text[:cut]], 300)
    tokenizer.save(data / "tokenizer.json")
    for split, part in (("train", text[:cut]), ("validation", text[cut:])):
        ids = np.array(tokenizer.encode(part), dtype="<u2")
        digest = write_shard(data / f"{split}-00000.bin", [ids])
        infos.append(ShardInfo(f"{split}-00000.bin", split, len(ids), 1, len(part.encode()), int(ids.max()), digest))
    write_manifest(data, tokenizer, infos, {"name": "files"}, "", {})
    return {info.file: info.sha256 for info in infos}


def trained(name: str, home: Path) -> list[dict[str, object]]:
    """What each step read and found; leaves runs/NAME."""
    preset, *flags = RUNS[name]
    run_here("train.py", preset, *flags, "--data", f"data/{name}", "--run-dir", f"runs/{name}", cwd=home)
    records = map(json.loads, (home / "runs" / name / "metrics.jsonl").read_text().splitlines())
    loader = Loader(open_dataset(home / "data" / name).train, 6, 32, TrainConfig.seed)
    return [
        {
            "batch": batch_hash(loader, record),
            "loss": record["train_loss"],
            "norm": record["gradient_norm"],
            **({"validation": record["val_loss"]} if "val_loss" in record else {}),
        }
        for record in records
    ]


def batch_hash(loader: Loader, record: dict[str, object]) -> str:
    """What a step read, if it is what the record says, by the hash that was in use when this was recorded."""
    step = int(str(record["step"])) - 1
    batch, samples, total = loader.batch(step), loader.samples(step), 0
    assert record["batch_hash"] == f"{int(row_hashes(samples, *batch.tensors).sum()) % 2**64:016x}"
    for sample, *rows in zip(samples, *(tensor.numpy() for tensor in batch.tensors), strict=True):
        hashed = blake2b(b"".join(row.tobytes() for row in rows), digest_size=8, key=sample.to_bytes(8, "little"))
        total += int.from_bytes(hashed.digest(), "little") >> 1
    return f"{total % 2**64:016x}"


def sampled(run: Path, home: Path) -> list[dict[str, object]]:
    """Texts of a run, and how likely each of their tokens was."""
    (home / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    lines = run_here("sample.py", "--run", run, "--prompts", home / "prompts.txt", *DRAWN, cwd=home).splitlines()
    texts = [json.loads(line) for line in lines if line.startswith("{")]
    return [{"ids": text["ids"], "logprobs": [token["logprob"] for token in text["tokens"]]} for text in texts]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_best(run).model


RENAMED = {
    "attention.projection.": "attention.out_proj.",
    "mlp.expand.": "mlp.fc_in.",
    "mlp.contract.": "mlp.fc_out.",
    "untied_head.": "lm_head.",
}


def recorded_weights(name: str) -> dict[str, torch.Tensor]:
    """By the names that weights have now."""
    tensors = safetensors.torch.load_file(RECORDED / f"{name}.safetensors")
    for before, now in RENAMED.items():
        tensors = {key.replace(before, now): tensor for key, tensor in tensors.items()}
    return tensors


def give_weights(run: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace those of every checkpoint of a run."""
    for path in list_checkpoints(run):
        safetensors.torch.save_file(tensors, path / "model.safetensors")
        (path / "manifest.json").write_text(json.dumps(integrity.manifest_of(path, step_of(path))))


def record(home: Path) -> dict[str, object]:
    """All of it, as it is now, in an empty directory."""
    return {
        name: {
            "shards": prepared(name, home),
            "steps": trained(name, home),
            "samples": sampled(home / "runs" / name, home),
        }
        for name in RUNS
    }


@pytest.mark.parametrize("name", RUNS)
def test_commands_give_what_they_gave(tmp_path, name):
    expected = json.loads((RECORDED / "record.json").read_text())[name]
    assert prepared(name, tmp_path) == expected["shards"]
    for now, before in zip(trained(name, tmp_path), expected["steps"], strict=True):
        assert now.pop("batch") == before.pop("batch")
        assert now == pytest.approx(before, rel=1e-4)  # processors round otherwise
    run, before = tmp_path / "runs" / name, recorded_weights(name)
    for weight, now in weights(run).items():
        # Of a tensor, and not of each number: where a gradient is about zero, its rounding decides how a weight moves,
        # as the optimizer divides by its size.
        assert (now - before[weight]).norm() <= 1e-3 * before[weight].norm(), weight
    give_weights(run, before)
    for now, before in zip(sampled(run, tmp_path), expected["samples"], strict=True):
        assert now["ids"] == before["ids"]
        assert now["logprobs"] == pytest.approx(before["logprobs"], abs=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (RECORDED / "record.json").write_text(json.dumps(record(work), indent=1) + "\n")
        for name in RUNS:
            run = work / "runs" / name
            best = next(path for path in list_checkpoints(run) if step_of(path) == load_best(run).state["step"])
            shutil.copyfile(best / "model.safetensors", RECORDED / f"{name}.safetensors")
