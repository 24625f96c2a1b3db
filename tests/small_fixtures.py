"""What every test may rely on: small corpora, models and runs, and what the package says."""

import gc
import io
import logging
import os
import random
import shutil
import signal
import subprocess
from contextlib import redirect_stderr
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from unittest import mock

import numpy.testing  # noqa: F401  (before 2.0 it starts lscpu, which no small test may)
import pytest
import torch
from helpers import TINY, Training, heard, python_text, write_dataset
from processes import run_script
from web import serve

from gpt import GPT, InputError, ModelConfig, Tokenizer, TrainConfig, products
from gpt.compiler import compiler_fault
from gpt.config import CheckpointConfig, EvaluationConfig, OptimizerConfig
from gpt.dataset.mixture import mix_datasets
from gpt.log import log
from gpt.presets import MUON, modern
from gpt.runs.directory import open_run
from gpt.training import memorized, summary, utilization
from gpt.training.beside import Beside
from gpt.training.trainer import Trainer


@pytest.fixture(scope="module", autouse=True)
def garbage_of_later_modules_is_found_sooner():
    yield
    gc.freeze()


@pytest.fixture(autouse=True)
def usual_ctrl_c():
    """Give SIGINT its handler back: a program's last words leave it to the system, which would end the worker."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def peak_flops_measured_once():
    """Each training measures it some times, which takes longer than the steps of a tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilization, "measured_peak_flops", cache(utilization.measured_peak_flops))
        yield


@pytest.fixture
def rounds():
    """Where oneDNN rounds what it multiplies, if that is asked for."""
    if not products.rounds():
        pytest.skip("this processor's oneDNN does not round float32 as it multiplies (it does with AMX)")


@pytest.fixture
def as_if_it_rounds(monkeypatch):
    """Take any processor for one whose oneDNN rounds; what is computed is not told from it."""
    monkeypatch.setattr(products, "rounds", lambda: True)


@pytest.fixture(scope="session", autouse=True)
def last_samples_are_short():
    """But longer than a tiny model's window; too short for a stretch that counts as learned by heart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "SAMPLE_TOKENS", 60)
        yield


@pytest.fixture(scope="session", autouse=True)
def what_was_learned_is_judged_by_few_passages():
    """As on a slow machine: a training of some steps would have all of its text read, which takes longer than it."""
    honest = memorized.passages_in_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorized, "passages_in_time", lambda *given: min(60, honest(*given)))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_disk_is_waited_for():
    """As no test takes the power away. Programs of their own do wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses the same descriptors
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_begun_beside():
    """As the process that draws a training's picture would load matplotlib each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Beside, "begin", lambda *_: None)
        yield


@pytest.fixture(autouse=True)
def unit_tests_are_small(request, monkeypatch):
    """No process, and no more than ten steps of training, where a test is not marked as one that does this."""
    if {"process", "slow", "gpu"}.intersection(mark.name for mark in request.node.iter_markers()):
        return
    honest, steps = Trainer.step, []

    def step(*arguments):
        steps.append(1)
        assert len(steps) <= 10, "mark this test as process: it trains"
        return honest(*arguments)

    def start(*arguments, **_):
        raise AssertionError(f"mark this test as process: it starts {arguments[1]}")

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(subprocess.Popen, "__init__", start)


@pytest.fixture(scope="session", autouse=True)
def all_is_said():
    """What is no warning, too. Once for all tests, as a change of level takes longer than many a test."""
    log.logger.setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def said():
    """What the package says in a test, line by line."""
    log._said.clear()
    with heard() as lines:
        yield lines


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    try:
        return Tokenizer.gpt2()
    except InputError:
        pytest.skip("GPT-2's vocabulary file is neither cached (TIKTOKEN_CACHE_DIR) nor to be downloaded")


@pytest.fixture(scope="session")
def bpe():
    return Tokenizer.train_bpe([python_text()], 600)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Some hundred short documents of Python, in bytes; those that validate are shorter, as they are read often."""
    text = python_text()
    pieces = [text[i : i + 400] for i in range(0, 40_000, 400)]
    documents = [("train", piece) if i % 10 else ("validation", piece[:120]) for i, piece in enumerate(pieces)]
    return write_dataset(documents, "bytes", tmp_path_factory.mktemp("data") / "python")


@pytest.fixture(scope="session")
def short_documents(tmp_path_factory):
    """Documents of Python of 0 to 28 bytes, of which a small context holds several."""
    text, documents = python_text(), []
    for i in range(600):
        documents.append(("validation" if i % 5 == 0 else "train", text[20 * i :][: i * i % 29]))
    return write_dataset(documents, "bytes", tmp_path_factory.mktemp("data") / "short")


@pytest.fixture(scope="session")
def other_dataset(tmp_path_factory):
    """Some short documents more, a third as many, to be mixed with those of `dataset`."""
    text = python_text()
    pieces = [text[i : i + 400] for i in range(40_000, 52_000, 400)]
    documents = [("validation" if i % 6 == 0 else "train", piece) for i, piece in enumerate(pieces)]
    return write_dataset(documents, "bytes", tmp_path_factory.mktemp("data") / "more")


