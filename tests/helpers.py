"""What several tests use."""

import collections
import contextlib
import importlib
import importlib.metadata
import inspect
import io
import os
import random
import runpy
import shutil
import sys
import typing
import unicodedata
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from packaging.version import Version

from gpt import GPT, ModelConfig
from gpt.__main__ import main as gpt_main
from gpt.commands import clean_errors, sample, train
from gpt.config import TrainConfig
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import Texts
from gpt.corpus.split import Piece
from gpt.log import log
from gpt.runs.checkpoint import list_checkpoints, save, step_of
from gpt.runs.directory import open_run
from gpt.text.tokenizer import Tokenizer
from gpt.training import summary
from gpt.training.checkpointing import begin, resume
from gpt.training.signals import StopRequest
from gpt.training.start import new_model, training_loader
from gpt.training.summary import report
from gpt.training.trainer import Trainer
from gpt.training.validation import Validation

ROOT = Path(__file__).parents[1]
SHAKESPEARE = ROOT.parent / "shared" / "corpora" / "tinyshakespeare.txt"

SHAPE = ModelConfig(n_layer=2, n_head=4, n_embd=32, context_length=48, vocab_size=257)

TINY = ("--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "32", "--model.context-length", "32")
TINY += ("--model.ngram-buckets", "64", "--batch-tokens", "256", "--device", "cpu", "--log-every", "1")
TINY += ("--evaluation.sample-tokens", "20")

VARIANTS = {
    "gpt2": {},
    "rope": {"positions": "rope"},
    "rms": {"normalization": "rms"},
    "qk-norm": {"qk_norm": True},
    "relu-squared": {"activation": "relu-squared"},
    "gelu-erf": {"activation": "gelu-erf"},
    "relu": {"activation": "relu"},
    "inner": {"n_inner": 50},
    "inverse-layer": {"scale_by_inverse_layer": True},
    "no-bias": {"bias": False},
    "untied": {"tie_embeddings": False},
    "softcap": {"logit_softcap": 3.0},
    "shared": {"n_kv_head": 2},
    "window": {"sliding_window": 6, "window_pattern": "SL"},
    "ngram": {"ngram": 3, "ngram_buckets": 50},
    "values": {"value_embeddings": True},
}
MODERN = VARIANTS.keys() - {"gelu-erf", "relu", "inner", "inverse-layer"}  # which others' models have
VARIANTS["modern"] = {key: value for name in VARIANTS if name in MODERN for key, value in VARIANTS[name].items()}


class Later:
    """A library that is imported when it is used first, as it takes seconds and few tests need it."""

    def __init__(self, library):
        self._library = library

    def __getattr__(self, name):
        if name.startswith("_"):  # pytest asks every object for some such
            raise AttributeError(name)
        return getattr(importlib.import_module(self._library), name)


transformers = Later("transformers")


def from_version(package, version, fault):
    """Mark a test as one that a package passes from a version on; before, it has a fault, or is not there at all."""
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        installed = "0"
    return pytest.mark.skipif(Version(installed) < Version(version), reason=f"{package} before {version} {fault}")


ignored_scale = from_version("transformers", "5.18", "ignores scale_attn_by_inverse_layer_idx")


@contextlib.contextmanager
def heard():
    """What the package says in this context, line by line."""
    lines, log.is_main = [], True

    def hear(record):
        lines.append(record.getMessage())
        return True

    log.logger.addFilter(hear)
    try:
        yield lines
    finally:
        log.logger.removeFilter(hear)


def variant(name):
    """A model with large random weights, so that mistakes show."""
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, **VARIANTS[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def ngram_buckets(stream, longest, rows):
    """The table's rows for the runs that end at the last of some ids, in whole numbers and from the formula: the sum of
    (id + 1)·m^i over a run, i counted from its first token, mod 2^64, and its upper half folded upon its lower."""
    found, m = [], 0x9E3779B97F4A7C15
    padded = [-1] * longest + list(stream)
    for n in range(2, longest + 1):
        number = sum((token + 1) * m**i for i, token in enumerate(padded[-n:])) % 2**64
        signed = number - 2**64 if number >= 2**63 else number
        found.append((signed ^ signed >> 31) % rows + (n - 2) * rows)
    return found


def exact(name):
    """The same in float64, so that rounding decides nothing."""
    return variant(name).double()


def python_text() -> str:
    """More than 100 kB of Python that every installation has."""
    return "".join(inspect.getsource(module) for module in (typing, random, collections))


def random_text(rng: random.Random, length: int) -> str:
    """Unicode of many scripts, whitespace and code, to hold one tokenizer against another."""
    ranges = [(0xA1, 0x24F), (0x370, 0x5FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x1, 0xD7FF)]
    words = ["def ", "return ", "self.", "()", "'s", "'ll", "!=", "# ", '"""', "the ", " of", "http://", "\\n", "0x1F"]
    spaces = [" ", "  ", "\n", "\t", "\r\n", "    ", "\n\n", "\u00a0", "\u3000", "\x0b", "\x85"]
    pools = [
        lambda: rng.choice("abcdefghijklmnopqrstuvwxyzABCDEF"),
        lambda: rng.choice("0123456789"),
        lambda: rng.choice(spaces),
        lambda: rng.choice(words),
        lambda: chr(rng.randint(*rng.choice(ranges))),
    ]
    return "".join(rng.choice(pools)() for _ in range(length))


def assigned(text: str) -> str:
    """`text` without characters that Unicode versions disagree on, because they are not assigned yet."""
    return "".join(character for character in text if unicodedata.category(character) != "Cn")


def write_dataset(pieces, tokenizer, out):
    """Prepare (split, text) pairs as a dataset."""
    splits = {str(number): split for number, (split, _) in enumerate(pieces)}
    source = Texts((str(number), text) for number, (_, text) in enumerate(pieces))
    return prepare(source, lambda corpus: lambda d: iter([Piece(d.name, splits[d.name], d.text)]), tokenizer, out, {})


class Training:
    """A training with all its parts, as train.py puts them together; not begun, or resumed from its run."""

    def __init__(self, config, dataset, run, world=None, resumes=False, **allowed):
        self.config, self.dataset, self.run = config, dataset, run
        self.model = new_model(config, world.device if world else "cpu")
        self.trainer = Trainer(self.model, config, world)
        self.validation = Validation(config, dataset)
        self.loader = training_loader(config, dataset)
        state = resume(run, self.trainer, self.validation, **allowed) if resumes else None
        self.state = state or begin(run, self.trainer, self.validation)

    def step(self):
        """Do the next step; its record."""
        batch = self.loader.batch(self.state.step, self.trainer.first_row, self.trainer.rows)
        return self.trainer.step(self.state, batch)

    def around_steps(self, around):
        """Have `around` called in place of each step, with what does it."""
        honest = self.trainer.step
        self.trainer.step = lambda *state_and_batch: around(lambda: honest(*state_and_batch))

    def fit(self, profile=False):
        """Train as train.py does, with signals heard."""
        with StopRequest() as stop:
            return train.fit(self.run, self.trainer, self.state, self.validation, stop, profile)

    def report(self, draws=False):
        """Print what train.py does at the end; with the picture, which takes longest, only where it is looked at."""
        with contextlib.nullcontext() if draws else mock.patch.object(summary, "draw_losses", lambda run: run):
            report(self.run, self.trainer, self.state, self.validation)


def same(one, two):
    """Whether two dictionaries of tensors are equal, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def weights(training):
    """Copies of a training's weights, by name."""
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def require_equal(one, two):
    """Two dictionaries of tensors are equal, bit for bit."""
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def tensors(seed):
    """Two small tensors, as the weights of a checkpoint."""
    return {"a": torch.full((3, 4), float(seed)), "b": torch.arange(5) + seed}


def save_steps(run, losses):
    """Save checkpoints of steps 10, 20, … with these validation losses."""
    run.mkdir(exist_ok=True)
    for i, loss in enumerate(losses, 1):
        evaluation = None if loss is None else {"loss": loss}
        save(run, tensors(i), {"a/exp_avg": torch.ones(2) * i}, {"step": 10 * i, "evaluation": evaluation})


def steps_of(run):
    """The steps of a run's checkpoints."""
    return [step_of(path) for path in list_checkpoints(run)]


def saved_run(home, name, noise=0.0, tokenizer=None, context=48):
    """A run of one checkpoint, which was not trained: its weights are those of any other of its shape, and noise."""
    tokenizer = tokenizer or Tokenizer.utf8_bytes()
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, vocab_size=tokenizer.vocab_size, context_length=context))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=noise)
    config = TrainConfig(run_dir=home / name, batch_tokens=context, model=model.config)
    with open_run(config, tokenizer, resume=False) as run:
        save(run, model.state_dict(), {}, {"step": 1, "evaluation": None})
    return run


