import re
from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from out_of_memory import REPORTS

from gpt import GPT, InputError
from gpt.compiler import Compiled
from gpt.generation.runner import ModelRunner
from gpt.runs import checkpoint, integrity
from gpt.runs.checkpoint import list_checkpoints
from gpt.tracking.jsonl import read_metrics
from gpt.training import muon as muon_module
from gpt.training import optimizer as optimizer_module
from gpt.training import summary as report_module
from gpt.training.trainer import StepFailed


def test_each_size_of_micro_batch_is_compiled_once(make_training, tiny_config, dynamo, said):
    """Whole ones, a last one with fewer sequences, those halved for want of memory, and in a process that resumes."""
    config = replace(tiny_config, steps=4, batch_tokens=10 * 32, micro_batch_size=4, compile="on")
    training, halved = make_training(config), make_training(replace(config, micro_batch_size=10), "halved")
    records = [training.step() for _ in range(3)]
    assert training.trainer.compiled.graphs == 2  # 4, 4, 2
    exhaust(halved)
    records += [halved.step() for _ in range(3)]
    assert halved.trainer.compiled.graphs == 1  # those of 10, 5 and 2 ran out of memory before
    for record in records:
        assert record["compiled"]
        assert "recompilations" not in record
    assert not any("compile" in line for line in said)


def exhaust(training):
    """Run out of memory whenever more than one sequence goes through the model at a time."""

    def forward(x, y):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return training.trainer.compiled(x, y)

    training.trainer.loss = forward


@pytest.mark.slow
def test_a_run_of_many_halvings_stays_compiled(make_training, tiny_config, dynamo):
    model = replace(tiny_config.model, n_layer=1, n_head=1, n_embd=2, context_length=2)
    training = make_training(
        replace(tiny_config, model=model, batch_tokens=520 * 2, micro_batch_size=512, compile="on")
    )
    for size in (512, 256, 128, 64, 32, 16, 4, 2):
        training.trainer.micro_batch.size = size
        record = training.step()
    assert training.trainer.compiled.graphs == 9  # 8 is the rest of most
    assert record["compiled"]


def test_without_a_compiler_on_is_an_error_before_anything_is_done(make_training, tiny_config, no_compiler):
    with pytest.raises(InputError, match="torch.compile does not work here .*No working C.. compiler.*`compile` off"):
        make_training(replace(tiny_config, compile="on"))


def test_without_a_compiler_auto_warns_once_and_every_record_tells(
    make_training, tiny_config, no_compiler, monkeypatch, capsys, said
):
    monkeypatch.setattr(Compiled, "__init__", partialmethod(wanted_everywhere, Compiled.__init__))
    training = make_training(replace(tiny_config, steps=2))
    training.fit()
    assert len(said) == 1 and said[0].startswith("torch.compile does not work here")
    records = read_metrics(training.run)
    assert [record["compiled"] for record in records] == [False] * len(records)
    training.report()
    assert re.search(r"compiled +no: .*No working C\+\+ compiler", capsys.readouterr().out)


def wanted_everywhere(compiled, honest, function, wanted, device, **options):
    """Compiled.__init__, for which auto means on, as it does on a CUDA device."""
    honest(compiled, function, "on" if wanted == "auto" else wanted, device, **options)
    compiled.wanted = wanted


