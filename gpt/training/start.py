"""What training begins with: a model that fits the dataset, its weights, and the tokenizer that they were made for."""

import dataclasses
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gpt.config import TrainConfig
from gpt.dataset.dataset import Dataset
from gpt.dataset.loader import Loader
from gpt.dataset.order import Stream
from gpt.dataset.packing import Packed
from gpt.errors import InputError
from gpt.log import log
from gpt.model.transformer import GPT
from gpt.presets import PRESETS
from gpt.runs.integrity import weights_sha256
from gpt.runs.load import fitted, load_tokenizer, read_base
from gpt.text.added import extends
from gpt.training.guard import first_not_finite


def new_model(config: TrainConfig, device: str) -> GPT:
    """Make a model with the random weights of the config's seed; with adapters where those are trained."""
    torch.default_generator.manual_seed(config.seed)  # all is drawn on the CPU; see `reseed`
    return (_with_adapters(config) if config.lora.rank else GPT(config.model)).to(device)


def _with_adapters(config: TrainConfig) -> GPT:
    """Make a model whose weights are frozen, still random, with adapters that change nothing yet."""
    from gpt.model.lora import add_adapter, new_adapter

    model = GPT(config.model)
    base_dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.lora.base_dtype]
    add_adapter(model, new_adapter(model, config.lora), config.lora.dropout, base_dtype)
    return model


def training_loader(config: TrainConfig, dataset: Dataset) -> Loader:
    """Make what reads the batches of the config. Raises InputError if the dataset's documents cannot be told apart."""
    require_end_of_text(config, dataset)
    end_of_text = dataset.tokenizer.end_of_text
    samples = Stream if config.windows == "stream" else partial(Packed, end_of_text=end_of_text)
    mask = end_of_text if config.document_mask else None
    return dataset.loader(config.batch_sequences, config.model.context_length, config.seed, samples, mask)


def require_end_of_text(config: TrainConfig, dataset: Dataset) -> None:
    """Raise InputError if the config needs to know where documents end, and the dataset's tokenizer has no such id."""
    asked = "`document_mask`" if config.document_mask else "`windows` packed" if config.windows == "packed" else ""
    if asked and dataset.tokenizer.end_of_text is None:
        raise InputError(
            f"{dataset.path}: its tokenizer ({dataset.tokenizer.kind}) has no end-of-text, so that documents cannot be "
            f"told apart for {asked}: leave that out, or prepare the data with another tokenizer"
        )


def initial_weights(config: TrainConfig, run: Path | None = None) -> tuple[dict[str, Tensor], str]:
    """Load the weights of `init_from`, their context and vocabulary fitted to the model's, and give their SHA-256.

    `run`: whose adapters were trained on them so far. Raises InputError if they are not finite, not those of
    `init_sha256`, or weights and adapters that new adapters cannot be put on.
    """
    source = read_base(config, run)
    if source.is_adapter and config.lora.rank:
        raise InputError(
            f"`init_from` {config.init_from}: holds adapters itself: fold them into its weights by gpt merge, and "
            "train new ones on what that writes"
        )
    sick = first_not_finite(source.weights)
    if sick is not None:
        raise InputError(
            f"`init_from` {config.init_from}: {sick} has numbers that are not finite; begin with other weights, "
            "such as those of an earlier checkpoint"
        )
    digest = weights_sha256(source.weights)
    log.info(f"weights: {source.name}, SHA-256 {digest}")
    _require_learnable(config)
    return fitted(source, config.model), digest


def _require_learnable(config: TrainConfig) -> None:
    """Raise InputError for special tokens that are new, where adapters alone are trained: their rows would stay."""
    try:
        added = config.model.vocab_size - load_tokenizer(config.init_from).vocab_size if config.lora.rank else 0
    except InputError:  # said where tokenizers are compared
        return
    if added > 0:
        raise InputError(
            f"`lora.rank` {config.lora.rank}: the data has {added} special tokens that {config.init_from} lacks, whose "
            "rows would stay as they begin, as adapters alone are trained: train all weights (leave `lora.rank` out), "
            "or prepare the data with `template` plain"
        )


def require_tokenizer(config: TrainConfig, dataset: Dataset, resumes: bool, allow_other: bool = False) -> None:
    """Raise InputError unless the data has the tokenizer of the run, or of the weights, that it is to continue."""
    source = config.run_dir if resumes else config.init_from
    if source == "scratch":
        return
    assert source is not None
    try:
        wanted = load_tokenizer(source)
    except InputError as error:
        if resumes:
            raise
        log.warning(
            f"the tokenizer of `init_from` cannot be compared with that of {dataset.path}, only its size ({error})"
        )
        return
    have = dataset.tokenizer
    if not allow_other and not (wanted.fingerprint == have.fingerprint if resumes else extends(have, wanted)):
        advice = ", or go on with `allow_other_data`" if resumes else ""
        raise InputError(
            f"{dataset.path}: is written with another tokenizer ({have.kind}, {have.vocab_size:,} ids) than {source} "
            f"({wanted.kind}, {wanted.vocab_size:,} ids): prepare the data with that one (`tokenizer` {source}){advice}"
        )


def fit_to_dataset(config: TrainConfig, dataset: Dataset, resumes: bool = False) -> TrainConfig:
    """Give the config with the vocabulary of the dataset, unless a run is resumed, which has one.

    Raises InputError if the two cannot go together.
    """
    dataset.require_window(config.model.context_length)
    require_end_of_text(config, dataset)
    vocab_size = dataset.tokenizer.vocab_size
    if config.model.vocab_size == vocab_size:
        return config
    fixed = resumes or config.init_from != "scratch"
    if not resumes and fixed and _is_of_dataset(config, dataset):
        if vocab_size < config.model.vocab_size:
            log.info(f"vocabulary: {vocab_size:,} ids; those that pad it to {config.model.vocab_size:,} are left out")
        return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))
    unset = config.preset in PRESETS and config.model.vocab_size == PRESETS[config.preset]().model.vocab_size
    if fixed or not unset:
        source = config.run_dir if resumes else config.init_from
        remedy = f"prepare the data with that one: gpt prepare … `tokenizer` {source}" if fixed else "leave it out"
        raise InputError(
            f"`model.vocab_size` is {config.model.vocab_size:,}{f', that of {source}' if fixed else ''}; the tokenizer "
            f"of {dataset.path} has {vocab_size:,} ids: {remedy}"
        )
    log.info(f"vocabulary: {vocab_size:,} ids, those of {dataset.path}")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


def _is_of_dataset(config: TrainConfig, dataset: Dataset) -> bool:
    """Tell whether the tokenizer of `init_from` is the dataset's, which may have more special tokens."""
    try:
        return extends(dataset.tokenizer, load_tokenizer(config.init_from))
    except InputError:
        return False
