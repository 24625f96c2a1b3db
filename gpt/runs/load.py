"""A trained model, ready to use: from a run, or from Hugging Face's files."""

import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gpt.choices import WeightDtype
from gpt.config import TrainConfig
from gpt.device import Target
from gpt.errors import InputError
from gpt.interop import huggingface, huggingface_tokenizer
from gpt.log import log
from gpt.model.config import ModelConfig
from gpt.model.lora import Adapter, add_adapter, merge
from gpt.model.prepack import can_prepack, keeps_bits, prepack
from gpt.model.transformer import GPT, empty_model
from gpt.runs import checkpoint as checkpoints
from gpt.runs.directory import TOKENIZER, by_name, is_run, nearest_run, newest_run, read_config
from gpt.runs.integrity import CorruptCheckpoint, Gone, Tensors, weights_sha256
from gpt.text.chat_template import ChatTemplate
from gpt.text.templates import template_at
from gpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, ready to use, and where it came from."""

    model: GPT
    source: str
    """In words: the run and step, or the Hugging Face directory."""
    path: Path
    """The run or Hugging Face directory."""
    state: dict[str, Any]
    """The checkpoint's state.json; empty for a Hugging Face model."""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Load it when it is first asked for. Raises InputError if there is none."""
        return load_tokenizer(self.path)

    @cached_property
    def template(self) -> ChatTemplate | None:
        """Load the chat template when it is first asked for; None where it was not trained on conversations."""
        return template_at(self.path)

    @property
    def answer_ends(self) -> tuple[str, ...]:
        """Name the special tokens that end an answer, which are the only added ones that are to be drawn."""
        return self.template.ends if self.tokenizer.added and self.template else ()


@dataclass(frozen=True)
class StoredModel:
    """What lies on disk of a model, read and not yet built."""

    config: ModelConfig
    weights: Tensors
    """Of a run that trained adapters, these alone."""
    state: dict[str, Any]
    path: Path
    name: str
    run: TrainConfig | None = None
    """The settings that it was trained with; None for a Hugging Face model."""

    @property
    def is_adapter(self) -> bool:
        """Tell whether its weights are adapters, which need a base."""
        return self.run is not None and self.run.lora.rank > 0


def load_run(
    source: str | Path | None = None,
    device: str = "cpu",
    dtype: WeightDtype = "float32",
    prepacked: bool = False,
    checkpoint: str | int = "best",
) -> LoadedRun:
    """Load a run's checkpoint, or a Hugging Face GPT-2 (directory or hub id), in evaluation mode.

    Without a source it is the newest run under runs/, and a bare name means one there. `checkpoint` is best (by
    validation loss), last, or a step. A run that trained adapters is loaded with them on its base, which is frozen.
    `prepacked` makes it fast: adapters are merged, and on a CPU a model in float32 can then only be evaluated and
    generate, as in float16 and int8 always; a warning says where a sample then depends on those beside it. Raises
    InputError for what is not there, cannot be used there, or has another base than it was trained on; damaged
    checkpoints are passed over.
    """
    target = Target.of(device, dtype, prepacked)
    stored = read_source(newest_run(with_checkpoint=True) if source is None else source, str(checkpoint))
    return ready(_adapted(stored, target.merged) if stored.is_adapter else build(stored), stored, target)


def ready(model: GPT, stored: StoredModel, target: Target) -> LoadedRun:
    """Move a model, of what was read, to where it is to compute, in evaluation mode."""
    device, kind, prepacked = target
    if not target.rounded:
        model.to(device, kind)
    if target.rounded or (prepacked and can_prepack(model)):
        prepack(model, kind)
    if prepacked and device == "cpu" and kind != torch.bfloat16 and not keeps_bits(model):
        log.warning(
            f"{stored.name}: on this processor, the last bits of a sample can depend on what is sampled beside it"
        )
    if prepacked:
        model.requires_grad_(False)
    return LoadedRun(model.eval(), stored.name, stored.path, stored.state)


