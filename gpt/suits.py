"""What suits a text and a machine where nobody has chosen: a preset, how often the text is read, which rate."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Any

from gpt.analysis.cost import weight_count
from gpt.config import TrainConfig
from gpt.model.config import ModelConfig
from gpt.presets import NANO_DEEP, SMALL_CORPUS, finetune, gpt2_small_corpus, nano, nano_deep

Changes = dict[str, Any]


@dataclass(frozen=True)
class Suit:
    """What suits training texts of up to so many tokens: how often each is read, and what it is read with."""

    tokens: float
    epochs: float
    batch_tokens: int
    model: Changes = field(default_factory=dict)
    """What of the preset's model is changed for it."""
    optimizer: Changes = field(default_factory=dict)
    """What of the preset's optimizer is changed for it."""
    ngram_epochs: float = 1
    """Of models with n-grams, which teach a small model most; the second time it knows them by heart."""
    lora_epochs: float = 0
    """In which adapters forget less."""

    def most_epochs(self, model: ModelConfig) -> float:
        """Tell how often a model should read the text."""
        return min(self.ngram_epochs, self.epochs) if model.ngram > 1 else self.epochs


def one_rate(rate: float) -> Changes:
    """Give all weights the same rate: nano's faster embeddings lose 2 % in so few steps (benchmarks/LOG.md)."""
    return {"learning_rate": rate, "muon_learning_rate": rate, "embedding_lr_scale": 1.0}


# nano's block, by the size of the text; epochs are those of a model without n-grams. Measured over several texts and
# seeds: benchmarks/LOG.md.
SMALL = (
    Suit(tokens=20_000, epochs=5, batch_tokens=256, model={"context_length": 64}, optimizer=one_rate(0.01)),
    Suit(tokens=100_000, epochs=6, batch_tokens=1024, optimizer=one_rate(0.01)),
    Suit(tokens=400_000, epochs=3, batch_tokens=2048),
    Suit(tokens=1_500_000, epochs=2, batch_tokens=2048),
    Suit(tokens=math.inf, epochs=2, batch_tokens=4096),
)
# nano-deep, which reads texts of OFTEN_FROM to OFTEN_TO tokens where nobody names a preset.
DEEP = (
    Suit(tokens=100_000, epochs=12, batch_tokens=1024, optimizer={**one_rate(0.01), "weight_decay": 0.4}),
    Suit(tokens=math.inf, epochs=8, batch_tokens=2048),
)
OFTEN_FROM, OFTEN_TO = 20_000, 400_000
OFTEN = 2.5  # epochs: with fewer, n-grams teach more than layers, and dropout costs more than it saves
# gpt2-small-corpus. On CUDA, where nobody names a preset, it gets texts of so many tokens, in so many steps at most.
LARGE_FROM, LARGE_STEPS = 1_000_000, 600
LARGE = (
    Suit(tokens=16_000_000, epochs=10, batch_tokens=64 * 1024),
    Suit(tokens=math.inf, epochs=10, batch_tokens=64 * 1024, model={"dropout": 0.0}),  # not OFTEN, in so few steps
)
BY_PRESET = {NANO_DEEP: DEEP, SMALL_CORPUS: LARGE}
# Trained weights know most of it already: from 100 KB to 10 MB, four epochs to two; with n-grams, always two.
TRAINED = (
    Suit(tokens=50_000, epochs=4, batch_tokens=2048, model={"dropout": 0.1}, ngram_epochs=2, lora_epochs=6),
    Suit(tokens=500_000, epochs=3, batch_tokens=8192, model={"dropout": 0.1}, ngram_epochs=2, lora_epochs=4),
    Suit(tokens=math.inf, epochs=2, batch_tokens=8192, model={"dropout": 0.1}, ngram_epochs=2, lora_epochs=3),
)
# The peak rate by the number of trained weights: (parameters, for all of them, for adapters alone). GPT-2's are those
# that others use; that of small weights, all of them trained, is ours (benchmarks/LOG.md).
RATES = (
    (560e3, 2.5e-3, 7e-3),
    (124e6, 5e-5, 5e-4),
    (355e6, 3e-5, 3e-4),
    (774e6, 2e-5, 2e-4),
    (1558e6, 1.5e-5, 1.5e-4),
)
LORA_HURRY, FEW_STEPS = 1.5, 100  # times the rate, of adapters that are trained for fewer steps
# Weights of gpt2-small-corpus forget, by their decay, what they have learned within so many √(tokens / parameters)
# epochs (Wang and Aitchison 2024 count it in epochs). Measured for 1 to 36 parameters a token: benchmarks/LOG.md.
MEMORY, LEAST_MEMORY = 2.0, 20  # such epochs; steps


def suit_for(init_from: str, tokens: int, preset: str = "") -> Suit:
    """Find what suits a text of so many training tokens: for some presets, by rows of their own."""
    rows = BY_PRESET.get(preset, SMALL) if init_from == "scratch" else TRAINED
    return next(suit for suit in rows if tokens <= suit.tokens)


def rate_for(parameters: int, lora: bool, steps: int) -> float:
    """Choose the peak rate for trained weights: by a straight line between those of the table, in logarithms."""
    size, sizes = math.log(parameters), [math.log(row[0]) for row in RATES]
    rates = [math.log(row[2 if lora else 1]) for row in RATES]
    above = min(max(1, bisect_left(sizes, size)), len(sizes) - 1)  # beyond the table, its first or last line goes on
    share = (size - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    rate = math.exp(rates[above - 1] + share * (rates[above] - rates[above - 1]))
    return float(f"{rate * (LORA_HURRY if lora and steps < FEW_STEPS else 1):.2g}")


def weight_decay(config: TrainConfig, tokens: float) -> float:
    """Choose a weight decay for a text of so many tokens that is read again and again (MEMORY says by what rule)."""
    optimizer = config.optimizer
    rate = optimizer.muon_learning_rate if optimizer.name == "muon" else optimizer.learning_rate
    memory = MEMORY * math.sqrt(tokens / weight_count(config.model)) * tokens / config.batch_tokens  # in steps
    return float(f"{1 / (rate * max(memory, LEAST_MEMORY)):.2g}")


def preset_for(device: str, init_from: str, tokens: int | None = None, often: bool = False) -> tuple[TrainConfig, str]:
    """Choose the config for a run whose user named none, and give the reason in words.

    Once the number of training tokens is known, shape, rates and batch are those that suit it. `often` allows a preset
    that reads a small text many times.
    """
    if init_from != "scratch":
        config, reason = finetune(), "weights are given by `init_from`"
    elif device == "cuda" and (tokens is None or tokens >= LARGE_FROM):
        config, reason = replace(gpt2_small_corpus(), steps=LARGE_STEPS), "a CUDA device"
    elif often and tokens is not None and OFTEN_FROM < tokens <= OFTEN_TO:
        config, reason = nano_deep(), "a text so small that it is read often"
    elif device == "cuda":
        config, reason = nano(), "a text so small that a large model would learn it by heart"
    else:
        where = "the CPU" if device == "cpu" else device
        config, reason = nano(), f"no CUDA device, so a model that trains in minutes on {where}"
    if tokens is None:
        return config, reason
    suit = suit_for(init_from, tokens, config.preset)
    model, optimizer = replace(config.model, **suit.model), replace(config.optimizer, **suit.optimizer)
    return replace(config, model=model, optimizer=optimizer, batch_tokens=suit.batch_tokens), reason
