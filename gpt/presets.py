"""Presets: each is a function that returns a whole config.

GPT-2's four sizes follow Radford et al. 2019 (table 2); their training settings follow the GPT-3 paper
(Brown et al. 2020, table 2.1) where GPT-2's is silent, as in the usual reproductions.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpt.config import CheckpointConfig, EvaluationConfig, OptimizerConfig, TrainConfig
from gpt.errors import InputError, did_you_mean
from gpt.model.config import ModelConfig

MUON = OptimizerConfig(
    name="muon",
    learning_rate=0.02,
    muon_learning_rate=0.02,
    schedule="wsd",
    decay_ratio=0.6,
    min_lr_ratio=0.0,
    warmup_steps=20,
    weight_decay=0.0,
    beta1=0.8,
    beta2=0.95,
)


def modern(model: ModelConfig, ngram: int = 1, ngram_buckets: int = ModelConfig.ngram_buckets) -> ModelConfig:
    """Give a model the modern recipe; which of its parts paid, and how much, is in benchmarks/LOG.md."""
    return replace(
        model,
        positions="rope",
        normalization="rms",
        qk_norm=True,
        activation="relu-squared",
        bias=False,
        zero_init_residual=True,
        tie_embeddings=False,
        ngram=ngram,
        ngram_buckets=ngram_buckets,
    )


def nano() -> TrainConfig:
    """Make recognizable Python in two minutes on two CPU cores: one block, and embeddings of two and three tokens."""
    return TrainConfig(
        preset="nano",
        steps=750,
        batch_tokens=4096,
        model=modern(
            ModelConfig(n_layer=1, n_head=5, n_embd=160, context_length=128, vocab_size=2048),
            ngram=3,
            ngram_buckets=32768,
        ),
        optimizer=replace(MUON, embedding_lr_scale=3.0),
        evaluation=EvaluationConfig(every=375),
        checkpoint=CheckpointConfig(every=0),
    )


NANO_DEEP = "nano-deep"


def nano_deep() -> TrainConfig:
    """Read a text of 20 KB to 1 MB often, in two minutes at most on two CPU cores: four layers without n-grams.

    What hangs on the text (gpt.suits) stands here as it is for 500 KB.
    """
    small = nano()
    return replace(
        small,
        preset=NANO_DEEP,
        batch_tokens=2048,
        model=modern(ModelConfig(n_layer=4, n_head=4, n_embd=128, context_length=128, vocab_size=512, dropout=0.1)),
        optimizer=replace(small.optimizer, weight_decay=0.2),
    )


def gpt2_mini() -> TrainConfig:
    """Train GPT-2's own shape, 12 layers and 12 heads, narrow enough for nine minutes on two fast CPU cores."""
    return TrainConfig(
        preset="gpt2-mini",
        steps=2000,
        batch_tokens=1024,
        model=ModelConfig(n_embd=192, context_length=256, vocab_size=2048),
        optimizer=replace(MUON, warmup_steps=50),
        evaluation=EvaluationConfig(every=500, tokens=32_768),
        checkpoint=CheckpointConfig(every=0),
    )


def shakespeare_char_cpu() -> TrainConfig:
    """Repeat nanoGPT's documented CPU run: tinyshakespeare by characters, 1.5 million training tokens."""
    return TrainConfig(
        preset="shakespeare-char-cpu",
        steps=1950,
        batch_tokens=768,
        model=ModelConfig(n_layer=4, n_head=4, n_embd=128, context_length=64, vocab_size=65),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=100, beta2=0.99),
        evaluation=EvaluationConfig(every=650),
        checkpoint=CheckpointConfig(every=0),
    )


def shakespeare_char_modern() -> TrainConfig:
    """Reach the loss of nanoGPT's documented CPU run in seconds: one block, and embeddings of 2 to 4 characters."""
    return TrainConfig(
        preset="shakespeare-char-modern",
        steps=75,
        batch_tokens=1536,
        model=modern(
            ModelConfig(n_layer=1, n_head=4, n_embd=128, context_length=64, vocab_size=65), ngram=4, ngram_buckets=3072
        ),
        optimizer=replace(MUON, learning_rate=0.03, warmup_steps=5),
        evaluation=EvaluationConfig(every=0),
        checkpoint=CheckpointConfig(every=0),
    )


FINETUNE = "finetune"


