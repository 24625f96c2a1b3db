"""What an export says of itself, gathered from the run: its card, what came of the proof, and how it is uploaded."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpt
from gpt.analysis.cost import adapter_count, parameter_count
from gpt.commands.export_data import data_of
from gpt.commands.export_proof import NotProved, Proof
from gpt.config import TrainConfig
from gpt.errors import InputError
from gpt.evaluation.loss import Evaluation
from gpt.evaluation.words import format_evaluation
from gpt.interop.card import UNKNOWN, Card, Result, Rows, plain
from gpt.interop.classes import class_of
from gpt.model.config import ModelConfig
from gpt.runs.checkpoint import list_checkpoints, read_state
from gpt.runs.directory import by_name, is_run, quoted, read_config
from gpt.runs.load import LoadedRun
from gpt.terminal import duration
from gpt.text.tokenizer import Tokenizer
from gpt.tracking.jsonl import read_metrics

HUB_ID = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)@(?P<commit>[0-9a-f]{7,40})")  # as a run keeps it
MOST_BASES = 20  # runs that were fine-tuned from one another
PROMPT = "The "
SIZES = ("n_layer", "n_head", "n_embd", "context_length", "vocab_size", "dropout", "zero_init_residual")
NO_CHAT = "Answering questions or following instructions: it was not trained on conversations."
NOT_FOR = (
    "Facts, advice or decisions: it continues text with what was likely in its training text, true or not.",
    "Publishing what it writes unseen: it can repeat passages of its training text letter for letter, and whatever is "
    "wrong, private or offensive in that text.",
)
OTHER_TEXT = "Text unlike its data, such as other languages: it was trained on what stands under *Data*, "
FROM_SCRATCH, TUNED = "and on nothing else.", "after what the weights that it began with were trained on."
FAILED = (
    "> **Do not use this.** These files are not the run's model: the comparison below failed. They are kept so that it "
    "can be seen why."
)


@dataclass(frozen=True)
class Stated:
    """What only the user can say."""

    license: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise InputError(
                f"`license` {self.license}: is no identifier of the hub's, such as mit, apache-2.0 or cc-by-sa-4.0"
            )
        if self.language is not None and not re.fullmatch(r"[a-z]{2,3}|code|multilingual", self.language):
            raise InputError(
                f"`language` {self.language}: is no code of ISO 639, such as en or de, nor code or multilingual"
            )


def model_name(loaded: LoadedRun) -> str:
    """Name a repository on the hub after a run, or after the model that was exported as it is."""
    found = HUB_ID.fullmatch(loaded.source)
    name = found["id"].rpartition("/")[2] if found else loaded.path.resolve().name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:96] or "model"


def upload_command(name: str, to: Path) -> str:
    """Write the command that uploads a directory; it makes the repository if there is none."""
    return f"hf upload YOUR_NAME/{name} {quoted(to)}"


def card_of(loaded: LoadedRun, proof: Proof | NotProved, stated: Stated) -> Card:
    """Gather the card of a model that was exported."""
    config = read_config(loaded.path) if is_run(loaded.path) else None
    base, data, evaluation = hub_base(config), data_of(config, loaded.state), evaluation_of(loaded.state)
    is_chat, kind = loaded.template is not None, class_of(loaded.config)
    not_for = [*NOT_FOR] if is_chat else [NO_CHAT, *NOT_FOR]
    sections: dict[str, Rows] = {"Model": [*_model_rows(loaded.config, loaded.tokenizer)]}
    if config:
        sections["Data"] = [(plain(each.name), plain(each.in_words)) for each in data]
        sections["Training"] = [*_training_rows(loaded, config, base)]
        sections["Evaluation"] = [*_evaluation_rows(loaded, evaluation)]
        not_for.append(OTHER_TEXT + (FROM_SCRATCH if config.init_from == "scratch" else TUNED))
    return Card(
        name=model_name(loaded),
        what=f"{FAILED}\n\n{_what(loaded, base)}" if proof.passed is False else _what(loaded, base),
        proof=plain(proof.in_words),
        sections=sections,
        not_for=not_for,
        prompt=next((each.prompt for each in data if each.prompt), _prompt(loaded.tokenizer)),
        data=tuple(each.name for each in data),
        hub_data=tuple(each.hub_id for each in data if each.hub_id),
        results=[] if proof.passed is False else results_of(evaluation),  # of the run's model
        base=base[0] if base else None,
        relation="finetune",
        license=stated.license,
        language=stated.language or _common([each.language for each in data]),
        is_chat=is_chat,
        doubts=kind.doubts(loaded.config) if kind else (),
    )


def adapter_card(loaded: LoadedRun, proof: Proof | NotProved, stated: Stated) -> Card:
    """Gather the card of an adapter, which has a base on the hub only where it was put on that itself."""
    config = read_config(loaded.path)
    own = None if by_name(config.init_from).is_dir() else HUB_ID.fullmatch(config.init_from)
    return replace(
        card_of(loaded, proof, stated),
        base=own["id"] if own else None,
        relation="adapter",
        adapter_of=own["id"] if own else "../base",
        more={"base_model_sha256": config.init_sha256},
    )


def base_card(loaded: LoadedRun, proof: Proof | NotProved, stated: Stated) -> Card:
    """Gather the card of what an adapter was trained on, which was written beside it."""
    whole, config = card_of(loaded, proof, stated), read_config(loaded.path)
    what = f"The weights that the adapter of {whole.name} was trained on, which needs them. Their SHA-256, of names, "
    what += f"shapes and values as `gpt` has them, is {config.init_sha256}."
    sections = {"Model": whole.sections["Model"]}
    return replace(
        whole, name=f"{whole.name}-base", what=what, sections=sections, data=(), hub_data=(), results=(), base=None
    )


def hub_base(config: TrainConfig | None) -> tuple[str, str] | None:
    """Find what a run was fine-tuned from, if that is on the hub, also by way of other runs: its id, and its commit."""
    for _ in range(MOST_BASES):
        if config is None or config.init_from == "scratch":
            return None
        path = by_name(config.init_from)
        if is_run(path):
            try:
                config = read_config(path)
            except InputError:
                return None
            continue
        found = None if path.is_dir() else HUB_ID.fullmatch(config.init_from)
        return (found["id"], found["commit"]) if found else None
    return None


def evaluation_of(state: dict[str, Any]) -> Evaluation | None:
    """Give the evaluation of a checkpoint's weights, if there was one."""
    try:
        return Evaluation(**state["evaluation"]) if state.get("evaluation") else None
    except TypeError:  # of a version that had other figures
        return None