def read_source(source: str | Path, checkpoint: str = "best") -> StoredModel:
    """Read what `load_run` builds a model of."""
    path = by_name(source)
    if is_run(path):
        chosen, run = _choose(path, checkpoint), read_config(path)
        return StoredModel(run.model, chosen.model, chosen.state, path, f"{path}, step {chosen.state['step']:,}", run)
    path = _find(source)
    if checkpoint != "best":
        raise InputError(f"`checkpoint` {checkpoint}: {source} is a Hugging Face model, which has none to choose")
    config = huggingface.read_config(path)
    return StoredModel(config, huggingface.read_weights(path, config), {}, path, huggingface.pinned(str(source), path))


def build(stored: StoredModel) -> GPT:
    """Build a model of what was read. Raises InputError if its parts do not fit each other."""
    config, weights = stored.config, stored.weights
    try:
        if config.n_layer > len(weights):  # a file can ask for more modules than memory holds
            raise RuntimeError(f"{config.n_layer} layers, and {len(weights)} weights")
        model = empty_model(config)
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"{stored.name}: its weights do not fit its config.json: {error}") from None
    return model


# ---- adapters, and what they are put on ----


def _adapted(stored: StoredModel, merged: bool) -> GPT:
    assert stored.run
    return put_on(read_base(stored.run, stored.path), stored, merged)


def put_on(base: StoredModel, adapter: StoredModel, merged: bool) -> GPT:
    """Build the model of a run that trained adapters, on its base; with them folded into its weights if `merged`."""
    assert adapter.run
    whole = replace(base, config=adapter.config, weights=fitted(base, adapter.config))
    try:
        return put_adapter_on(whole, Adapter.of(adapter.weights, adapter.run.lora.scale), merged)
    except InputError as error:
        raise InputError(f"{adapter.name}: its adapters do not fit its base, {base.name}: {error}") from None


def put_adapter_on(base: StoredModel, adapter: Adapter, merged: bool) -> GPT:
    """Build a model with an adapter on it. Raises InputError if they do not fit each other."""
    model = build(base)
    add_adapter(model, adapter)
    if merged:
        merge(model)
    return model


def read_base(config: TrainConfig, run: Path | None = None) -> StoredModel:
    """Read the weights of `init_from`, whole, with adapters of their own merged: those of `init_sha256` if it is given.

    `run`: whose adapters were trained on them. Raises InputError if they cannot be had, or are others now.
    """
    source, wanted = config.init_from, config.init_sha256
    if run is not None and wanted is None:
        raise InputError(f"{run}: its config.json does not say by `init_sha256` for which weights its adapters are")
    try:
        base = as_whole(read_source(source))
    except InputError as error:
        if run is None:
            raise
        raise InputError(
            f"{run}: holds adapters alone, and what they were trained on, {source} with the SHA-256 {wanted}, cannot "
            f"be had ({error}): put it back, write where it is now into init_from of its config.json, or sample with "
            f"`run` BASE `adapter` {run}"
        ) from None
    found = [weights_sha256(base.weights)] if wanted is not None else []
    homes = [base.path, *base.path.glob("until-step-*")] if base.run is not None and found != [wanted] else []
    earlier = [(home, str(checkpoints.step_of(path))) for home in homes for path in checkpoints.list_checkpoints(home)]
    while found and found[-1] != wanted and earlier:  # the best checkpoint may be another one by now, or set aside
        base = as_whole(read_source(*earlier.pop()))
        found.append(weights_sha256(base.weights))
    if found and found[-1] != wanted:
        raise InputError(
            f"{run or '`init_sha256`'}: is for the weights of {read_config(run).init_from if run else source} with the "
            f"SHA-256 {wanted}, and {base.path} has others now, with {found[0]}: restore them, or train anew"
        )
    return base


def as_whole(stored: StoredModel) -> StoredModel:
    """Merge adapters into their base; give what holds whole weights as it is."""
    return replace(stored, weights=_adapted(stored, merged=True).state_dict()) if stored.is_adapter else stored