@pytest.fixture(scope="session")
def mixture(dataset, other_dataset):
    """A fifth of what is read is of `other_dataset`."""
    return mix_datasets([(dataset, Fraction(8, 10)), (other_dataset, Fraction(2, 10))])


@pytest.fixture
def mixed_config(tiny_shape, dataset, other_dataset):
    """`tiny_config` for the mixture."""
    return replace(tiny_shape, data=(f"{dataset.path}=0.8", f"{other_dataset.path}=0.2"))


@pytest.fixture
def make_mixed(mixture, tmp_path):
    """Builds a training as `make_training` does, on the mixture, or on another one."""

    def make(config, name="run", resume=False, data=mixture, **allowed):
        config = replace(config, run_dir=tmp_path / name)
        with open_run(config, data.tokenizer, resume) as run:
            pass
        return Training(config, data, run, resumes=resume, **allowed)

    return make


@pytest.fixture
def tiny_config(tiny_shape):
    """A run of a moment, with dropout and accumulation."""
    return tiny_shape


@pytest.fixture(scope="session")
def tiny_shape(dataset):
    """`tiny_config`, for fixtures that serve many tests."""
    return TrainConfig(
        data=dataset.path,
        steps=30,
        batch_tokens=6 * 32,
        micro_batch_size=4,
        log_every=1,
        model=ModelConfig(n_layer=1, n_head=2, n_embd=32, context_length=32, vocab_size=257, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=5),
        evaluation=EvaluationConfig(every=10, sample_tokens=4),
        checkpoint=CheckpointConfig(every=10),
    )


@pytest.fixture(scope="session")
def modern_shape(tiny_shape):
    """`tiny_shape` with every option of the modern recipe, and a layer for each letter of its pattern."""
    model = modern(tiny_shape.model, ngram=3, ngram_buckets=64)
    model = replace(model, n_layer=2, logit_softcap=15.0, n_kv_head=1, sliding_window=8, window_pattern="SL")
    model = replace(model, value_embeddings=True)
    return replace(tiny_shape, model=model, optimizer=replace(MUON, warmup_steps=5, weight_decay=0.01))


@pytest.fixture
def make_training(dataset, tmp_path):
    """Builds a training for a config, in a run directory of the test's own."""

    def make(config, name="run", resume=False, **allowed):
        config = replace(config, run_dir=tmp_path / name)
        with open_run(config, dataset.tokenizer, resume) as run:
            pass  # the lock is train.py's business
        return Training(config, dataset, run, resumes=resume, **allowed)

    return make


@pytest.fixture(scope="session")
def undisturbed(dataset, tmp_path_factory):
    """Gives the finished training of a config, done once for all tests: for reading only."""

    @cache
    def finish(config):
        config = replace(config, run_dir=tmp_path_factory.mktemp("undisturbed") / "run")
        # What it says is for no test: it would be heard by whichever comes first.
        with (
            mock.patch.multiple(log, logger=logging.getLogger("unheard"), _said=set()),
            redirect_stderr(io.StringIO()),
            open_run(config, dataset.tokenizer, resume=False) as run,
        ):
            training = Training(config, dataset, run)
            assert training.fit()
        return training

    return finish


@pytest.fixture
def finished(undisturbed, tmp_path):
    """Copies the finished run of a config, so that a test has its own; gives the directory."""

    def copy(config, name="run"):
        return Path(shutil.copytree(undisturbed(config).run, tmp_path / name))

    return copy


@pytest.fixture
def trained_run(finished, tiny_shape):
    """A finished run directory of the test's own."""
    return finished(tiny_shape)


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory):
    """A directory in which a small run was trained by train.py, for reading only, and what it printed."""
    home = tmp_path_factory.mktemp("home")
    command = ("train.py", "nano", "--data", dataset.path, "--steps", 40, *TINY, "--evaluation.every", 20)
    output = run_script(*command, cwd=home)
    before = sorted(home.rglob("*"))
    yield home, output
    assert sorted(home.rglob("*")) == before, "a test has written where others read"


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ModelConfig(n_layer=2, n_head=4, n_embd=32, context_length=48, vocab_size=257)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at initialization, so that mistakes show
            parameter.normal_(std=0.2)
    return model


@pytest.fixture
def several_threads():
    """For what must not depend on how threads divide the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rng():
    return random.Random(0)


@pytest.fixture
def dynamo(monkeypatch):
    """torch.compile up to the graphs, which are run as they are; gives how many there were since."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiler_fault.cache_clear()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    yield lambda: stats["unique_graphs"] - before
    compiler_fault.cache_clear()


@pytest.fixture
def no_compiler():
    """A machine on which none is found."""
    compiler_fault.cache_clear()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/bin/false")}):
        yield
    compiler_fault.cache_clear()


@pytest.fixture
def web(monkeypatch):
    """A server on this machine, which is the hub, too; pauses between tries take no time, and are in `web.pauses`."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serve() as server:
        monkeypatch.setattr("gpt.corpus.https.sleep", server.pauses.append)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url(""))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server
