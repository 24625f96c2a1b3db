"""Tell how well runs predict a validation split, or your own text, and which of them is better."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, arg

from gpt.choices import Device, WeightDtype
from gpt.commands import json_text
from gpt.commands.core import grade_runs_by_core
from gpt.commands.tasks import TaskOptions, grade_runs, precision
from gpt.config_io import later, parse
from gpt.corpus.documents import AUTO, ReadOptions
from gpt.corpus.sources import TextFiles
from gpt.corpus.text_split import text_split
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.shards import Split
from gpt.device import choose_device, choose_dtype, choose_weight_dtype
from gpt.errors import InputError
from gpt.evaluation.compare import Difference, Measured, bits_difference, encoded_anew, loss_difference
from gpt.evaluation.loss import Evaluation, summarize, sums_per_piece
from gpt.evaluation.tasks.core import Core
from gpt.evaluation.windows import Windows
from gpt.evaluation.words import difference_rows, format_evaluation
from gpt.interrupts import Interruptible
from gpt.log import log
from gpt.runs.checkpoint import list_checkpoints, read_state
from gpt.runs.directory import by_name, is_run, nearest_run, newest_run, quoted, read_config
from gpt.runs.load import LoadedRun, load_run, load_tokenizer, require_model
from gpt.terminal import command, printable
from gpt.text.tokenizer import Tokenizer

BATCH_TOKENS = 8192  # in one forward pass


@dataclass(frozen=True)
class ModelResult:
    """What was found of one model."""

    source: str
    tokenizer: Tokenizer
    measured: Measured
    evaluation: Evaluation
    best_of: int
    """Evaluations on this split of which its weights are the best; 0 if they were not chosen so."""


@dataclass(frozen=True)
class EvaluationText:
    """What all models are evaluated on."""

    name: str
    split: Split
    tokenizer: Tokenizer
    """In whose ids the split is."""
    dataset: Dataset | None = None
    """None where the split is of texts."""

    @classmethod
    def of(cls, dataset: Dataset) -> "EvaluationText":
        return cls(str(dataset.path), dataset.validation, dataset.tokenizer, dataset)

    @property
    def what(self) -> str:
        return "validation split" if self.dataset else "text"


@dataclass(frozen=True)
class Protocol:
    """How all models are evaluated."""

    corpus: EvaluationText
    device: str
    dtype: WeightDtype
    stride: int | None
    tokens: int | None
    context_length: int | None = None
    """The most that a model sees; by default each its own context."""
    document_mask: bool | None = None
    """Whether a token sees what is before it in its document alone; by default as each model was trained."""

    @property
    def precision(self) -> str:
        names = (choose_weight_dtype(self.dtype, self.device), choose_dtype("auto", self.device))
        return "weights {}, arithmetic {}".format(*(str(name).removeprefix("torch.") for name in names))


def main(arguments: Sequence[str] | None = None) -> None:
    with Interruptible():
        parse(tyro.cli, later(evaluate), arguments, config=(DisallowNone,))()


def evaluate(
    run: Path | None = None,
    checkpoint: str = "best",
    against: tuple[Path, ...] = (),
    data: Path | None = None,
    text: tuple[Path, ...] = (),
    field: str | None = None,
    separator: str = AUTO,
    encoding: str | None = None,
    stride: int | None = None,
    tokens: int | None = None,
    json: FlagCreatePairsOff[bool] = False,
    device: Device = "auto",
    dtype: WeightDtype = "float32",
    by: Annotated[TaskOptions, arg(name="", help=""), OmitArgPrefixes] = TaskOptions(),  # noqa: B008
) -> None:
    """Evaluate runs on a validation split, your text or a task, and compare them.

    Args:
        run: The run to evaluate: its path, its name below runs/, or a Hugging Face GPT-2. By default the newest run.
        checkpoint: Which of its checkpoints: best, last, or the number of a step. Other runs are taken at their best.
        against: Other runs to compare it with: how much better or worse each is, and how sure that is.
        data: Evaluate on the validation split of this dataset; by default on that of the run's own.
        text: Evaluate on files and directories of text, as gpt prepare files takes them; - is standard input.
        field: With --text: the field or column of JSON, CSV, TSV and Parquet that holds the text.
        separator: With --text: what ends a document within a file, or none, as gpt prepare files has it.
        encoding: With --text: how files are encoded that are neither UTF-8 nor marked, such as cp1252.
        stride: Tokens from window to window, by default the context. Fewer show more of what is before each: slower.
        tokens: Predict so many tokens only, spread evenly over the split; by default all.
        json: Print one JSON object instead of the tables.
        device: Where to compute; auto takes CUDA, else MPS, else the CPU.
        dtype: Precision of the weights, as gpt sample has it.
    """
    path = by_name(run) if run else newest_run(with_checkpoint=True)
    require_model(path)
    place, how = choose_device(device), ReadOptions(field, separator, encoding)
    loads = [partial(load_run, path, place, dtype, checkpoint=checkpoint)]
    loads += [partial(load_run, other, place, dtype) for other in against]
    elsewhere = bool(data or text or how != ReadOptions() or stride is not None or tokens is not None)
    task = by.open(elsewhere)
    if isinstance(task, Core):
        grade_runs_by_core(task, loads, precision(dtype, place), json)
    elif task:
        grade_runs(task, loads, precision(dtype, place), json)
    else:
        protocol = Protocol(corpus_of(path, data, text, how), place, dtype, stride, tokens)
        _print(_losses(loads, protocol, run is not None, checkpoint == "best", data is None), protocol, json)
    if not json:
        log.info(f"sample from it: {command('sample')} --run {quoted(path)}")


def _losses(
    loads: Sequence[Callable[[], LoadedRun]], protocol: Protocol, named: bool, best: bool, own: bool
) -> list[tuple[ModelResult, dict[str, Difference]]]:
    """Evaluate a run, and others beside it, one after another.

    `named`: the first was, and is not just the newest one; `best`: it is taken at its best; `own`: on its own dataset.
    """
    if protocol.tokens is not None and protocol.tokens < 1:
        raise InputError(f"`tokens` is {protocol.tokens}; it must be at least 1")
    loaded = loads[0]()
    if not named:
        log.info(f"using {loaded.source}")
    if protocol.corpus.dataset:
        require_own_data(loaded, protocol.corpus.dataset, on_purpose=not own)
    first = measure(loaded, protocol, chosen_by_loss=best)
    del loaded  # one model is held at a time
    found: list[tuple[ModelResult, dict[str, Difference]]] = [(first, {})]
    return found + [compared(first, load(), protocol) for load in loads[1:]]


def _print(found: list[tuple[ModelResult, dict[str, Difference]]], protocol: Protocol, json: bool) -> None:
    """Print what was found of each model, and how it differs from the first, as JSON or as tables."""
    if json:
        runs = [result_json(result, differences) for result, differences in found]
        print(json_text({"data": protocol.corpus.name, "precision": protocol.precision, "runs": runs}))
    else:
        first = found[0][0].source
        print("\n\n".join(_as_text(result, differences, protocol, first) for result, differences in found), flush=True)


def corpus_of(run: Path, data: Path | None, files: Sequence[Path], how: ReadOptions) -> EvaluationText:
    """Read texts in the ids of a run; or else open a dataset, by default the one that the run was trained on."""
    if data is None and not files and not is_run(run):
        meant = f"; did you mean {near}?" if (near := nearest_run(run)) and not run.exists() else ""
        raise InputError(
            f"{run}: is no run{meant}; to evaluate a Hugging Face model, name a dataset with `data`, or `text`"
        )
    if files and data:
        raise InputError("`data` and `text`: each says what to evaluate on; give one of them")
    if files:
        tokenizer = load_tokenizer(run)
        try:
            split = text_split(TextFiles([*files], how=how), tokenizer)
        except InputError as error:  # of files as they are called where a dataset is prepared of them
            raise InputError(str(error).replace("`input`", "`text`")) from None
        return EvaluationText(" ".join(map(str, files)), split, tokenizer)
    if how != ReadOptions():
        raise InputError("`field`, `separator` and `encoding` say how to read `text`; give that, or leave them out")
    if data and data.is_file():
        raise InputError(f"`data` {data}: is a file, and no dataset; to evaluate on a text, give it by `text`")
    return EvaluationText.of(open_dataset(data or _only_dataset(run)))


def _only_dataset(run: Path) -> Path:
    """Give the dataset that a run was trained on. Raises InputError if those were several."""
    paths = [*read_config(run).datasets]
    if len(paths) > 1:
        names = ", ".join(map(str, paths))
        raise InputError(f"{run}: was trained on several datasets ({names}): name one of them with `data`")
    return paths[0]


def compared(first: ModelResult, loaded: LoadedRun, protocol: Protocol) -> tuple[ModelResult, dict[str, Difference]]:
    """Evaluate another run, and tell how it differs from the first."""
    result = measure(loaded, protocol)
    alike = loaded.tokenizer.fingerprint == first.tokenizer.fingerprint
    differences = {"bits_per_byte": bits_difference(first.measured, result.measured, alike)}
    if alike:
        differences["loss"] = loss_difference(first.measured, result.measured)
    return result, differences


def require_own_data(loaded: LoadedRun, dataset: Dataset, on_purpose: bool) -> None:
    """Raise InputError if a dataset has another tokenizer than a run; warn if it is another one, unless on purpose."""
    if not on_purpose and loaded.state.get("dataset_fingerprint") != dataset.fingerprint:
        log.warning(
            f"warning: {dataset.path} is not what {loaded.path} was trained on, or has changed since: some of what is "
            "evaluated may have been trained on"
        )
    if loaded.tokenizer.fingerprint != dataset.tokenizer.fingerprint:
        raise InputError(
            f"{dataset.path}: is written with another tokenizer than {loaded.path}; prepare the data with that one"
        )


def measure(loaded: LoadedRun, protocol: Protocol, chosen_by_loss: bool = True) -> ModelResult:
    """Evaluate a model; the split is encoded anew where its tokenizer is another."""
    corpus, tokenizer = protocol.corpus, loaded.tokenizer
    context_length = protocol.context_length or loaded.config.context_length
    split, dataset = corpus.split, corpus.dataset
    if tokenizer.fingerprint != corpus.tokenizer.fingerprint:
        if protocol.tokens is not None:
            raise InputError("`tokens`: runs with different tokenizers are compared on the complete split only")
        if split.is_masked:
            raise InputError(
                f"{dataset.path if dataset else 'the text'}: is of prompts and answers, and {loaded.path} has another "
                "tokenizer; prepare the data with that one (`tokenizer`)"
            )
        split = encoded_anew(split, corpus.tokenizer, tokenizer)
    elif dataset:
        dataset.require_window(context_length)
    mask = has_mask(loaded.path) if protocol.document_mask is None else protocol.document_mask
    mask = mask and tokenizer.end_of_text is not None  # without it, there is one document
    windows = Windows(split, context_length, tokenizer.end_of_text, protocol.stride, protocol.tokens, mask)
    windows.require_targets()
    sums = sums_per_piece(
        loaded.model,
        windows,
        tokenizer.byte_lengths(),
        protocol.device,
        choose_dtype("auto", protocol.device),
        max(1, BATCH_TOKENS // context_length),
    )
    assert sums is not None
    best_of = _best_of(loaded, dataset) if chosen_by_loss and dataset else 0
    return ModelResult(loaded.source, tokenizer, Measured(sums.numpy(), windows), summarize(sums, windows), best_of)


def has_mask(path: Path) -> bool:
    """Tell whether a token saw what is before it in its document alone, when a model was trained here."""
    return is_run(path) and read_config(path).document_mask


def _best_of(loaded: LoadedRun, dataset: Dataset) -> int:
    """Count the evaluations on this very data of which the weights are the best."""
    if loaded.state.get("dataset_fingerprint") != dataset.fingerprint or not loaded.state.get("evaluation"):
        return 0
    newest = read_state(list_checkpoints(loaded.path)[-1])
    same_data = newest.get("dataset_fingerprint") == dataset.fingerprint  # it may have gone on with other data
    return (newest if same_data else loaded.state).get("evaluations") or 0


def _as_text(result: ModelResult, differences: dict[str, Difference], protocol: Protocol, first: str) -> str:
    rows = format_evaluation(result.evaluation, protocol.precision, protocol.corpus.what)
    if result.best_of > 1:
        rows.append(("chosen", f"the best of {result.best_of} evaluations on this split, which flatters it a little"))
    rows += difference_rows(differences, first)
    return printable(
        "\n".join([f"{result.source}, on {protocol.corpus.name}", *(f"{name:16} {text}" for name, text in rows)])
    )


def result_json(result: ModelResult, differences: dict[str, Difference]) -> dict[str, Any]:
    found = {
        name: {"value": d.value, "se": d.standard_error, "ci95": d.spread and d.spread.half_width}
        for name, d in differences.items()
    }
    entry = {"source": result.source, "best_of": result.best_of, "minus_the_first": found}
    return entry | {"evaluation": asdict(result.evaluation), "factor": result.evaluation.factor}
