"""What suits a text and a machine where nobody has chosen: a preset, how often the text is read, which rate."""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

from gpt.config import TrainConfig
from gpt.model.config import ModelConfig
from gpt.presets import finetune, gpt2_on_a_small_corpus, nano


@dataclass(frozen=True)
class Suit:
    """What suits training texts of up to so many tokens: how often each is read, and what it is read with."""

    tokens: float
    epochs: float
    batch_tokens: int
    dropout: float = 0.0
    context_length: int | None = None
    learning_rate: float | None = None
    ngram: int = 3
    ngram_buckets: int = 32768
    ngram_epochs: float = 1
    """Of models with n-grams, which teach a small model most; the second time it knows them by heart."""
    lora_epochs: float = 0
    """In which adapters forget less."""

    def most_epochs(self, model: ModelConfig) -> float:
        """Tell how often a model should read the text."""
        return min(self.ngram_epochs, self.epochs) if model.ngram > 1 else self.epochs


# The small model (nano's block), by the size of the text; epochs are those of a model without n-grams. Measured over
# several texts and seeds: benchmarks/LOG.md.
SMALL = (
    Suit(tokens=20_000, epochs=5, batch_tokens=256, context_length=64, learning_rate=0.01),
    Suit(tokens=100_000, epochs=6, batch_tokens=1024, learning_rate=0.01),
    Suit(tokens=400_000, epochs=3, batch_tokens=2048),
    Suit(tokens=1_500_000, epochs=2, batch_tokens=2048),
    Suit(tokens=math.inf, epochs=2, batch_tokens=4096),
)
# Trained weights know most of it already: from 100 KB to 10 MB, four epochs to two; with n-grams, always two.
TRAINED = (
    Suit(tokens=50_000, epochs=4, batch_tokens=2048, dropout=0.1, ngram=1, ngram_epochs=2, lora_epochs=6),
    Suit(tokens=500_000, epochs=3, batch_tokens=8192, dropout=0.1, ngram=1, ngram_epochs=2, lora_epochs=4),
    Suit(tokens=math.inf, epochs=2, batch_tokens=8192, dropout=0.1, ngram=1, ngram_epochs=2, lora_epochs=3),
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
LARGE = Suit(tokens=math.inf, epochs=10, batch_tokens=64 * 1024, dropout=0.2, ngram=1)  # gpt2's shape, on CUDA
LARGE_FROM = 1_000_000  # tokens; fewer are learned by heart by 89 million parameters within minutes


def suit_for(device: str, init_from: str, tokens: int) -> Suit:
    """Find what suits a text of so many training tokens."""
    if init_from == "scratch" and device == "cuda" and tokens >= LARGE_FROM:
        return LARGE
    rows = SMALL if init_from == "scratch" else TRAINED
    return next(suit for suit in rows if tokens <= suit.tokens)


def rate_for(parameters: int, lora: bool, steps: int) -> float:
    """Choose the peak rate for trained weights: by a straight line between those of the table, in logarithms."""
    size, sizes = math.log(parameters), [math.log(row[0]) for row in RATES]
    rates = [math.log(row[2 if lora else 1]) for row in RATES]
    above = min(max(1, bisect_left(sizes, size)), len(sizes) - 1)  # beyond the table, its first or last line goes on
    share = (size - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    rate = math.exp(rates[above - 1] + share * (rates[above] - rates[above - 1]))
    return float(f"{rate * (LORA_HURRY if lora and steps < FEW_STEPS else 1):.2g}")


def preset_for(device: str, init_from: str, tokens: int | None = None) -> tuple[TrainConfig, str]:
    """Choose the config for a run whose user named none, and give the reason in words.

    Once the number of training tokens is known, the shape and the dropout are those that suit it.
    """
    if init_from != "scratch":
        config, reason = finetune(), "weights are given by `init_from`"
    elif device == "cuda" and (tokens is None or tokens >= LARGE_FROM):
        config, reason = gpt2_on_a_small_corpus(), "a CUDA device"
    elif device == "cuda":
        config, reason = nano(), "a text so small that a large model would learn it by heart"
    else:
        where = "the CPU" if device == "cpu" else device
        config, reason = nano(), f"no CUDA device, so a model that trains in minutes on {where}"
    if tokens is None:
        return config, reason
    suit = suit_for(device, init_from, tokens)
    model, optimizer = replace(config.model, dropout=suit.dropout), config.optimizer
    if init_from == "scratch":
        context_length = suit.context_length or model.context_length
        model = replace(model, context_length=context_length, ngram=suit.ngram, ngram_buckets=suit.ngram_buckets)
    if suit.learning_rate is not None:
        rate = suit.learning_rate  # of all: nano's faster embeddings lose 2 % in so few steps (benchmarks/LOG.md)
        optimizer = replace(optimizer, learning_rate=rate, muon_learning_rate=rate, embedding_lr_scale=1.0)
    return replace(config, model=model, optimizer=optimizer, batch_tokens=suit.batch_tokens), reason
