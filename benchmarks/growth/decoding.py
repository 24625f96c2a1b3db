"""Decoding with GPT-2 124M, random weights in the order that load_run(prepacked=True) gives them, in float32.

By position, one sequence: a token needs the bytes of all weights but the embeddings of positions, and of the keys and
values before it. By batch: a step needs these bytes, or its floating-point operations, whichever take longer at the
speeds that the machine is measured to have as it begins.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from benchmarks.common import matrix_speed, show
from benchmarks.generate import TOP_K, memory_speed
from benchmarks.growth.curves import Curve, in_turns
from gpt import GPT, Engine, SamplingConfig
from gpt.analysis.cost import FLOAT32, flops_per_token, parameters
from gpt.model.config import ModelConfig
from gpt.model.prepack import prepack

MODEL = ModelConfig()
POSITIONS, BATCHES = (10, 30, 100, 300, 1000), (1, 2, 4, 8, 16, 32, 64)
STEPS = 12  # timed in each run
PROMPT = 8  # tokens, of each sequence of a batch


def weight_bytes(config: ModelConfig) -> int:
    """Count the bytes of weights that a step reads: all but the embeddings of positions."""
    return FLOAT32 * sum(count for name, count in parameters(config).items() if name != "position embedding")


def cache_bytes(config: ModelConfig, positions: int) -> int:
    """Count the bytes of the keys and values of so many positions."""
    return FLOAT32 * 2 * config.n_layer * config.kv_dim * positions


def forward_flops(config: ModelConfig, positions: int) -> float:
    """Count the floating-point operations of a token that sees so many positions: a third of what training takes."""
    return flops_per_token(replace(config, context_length=positions)) / 3


class Decoder:
    """Reads prompts of random tokens, and times the steps after them."""

    def __init__(self, model: GPT, batch: int, prompt: int) -> None:
        self.engine = Engine(model, batch, speculative=False)  # a step reads one id of each sequence
        self.batch, self.prompt = batch, prompt
        self.random = torch.Generator().manual_seed(0)

    def milliseconds(self) -> float:
        """Give the median time of a step."""
        prompts = torch.randint(
            self.engine.model.config.vocab_size, (self.batch, self.prompt), generator=self.random
        ).tolist()
        sampling = SamplingConfig(max_tokens=STEPS + 1, temperature=1.0, top_k=TOP_K, seed=0)
        for prompt in prompts:
            self.engine.submit(prompt, sampling)
        while self.engine.scheduler.waiting:
            self.engine.step()
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            drawn = self.engine.step()
            seconds.append(time.perf_counter() - start)
            assert len(drawn) == self.batch
        assert self.engine.scheduler.is_idle
        return 1000 * median(seconds)


def decoding(runs: int) -> dict[str, Curve]:
    """Time of a step by position and by batch."""
    bandwidth = median(memory_speed("cpu") for _ in range(3))
    speed = median(matrix_speed("cpu") for _ in range(3))
    show(f"{bandwidth / 1e9:.1f} GB/s of memory, {speed / 1e9:.0f} GFLOP/s of matrix products")
    torch.manual_seed(0)
    model = GPT(MODEL).eval().requires_grad_(False)
    prepack(model)
    weights = weight_bytes(MODEL)
    alone = {size: Decoder(model, 1, size) for size in POSITIONS}
    together = {size: Decoder(model, size, PROMPT) for size in BATCHES}
    for decoder in together.values():
        decoder.milliseconds()  # numbers of rows are tried when they are first met
    by_position = Curve(
        grows="position",
        unit="ms per token",
        theory="bytes of weights and cache",
        sizes=[*POSITIONS],
        measured=[*in_turns(_times(alone), runs, "decoding by position, ms").values()],
        counts=[weights + cache_bytes(MODEL, size + STEPS // 2) for size in POSITIONS],
        through=min(POSITIONS),
    )
    seen = PROMPT + STEPS // 2
    by_batch = Curve(
        grows="sequences",
        unit="ms per step",
        theory=f"the longer of bytes at {bandwidth / 1e9:.1f} GB/s and operations at {speed / 1e9:.0f} GFLOP/s",
        sizes=[*BATCHES],
        measured=[*in_turns(_times(together), runs, "decoding by batch, ms").values()],
        counts=[
            1000
            * max(
                (weights + size * cache_bytes(MODEL, seen)) / bandwidth,
                size * forward_flops(MODEL, seen) / speed,
            )
            for size in BATCHES
        ],
    )
    return {"decoding by position": by_position, "decoding by batch": by_batch}


def _times(decoders: dict[int, Decoder]) -> dict[float, Callable[[], float]]:
    return {size: decoder.milliseconds for size, decoder in decoders.items()}
