"""The weights that training begins with."""

import torch

from gpt.config import Config
from gpt.errors import InputError
from gpt.model.transformer import GPT
from gpt.run import TOKENIZER, load_run
from gpt.tokens.shards import Dataset
from gpt.tokens.tokenizer import Tokenizer


def initial_model(config: Config, device: str) -> GPT:
    """A new model from the seed, or the weights of --init, their context cropped if the config's is smaller."""
    torch.manual_seed(config.seed)
    model = GPT(config.model)
    if config.init != "scratch":
        source = load_run(config.init)
        weights = source.model.state_dict()
        weights["position_embedding.weight"] = weights["position_embedding.weight"][: config.model.context]
        model.load_state_dict(weights)
        print(f"weights: {source.source}")
    return model.to(device)


def require_tokenizer(config: Config, dataset: Dataset, resume: bool) -> None:
    """Raises InputError unless the data has the tokenizer of the run, or of the weights, that it is to continue."""
    if resume:
        assert config.run is not None
        name, wanted = str(config.run), Tokenizer.load(config.run / TOKENIZER)
    elif config.init != "scratch":
        name, wanted = config.init, load_run(config.init).tokenizer
    else:
        return
    have = dataset.tokenizer
    if wanted.fingerprint != have.fingerprint:
        raise InputError(
            f"{dataset.path}: is written with another tokenizer ({have.kind}, {have.vocab_size:,} ids) than {name} "
            f"({wanted.kind}, {wanted.vocab_size:,} ids): prepare the data with that one"
        )
