"""Validation bits per byte that two minutes of training buy: the preset nano, and nanoGPT's code on the same text.

nanoGPT trains its documented CPU model by characters, and on GPT-2's tokens, for as long as nano trains, with as many
iterations as that allows; evaluation is not counted. The worse of its two ways is not repeated after the
first run. Its losses are its own estimates, over 100 random batches.
"""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import (
    NANOGPT_CPU,
    NanoGPT,
    all_ids,
    arguments,
    described_nanogpt_cpu,
    described_preset,
    finish,
    iteration_seconds,
    ours,
    show,
    validation_loss,
)
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.shards import Split
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

PILOT = 60  # iterations, to learn how long one takes


def text_of(dataset: Dataset, split: Split) -> str:
    return dataset.tokenizer.decode([i for i in all_ids(split).tolist() if i != dataset.tokenizer.end_of_text])


def nanogpt_bits(
    peer: NanoGPT, encode: Callable[[str], list[int]], vocab_size: int, texts: tuple[str, str], seconds: float
) -> dict[str, float]:
    """Bits per byte after so many seconds of training on a text in some encoding."""
    train, validation = (np.array(encode(text)) for text in texts)
    peer.prepare("text", train, validation, vocab_size)
    common = (*NANOGPT_CPU, "--dataset=text")
    pilot = peer.train(*common, "--eval_iters=1", f"--max_iters={PILOT}", f"--lr_decay_iters={PILOT}")
    each = median(iteration_seconds(pilot.output)[PILOT // 3 :])
    steps = round(seconds / each)
    process = peer.train(
        *common, "--eval_iters=100", f"--eval_interval={steps}", f"--max_iters={steps}", f"--lr_decay_iters={steps}"
    )
    times = iteration_seconds(process.output)
    nats = validation_loss(process.output) * len(validation) / len(texts[1].encode())
    return {"bits_per_byte": nats / math.log(2), "steps": steps, "training_s": median(times) * len(times)}


def main() -> None:
    options = arguments(__doc__, runs=3, data=None)
    data = (options.data or Path("data/python")).resolve()
    dataset = open_dataset(data)
    texts = (text_of(dataset, dataset.train), text_of(dataset, dataset.validation))
    characters = sorted(set(texts[0] + texts[1]))
    index = {character: i for i, character in enumerate(characters)}
    encodings: dict[str, tuple[Callable[[str], list[int]], int]] = {
        "nanogpt, characters": (lambda text: [index[character] for character in text], len(characters))
    }
    try:
        tokenizer = Tokenizer.gpt2()
        encodings["nanogpt, GPT-2's tokens"] = (tokenizer.encode, tokenizer.vocab_size)
    except InputError as error:
        show(f"nanoGPT on GPT-2's tokens is left out: {error}")
    result: dict[str, Any] = {"ours": []} | {name: [] for name in encodings}
    for number in range(options.runs):
        with tempfile.TemporaryDirectory() as directory:
            work = Path(directory)
            peer = NanoGPT(options.nanogpt, work)
            ours(work, "nano", "--data", data, "--run-dir", work / "run", "--seed", number, "--device", "cpu")
            last = json.loads((work / "run" / "metrics.jsonl").read_text().splitlines()[-1])
            result["ours"].append({"bits_per_byte": last["val_bits_per_byte"], "training_s": last["elapsed_s"]})
            show(f"ours: {result['ours'][-1]}")
            for name, (encode, vocab_size) in encodings.items():
                result[name].append(nanogpt_bits(peer, encode, vocab_size, texts, last["elapsed_s"]))
                show(f"{name}: {result[name][-1]}")
            best = min(encodings, key=lambda name: result[name][0]["bits_per_byte"])
            encodings = {best: encodings[best]}
    pairs = zip(result["ours"], result[best], strict=True)
    ratio = median(own["bits_per_byte"] / theirs["bits_per_byte"] for own, theirs in pairs)
    models = {
        "ours": described_preset("nano", dataset.tokenizer.vocab_size),
        "nanogpt": described_nanogpt_cpu(encodings[best][1]),
    }
    finish("bits-per-byte", "cpu", result | {"models": models, "ratio": ratio})


if __name__ == "__main__":
    main()