def fitted(base: StoredModel, config: ModelConfig) -> Tensors:
    """Give weights the context and vocabulary of a model: what only pads the vocabulary goes.

    Special tokens that are new get the mean of the others: a row by chance could win every draw before it has learned.
    """
    names = (f"{name}.weight" for name in ("token_embedding", "value_embedding.table", "lm_head"))
    vocabularies = [name for name in names if name in base.weights]
    rows = {"position_embedding.weight": config.context_length} | dict.fromkeys(vocabularies, config.vocab_size)
    weights = {name: tensor[: rows[name]] if name in rows else tensor for name, tensor in base.weights.items()}
    known = config.vocab_size
    with contextlib.suppress(InputError):  # of no tokenizer, which is said where tokenizers are compared
        known = load_tokenizer(base.path).vocab_size
    if (added := config.vocab_size - known) > 0:
        for name in vocabularies:
            old = base.weights[name][:known]
            weights[name] = torch.cat([old, old.float().mean(0, keepdim=True).to(old.dtype).expand(added, -1)])
        log.info(f"vocabulary: {added:,} special tokens are added, which begin with the mean of the others")
    return weights


def _choose(run: Path, wanted: str) -> checkpoints.Checkpoint:
    """Load the checkpoint of a run that is the best, the last, or a step's. Raises InputError if there is none."""
    if wanted == "best":
        return checkpoints.load_best(run)
    while wanted == "last":
        with contextlib.suppress(Gone):  # a training beside this removed one: search again
            for path in reversed(checkpoints.list_checkpoints(run)):
                try:
                    return checkpoints.load(path, optimizer=False)
                except CorruptCheckpoint as error:
                    log.warning(f"damaged checkpoint: {error}; passed over")
            raise InputError(f"{run}: holds no usable checkpoint; train first, or name another run with `run`")
    steps = {str(checkpoints.step_of(path)): path for path in checkpoints.list_checkpoints(run)}
    if wanted not in steps:
        raise InputError(f"`checkpoint` {wanted}: {run} has best, last and the steps {', '.join(steps) or '(none)'}")
    return checkpoints.load(steps[wanted], optimizer=False)


def model_config(source: str | Path) -> ModelConfig:
    """Read the shape of the model that `load_run` would load, without its weights."""
    path = by_name(source)
    return read_config(path).model if is_run(path) else huggingface.read_config(_find(source))


def pinned(source: str, absolute: bool = False) -> str:
    """Name a run, or a Hugging Face model, so that it stays the same: with its commit if it is on the hub.

    `absolute`: a directory by its whole path, for who comes from elsewhere.
    """
    path = by_name(source)
    if path.is_dir():
        return str(path.absolute() if absolute else path)
    return huggingface.pinned(source, _find(source))


def _find(source: str | Path) -> Path:
    """Find a Hugging Face model's directory. Raises InputError, with the run that may be meant, or what there is."""
    require_model(Path(source))
    name = Path(str(source).partition("@")[0])
    try:
        return huggingface.find(str(source))
    except InputError as error:
        if name.parent == Path() and not name.exists() and (near := nearest_run(name)):
            raise InputError(f"{error}; did you mean {near}?") from error
        raise


def require_model(path: Path) -> None:
    """Raise InputError, which says what it is, for a path that is there and is no run, and no model's directory."""
    if not path.exists() or is_run(path) or (path / "config.json").exists():
        return
    run = next((parent for parent in path.parents if is_run(parent)), None)
    if run and checkpoints.NAME.fullmatch(path.name):
        step = checkpoints.step_of(path)
        is_what = f"is a checkpoint of the run {run}: name that run; `checkpoint` {step} chooses it, where one can"
    elif run:
        is_what = f"is part of the run {run}: name that run"
    elif path.is_file():
        model = huggingface.is_model(path.parent)
        is_what = f"is a file of a Hugging Face model: name {path.parent}" if model else "is a file, and no directory"
    elif (path / "manifest.json").exists():
        is_what = "is a dataset: name a run that was trained on it, or a Hugging Face model"
    else:
        is_what = "is a directory without a config.json: neither a run nor a Hugging Face model"
    raise InputError(f"{path}: {is_what}")


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load the tokenizer of a run or of a Hugging Face model. Raises InputError if there is none."""
    path = by_name(source)
    if is_run(path):
        return Tokenizer.load(path / TOKENIZER)
    path = _find(source)
    return huggingface_tokenizer.read_tokenizer(path, huggingface.read_config(path).vocab_size)