CLOCKED = ("elapsed_s", "tokens_per_s", "mfu")


def without_clock(records):
    """Records without what depends on the clock."""
    return [{key: value for key, value in record.items() if key not in CLOCKED} for record in records]


def in_process(function, home, stdin=""):
    """What a program's main function prints in a directory, and its exit code; quicker than a process of its own."""
    output = io.StringIO()
    with (
        contextlib.chdir(home),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(io.StringIO()) as errors,
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.object(sys, "argv", sys.argv),  # which `gpt` sets
    ):
        try:
            function()
            code = 0
        except SystemExit as exit_code:
            code = exit_code.code or 0
    return code, output.getvalue(), errors.getvalue()


def run_here(script, *arguments, cwd, code=0):
    """What `run_script` gives, from the tests' own process, which is quicker."""
    with mock.patch.object(sys, "argv", [script, *map(str, arguments)]):
        actual, output, errors = in_process(lambda: runpy.run_path(str(ROOT / script), run_name="__main__"), cwd)
    assert actual == code, output + errors
    return output + errors


def refused(script, *arguments, cwd):
    """What a script of the repository complains of that refuses its input."""
    return run_here(script, *arguments, cwd=cwd, code=2)


def run_sample(home, *arguments, code=0, stdin="", both=False):
    """What sample.py prints; where it fails, what it complains of; `both`: with what it says beside its results."""
    given = [*map(str, arguments), "--device", "cpu"]

    def main():
        with clean_errors():
            sample.main(given)

    with mock.patch.object(sys, "argv", ["sample.py", *given]):
        actual, output, errors = in_process(main, home, stdin)
    assert actual == code, output + errors
    return (output + errors if both else output) if code == 0 else errors


def run_gpt(home, *arguments, code=0):
    """What `gpt COMMAND` prints; where it fails, what it complains of."""
    with mock.patch.object(sys, "argv", ["gpt", *map(str, arguments)]):
        actual, output, errors = in_process(gpt_main, home)
    assert actual == code, output + errors
    return output if code == 0 else errors


needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler is there (g++, or what CXX names)"
)