def finetune() -> TrainConfig:
    """Train trained weights (`init_from`) on a text of one's own, as long as validation improves.

    What hangs on the text and the weights (gpt.suits) stands here as it is for GPT-2 and 1 MB.
    """
    return TrainConfig(
        preset=FINETUNE,
        steps=200,
        batch_tokens=8192,
        model=ModelConfig(dropout=0.1),
        optimizer=OptimizerConfig(
            learning_rate=5e-5, schedule="linear", min_lr_ratio=0.0, warmup_steps=6, weight_decay=0.01, beta2=0.99
        ),
        evaluation=EvaluationConfig(every=25, per_epoch=4, at_start=True, min_gain=1.0, train_split=True),
        checkpoint=CheckpointConfig(every=50),
        early_stopping_patience=3,
        cooldown=0.1,
    )


def gpt2() -> TrainConfig:
    """Train GPT-2 small, 124M parameters, on a corpus of billions of tokens."""
    return _pretraining("gpt2", ModelConfig(n_layer=12, n_head=12, n_embd=768), learning_rate=6e-4)


def gpt2_medium() -> TrainConfig:
    """Train GPT-2 medium, 355M parameters."""
    return _pretraining("gpt2-medium", ModelConfig(n_layer=24, n_head=16, n_embd=1024), learning_rate=3e-4)


def gpt2_large() -> TrainConfig:
    """Train GPT-2 large, 774M parameters."""
    return _pretraining("gpt2-large", ModelConfig(n_layer=36, n_head=20, n_embd=1280), learning_rate=2.5e-4)


def gpt2_xl() -> TrainConfig:
    """Train GPT-2 XL, 1,558M parameters."""
    return _pretraining("gpt2-xl", ModelConfig(n_layer=48, n_head=25, n_embd=1600), learning_rate=2e-4)


def _pretraining(name: str, model: ModelConfig, learning_rate: float) -> TrainConfig:
    return TrainConfig(
        preset=name,
        steps=20_000,
        batch_tokens=512 * 1024,
        model=model,
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=700),
        evaluation=EvaluationConfig(every=250),
        checkpoint=CheckpointConfig(every=1000),
    )


def gpt2_modern() -> TrainConfig:
    """Train GPT-2 small's shape with the modern recipe."""
    return replace(
        _pretraining("gpt2-modern", modern(ModelConfig()), learning_rate=6e-4),
        steps=6000,
        optimizer=replace(MUON, learning_rate=3e-3, warmup_steps=100, beta1=0.9),
    )


SMALL_CORPUS = "gpt2-small-corpus"


def gpt2_small_corpus() -> TrainConfig:
    """Train gpt2-modern's shape on 10 to 100 MB, read ten times, with weight decay against learning them by heart.

    The decay stands here as it is for 15 million tokens; training sets it by the sizes of text and model (gpt.suits).
    """
    large = gpt2_modern()
    return replace(
        large,
        preset=SMALL_CORPUS,
        steps=4000,
        batch_tokens=64 * 1024,
        model=replace(large.model, dropout=0.1),
        optimizer=replace(large.optimizer, weight_decay=0.4),
        evaluation=EvaluationConfig(every=100),
        checkpoint=CheckpointConfig(every=200),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "nano": nano,
    NANO_DEEP: nano_deep,
    "gpt2-mini": gpt2_mini,
    "shakespeare-char-cpu": shakespeare_char_cpu,
    "shakespeare-char-modern": shakespeare_char_modern,
    FINETUNE: finetune,
    SMALL_CORPUS: gpt2_small_corpus,
    "gpt2-modern": gpt2_modern,
    "gpt2": gpt2,
    "gpt2-medium": gpt2_medium,
    "gpt2-large": gpt2_large,
    "gpt2-xl": gpt2_xl,
}


def preset(name: str) -> TrainConfig:
    """Return the config of that name. Raises InputError for an unknown one, with a suggestion."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; {_meant(name)}")
    return PRESETS[name]()


def _meant(name: str) -> str:
    """Suggest a preset, or by which settings a path is given."""
    if Path(name).is_dir():
        return f"it is a directory: `data` {name} names a dataset, `init_from` {name} a model, `run_dir` {name} a run"
    if Path(name).exists():
        return f"it is a file: `config` {name} names settings, and text becomes a dataset by gpt prepare files"
    return did_you_mean(name, PRESETS)