@pytest.mark.parametrize("where", ["forward", "backward", "another size"])
@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_a_compiler_that_fails_later_ends_nothing_without_saving(
    make_training, tiny_config, dynamo, monkeypatch, said, where, wanted
):
    """In the third step: auto goes on without it, on saves and ends."""
    monkeypatch.setattr(Compiled, "__init__", partialmethod(wanted_everywhere, Compiled.__init__))
    config = replace(tiny_config, steps=4, micro_batch_size=2, compile=wanted)  # all of one size: a single graph
    config = replace(config, checkpoint=replace(config.checkpoint, every=0))
    training, reference = make_training(config), make_training(replace(config, compile="off"), "reference")
    honest = training.trainer.compiled._run

    def run(program, arguments):
        if training.state.step == 2 and where == "forward":
            raise training.trainer.compiled._failed("Weird: it broke")
        if training.state.step == 2 and where == "another size" and not program.calls:
            raise training.trainer.compiled._failed("Weird: it broke")
        result = honest(program, arguments)
        if training.state.step == 2 and where == "backward":
            result.register_hook(broken_hook)
        return result

    def broken_hook(gradient):
        raise torch._dynamo.exc.InternalTorchDynamoError("it broke")

    training.trainer.compiled._run = run
    if where == "another size":
        training.around_steps(resized(training))
        reference.around_steps(resized(reference))
    if wanted == "on":
        with pytest.raises(InputError, match="torch.compile does not work here .*it broke.*`compile` off"):
            training.fit()
        assert [path.name for path in list_checkpoints(training.run)] == ["step-00000002"]
        return
    training.fit()
    reference.fit()
    for one, two in zip(training.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [record["compiled"] for record in read_metrics(training.run)] == [True, True, False, False]
    assert "\n".join(said).count("torch.compile does not work here") == 1


def resized(training):
    """Another micro-batch from the third step on."""

    def step(do):
        training.trainer.micro_batch.size = 3 if training.state.step == 2 else training.trainer.micro_batch.size
        return do()

    return step


# ---- memory that runs out elsewhere than in the passes ----


# All of them are recognized alike (tests/test_memory.py).
SOME_REPORTS = [REPORTS[name] for name in ("CPU on Linux", "cuBLAS", "MPS")]


def failing(honest, error, times=1):
    """A function that fails so many times before it does what it should."""
    left = [times]

    def call(*arguments, **options):
        if left[0]:
            left[0] -= 1
            raise error
        return honest(*arguments, **options)

    return call


def moves_of(training):
    """Where an optimizer's step takes memory, so that it can run out there: its state, and Muon's update."""
    if not training.trainer.optimizer.muons:
        return [(optimizer_module, "_zeros")]
    return [(optimizer_module, "_zeros"), (muon_module, "orthogonalize_"), (muon_module, "newton_schulz")]


@pytest.mark.parametrize("error", SOME_REPORTS, ids=("CPU", "cuBLAS", "MPS"))
def test_an_optimizer_that_lacks_memory_once_steps_all_the_same(make_training, modern_shape, monkeypatch, error):
    training, reference = make_training(modern_shape), make_training(modern_shape, "reference")
    for trained in (reference, training):
        trained.step()
    place = moves_of(training)[1]
    monkeypatch.setattr(*place, failing(getattr(*place), error))
    for trained in (training, reference):
        trained.step()
    require_equal(training, reference)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["state", "update", "iteration"])
def test_an_optimizer_that_lacks_memory_moves_nothing_and_loses_nothing(
    make_training, modern_shape, monkeypatch, place
):
    """It runs out of memory in the second of its steps, or, for its state, in the first, after a skipped one."""
    config = replace(modern_shape, steps=3)
    training, reference = make_training(config), make_training(config, "reference")
    honest = training.trainer.guard.judge
    for trained in (training, reference):
        trained.trainer.guard.judge = lambda *figures, t=trained: (
            "skipped" if place == 0 and t.state.step == 0 else honest(*figures)
        )
    reference.fit()
    module, name = moves_of(training)[place]
    working = getattr(module, name)
    calls = []

    def run_out(*arguments):
        calls.append(training.state.step)
        if training.state.step == 1 and (
            calls.count(1) > 1 or place == 1
        ):  # in the midst, where it is called several times
            raise torch.OutOfMemoryError("CUDA out of memory")
        return working(*arguments)

    monkeypatch.setattr(module, name, run_out)
    with pytest.raises(InputError, match="step 2: out of memory in the optimizer.*`parallel` fsdp"):
        calls.clear()
        training.fit()
    monkeypatch.setattr(module, name, working)
    assert [path.name for path in list_checkpoints(training.run)] == ["step-00000001"]
    resumed = make_training(config, resume=True)
    assert resumed.state.step == 1
    resumed.fit()
    require_equal(resumed, reference)