def results_of(evaluation: Evaluation | None) -> list[Result]:
    """List the figures for the hub; those that are not finite are none."""
    if evaluation is None:
        return []
    e = evaluation
    found = [
        Result("loss", "validation loss, nats per token", e.loss, e.loss_se),
        Result("bits_per_byte", "bits per byte", e.bits_per_byte, e.bits_per_byte_se),
        Result("perplexity", "perplexity per token", e.perplexity, e.perplexity_se),
    ]
    return [each for each in found if math.isfinite(each.value)]


# ---- rows of the tables ----


def _what(loaded: LoadedRun, base: tuple[str, str] | None) -> str:
    count = parameter_count(loaded.config)
    kind = "conversations" if loaded.template is not None else "text"
    tuned = f", fine-tuned from [{base[0]}](https://huggingface.co/{base[0]})" if base else ""
    step = f" These are its weights after step {loaded.state['step']:,}." if loaded.state else ""
    if found := HUB_ID.fullmatch(loaded.source):
        step = f" These are the weights of {found['id']} at commit {found['commit']}, as they are."
    return f"A language model of {count:,} parameters that continues {kind}{tuned}.{step}"


def _model_rows(config: ModelConfig, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{parameter_count(config):,}"
    yield "layers, heads, width", f"{config.n_layer}, {config.n_head}, {config.n_embd:,}"
    yield "context", f"{config.context_length:,} tokens"
    fingerprint = f"fingerprint {tokenizer.fingerprint[:12]}"
    yield "tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids, {fingerprint}"
    gpt2 = ModelConfig()
    fields = [each.name for each in dataclasses.fields(config) if each.name not in SIZES]
    other = [f"{name} {getattr(config, name)}" for name in fields if getattr(config, name) != getattr(gpt2, name)]
    yield "architecture", f"GPT-2's, but {plain(', '.join(other))}" if other else "GPT-2's"


def _training_rows(loaded: LoadedRun, config: TrainConfig, base: tuple[str, str] | None) -> Iterator[tuple[str, str]]:
    state = loaded.state
    yield "preset", plain(config.preset)
    if base:
        yield "weights it began with", plain(f"{base[0]}, commit {base[1]}")
    else:
        known = f"another model, {Path(config.init_from).name}, which is not on the hub"
        yield "weights it began with", "random ones" if config.init_from == "scratch" else plain(known)
    if config.lora.rank:
        of = f"rank {config.lora.rank}, alpha {config.lora.alpha:g}, on {', '.join(config.lora.targets)}"
        yield "trained", f"adapters alone (LoRA): {adapter_count(config):,} parameters, {plain(of)}"
    tokens, seconds, steps = state.get("tokens"), state.get("elapsed_s"), state.get("step")
    of_all = f" of {config.steps:,}" if steps is not None and steps < config.steps else ""
    yield "steps", UNKNOWN if steps is None else f"{steps:,}{of_all}, of {config.batch_tokens:,} tokens each"
    yield "tokens", f"{UNKNOWN if tokens is None else f'{tokens:,}'}{_epochs(loaded)}"
    conditions = state.get("conditions") or {}
    machine = ", ".join(str(conditions[key]) for key in ("device", "dtype") if conditions.get(key))
    on = f" on {plain(machine)}" if machine else ""
    yield "time", UNKNOWN if seconds is None else f"{duration(seconds)}{on}"
    yield "optimizer", plain(_optimizer_words(config))
    masks = ["attention inside documents"] * config.document_mask + [f"windows: {config.windows}"]
    yield "also", f"dropout {config.model.dropout:g}, {', '.join(masks)}, seed {config.seed}"
    yield "written by", f"gpt {gpt.__version__}"


def _epochs(loaded: LoadedRun) -> str:
    """Say how often the data was read, where a record of that step says it."""
    try:
        records = read_metrics(loaded.path)
    except (InputError, OSError):
        records = []
    epoch = next((record.get("epoch") for record in records if record["step"] == loaded.state.get("step")), None)
    return f", {epoch:.3g} epochs" if isinstance(epoch, float | int) else ""


def _optimizer_words(config: TrainConfig) -> str:
    o = config.optimizer
    rates = f"learning rate {o.learning_rate:g}"
    if o.name == "muon":
        rates = f"Muon's learning rate {o.muon_learning_rate:g}, AdamW's {o.learning_rate:g}"
    betas = f"β {o.beta1:g} and {o.beta2:g}, weight decay {o.weight_decay:g}, gradient clip {o.gradient_clip:g}"
    return f"{o.name}, {rates}, {betas}; {o.schedule} after a warm-up, down to {o.min_lr_ratio:g} of the peak"


def _evaluation_rows(loaded: LoadedRun, evaluation: Evaluation | None) -> Iterator[tuple[str, str]]:
    state = loaded.state
    if evaluation is None:
        yield "validation loss", f"{UNKNOWN}: these weights were not evaluated in training"
    else:
        precision = (state.get("conditions") or {}).get("dtype", "")
        yield from ((name, plain(words)) for name, words in format_evaluation(evaluation, precision))
    newest = _newest_state(loaded)
    same = newest.get("dataset_fingerprint") == state.get("dataset_fingerprint")
    count = (newest.get("evaluations") or 0) if same else 0
    if evaluation and count > 1 and newest.get("best_step") == state.get("step"):
        yield "chosen", f"the best of {count} evaluations on this split, which flatters it a little"
    if (newest.get("overfitting") or {}).get("said"):
        yield "over-fitted", "in training, validation rose above its best while the training loss fell"
    yield "memorized", f"{UNKNOWN}: a run does not keep it; `gpt memorized --run` measures it"


def _newest_state(loaded: LoadedRun) -> dict[str, Any]:
    if not is_run(loaded.path):
        return {}
    try:
        return read_state(list_checkpoints(loaded.path)[-1])
    except (InputError, OSError, IndexError):
        return {}


def _prompt(tokenizer: Tokenizer) -> str:
    """Give something to begin with, of characters that the vocabulary has."""
    with contextlib.suppress(InputError):
        tokenizer.require_known(PROMPT)
        return PROMPT
    return tokenizer.token_text(0)


def _common(languages: list[str | None]) -> str | None:
    """Give the language that all data is in, if it is known."""
    return languages[0] if len(set(languages)) == 1 else None
