"""What training begins with: a model that fits the dataset, its weights, and the tokenizer that they were made for."""

import dataclasses
from functools import partial

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
from gpt.runs.load import load_run, load_tokenizer
from gpt.training.guard import first_not_finite


def new_model(config: TrainConfig, device: str) -> GPT:
    """Make a model with the random weights of the config's seed."""
    torch.manual_seed(config.seed)
    return GPT(config.model).to(device)


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


def initial_weights(config: TrainConfig) -> tuple[dict[str, Tensor], str]:
    """Load the weights of `init_from`, their context and vocabulary cropped to the model's, and give their SHA-256.

    Raises InputError if they are not finite, or not those of `init_sha256`.
    """
    source = load_run(config.init_from)
    weights = source.model.state_dict()
    digest = weights_sha256(weights)
    if config.init_sha256 not in (None, digest):
        raise InputError(
            f"`init_from` {config.init_from}: its weights have the SHA-256 {digest}, and `init_sha256` is "
            f"{config.init_sha256}: they have changed since; restore them, or begin a new run without `init_sha256`"
        )
    rows = {"position_embedding.weight": config.model.context_length}
    rows |= dict.fromkeys(("token_embedding.weight", "lm_head.weight"), config.model.vocab_size)  # no padding
    for name in rows.keys() & weights.keys():
        weights[name] = weights[name][: rows[name]]
    sick = first_not_finite(weights)
    if sick is not None:
        raise InputError(
            f"`init_from` {config.init_from}: {sick} has numbers that are not finite; begin with other weights, "
            "such as those of an earlier checkpoint"
        )
    log.info(f"weights: {source.source}, SHA-256 {digest}")
    return weights, digest


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
    if wanted.fingerprint != have.fingerprint and not allow_other:
        advice = ", or go on with `allow_other_data`" if resumes else ""
        raise InputError(
            f"{dataset.path}: is written with another tokenizer ({have.kind}, {have.vocab_size:,} ids) than {source} "
            f"({wanted.kind}, {wanted.vocab_size:,} ids): prepare the data with that one (`tokenizer`){advice}"
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
    if not resumes and fixed and vocab_size < config.model.vocab_size and _is_padded(config, dataset):
        log.info(f"vocabulary: {vocab_size:,} ids; those that pad it to {config.model.vocab_size:,} are left out")
        return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))
    unset = config.preset in PRESETS and config.model.vocab_size == PRESETS[config.preset]().model.vocab_size
    if fixed or not unset:
        raise InputError(
            f"model.vocab_size is {config.model.vocab_size:,}; the tokenizer of {dataset.path} has {vocab_size:,} ids: "
            "prepare the data with the model's tokenizer (`tokenizer` gpt2, or `tokenizer` RUN for a run of yours), "
            "or leave `model.vocab_size` out"
        )
    log.info(f"vocabulary: {vocab_size:,} ids, those of {dataset.path}")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))


def _is_padded(config: TrainConfig, dataset: Dataset) -> bool:
    """Tell whether the weights of `init_from` have more ids than their own tokenizer, which is also the dataset's."""
    try:
        return load_tokenizer(config.init_from).fingerprint == dataset.tokenizer.fingerprint
    except InputError:
        return False