def require_equal(one, two):
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name]), name
    states = [trained.trainer.optimizer.state_dict() for trained in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("error", SOME_REPORTS, ids=("CPU", "cuBLAS", "MPS"))
def test_an_evaluation_that_lacks_memory_predicts_less_at_a_time(make_training, tiny_config, monkeypatch, error):
    config = replace(tiny_config, steps=1)
    training, reference = make_training(config), make_training(config, "reference")
    honest, sizes = GPT.forward, []

    def forward(model, ids, *arguments, **options):
        if not model.training and ids.size(1) > 1:
            sizes.append(len(ids))
            if len(ids) > 2 and model is training.model:
                raise error
        return honest(model, ids, *arguments, **options)

    monkeypatch.setattr(GPT, "forward", forward)
    for trained in (reference, training):
        sizes.clear()
        trained.fit()
    assert sizes.count(4) == 1
    assert training.state.evaluation.loss == pytest.approx(reference.state.evaluation.loss, rel=1e-6)


@pytest.mark.parametrize("error", SOME_REPORTS, ids=("CPU", "cuBLAS", "MPS"))
def test_a_sample_or_a_report_that_lacks_memory_ends_no_training(
    make_training, tiny_config, monkeypatch, capsys, error
):
    training = make_training(replace(tiny_config, steps=1))
    with monkeypatch.context() as during:
        during.setattr(ModelRunner, "new_caches", raises(error))
        assert training.fit()
        assert "(no sample: out of memory with 1 sequences at once" in read_metrics(training.run)[-1]["sample"]
        training.report()
    assert "(no sample: out of memory with 1 sequences at once" in capsys.readouterr().out
    devices = []

    def load_run(run, device):
        devices.append(device)
        raise error

    monkeypatch.setattr(report_module, "load_run", load_run)
    training.report()
    assert devices == ["cpu", "cpu"]
    output = capsys.readouterr().out
    assert re.search(r"trained +1 steps", output)
    assert "(no sample: the best checkpoint could not be loaded beside what is there)" in output


@pytest.mark.parametrize("error", SOME_REPORTS, ids=("CPU", "cuBLAS", "MPS"))
def test_a_save_that_lacks_memory_changes_nothing(make_training, tiny_config, monkeypatch, capsys, error):
    training = make_training(replace(tiny_config, steps=4, checkpoint=replace(tiny_config.checkpoint, every=1)))
    honest = integrity.save_tensors

    def save_tensors(tensors, path):
        if training.state.step == 3 and path.name == checkpoint.OPTIMIZER:
            raise error
        honest(tensors, path)

    monkeypatch.setattr(integrity, "save_tensors", save_tensors)
    assert training.fit()
    assert [path.name for path in list_checkpoints(training.run)] == ["step-00000002", "step-00000004"]
    assert all(path.name.startswith("step-") for path in (training.run / "checkpoints").iterdir())


def raises(error):
    def call(*_):
        raise error

    return call


def test_a_step_that_cannot_be_done_leaves_guard_and_scale_as_they_were(make_training, tiny_config, monkeypatch):
    """What is saved then goes on as if the step had never been tried."""
    training = make_training(tiny_config)
    training.step()
    trainer = training.trainer
    before = trainer.guard.state_dict(), trainer.scale.state_dict()
    monkeypatch.setattr(trainer.optimizer, "step", raises(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(StepFailed, match="step 2: out of memory in the optimizer"):
        training.step()
    assert (trainer.guard.state_dict(), trainer.scale.state_dict()) == before
    assert training.state.step == 1
