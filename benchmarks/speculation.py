"""Tokens per second with guesses of what comes next, by those without: on real text by a trained model, and at random.

    python -m benchmarks.speculation --run runs/python-nano

The run must be one of Python, whose dataset still lies where it was trained on: text of its validation split is
continued, and a piece of it that stands there four times, as well as random ids by GPT-2 124M with random weights. Both
sides take turns at each prompt, must draw the same ids, and are compared by the sums of their times; the corpus is
sorted before.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from benchmarks.common import arguments, finish, show
from gpt import GPT, Engine, ModelConfig, SamplingConfig, load_run, open_dataset
from gpt.apps.corpus import corpus_of
from gpt.generation.lookups import Corpus
from gpt.model.prepack import prepack
from gpt.runs.directory import read_config

NEW, PROMPTS, PROMPT = 300, 4, 48
TEMPERATURES = (0.0, 0.8)
DTYPES: tuple[Literal["float32", "float16", "int8"], ...] = ("float32", "float16", "int8")


def ratio(model: GPT, prompts: Sequence[list[int]], temperature: float, new: int, corpus: Corpus | None) -> float:
    """Seconds of all prompts without guesses, by those with."""
    seconds = [0.0, 0.0]
    for number, prompt in enumerate(prompts):
        drawn = []
        for guessing in (0, 1) if number % 2 else (1, 0):
            engine = Engine(model, 1, speculative=bool(guessing), corpus=corpus)
            sampling = SamplingConfig(max_tokens=new, temperature=temperature, seed=number)
            request = engine.submit(prompt, sampling)
            start = time.perf_counter()
            for _ in engine.run():
                pass
            seconds[guessing] += time.perf_counter() - start
            drawn.append(request.output_ids)
        assert drawn[0] == drawn[1]
    return seconds[0] / seconds[1]


def trained(path: Path, runs: int) -> Iterator[tuple[str, list[float]]]:
    """What a trained model gains, text by text."""
    [data] = read_config(path).datasets
    split = open_dataset(data).validation
    starts = [i * (split.tokens - PROMPT) // PROMPTS for i in range(PROMPTS)]
    python = [split.read(start, PROMPT).tolist() for start in starts]
    texts = {"Python": python, "text that repeats": [ids[: PROMPT // 2] * 4 for ids in python]}
    for dtype in DTYPES:
        run = load_run(path, dtype=dtype, prepacked=True)
        corpus = corpus_of(run, patience=0.0)
        corpus.waited(0.0)
        assert corpus.thread
        corpus.thread.join()
        assert corpus.lookup, f"{data}: is not the dataset that {path} was trained on"
        for (text, prompts), temperature in product(texts.items(), TEMPERATURES):
            found = [ratio(run.model, prompts, temperature, NEW, corpus) for _ in range(runs)]
            yield f"{text}, {dtype}, temperature {temperature:g}", found


def random_weights(runs: int) -> Iterator[tuple[str, list[float]]]:
    """What is lost where guesses are never right."""
    torch.manual_seed(0)
    weights = GPT(ModelConfig()).state_dict()
    for dtype in DTYPES:
        model = GPT(ModelConfig()).eval()
        model.load_state_dict(weights)
        prepack(model, getattr(torch, dtype))
        prompts = [torch.randint(50_000, (8,)).tolist() for _ in range(2)]
        name = f"GPT-2 124M with random weights, {dtype}, temperature 1"
        yield name, [ratio(model.requires_grad_(False), prompts, 1.0, 64, None) for _ in range(runs)]


def main() -> None:
    options = arguments(__doc__, peer=False, run=Path("runs/python-nano"), runs=3)
    found = {}
    for rows in (trained(options.run, options.runs), random_weights(options.runs)):
        for name, ratios in rows:
            found[name] = ratios
            show(f"{name}: {median(ratios):.2f} ({', '.join(f'{one:.2f}' for one in ratios)})")
    finish("speculation", "cpu", {"model": str(read_config(options.run).preset), "ratios": found})


if __name__ == "__main__":
    main()
