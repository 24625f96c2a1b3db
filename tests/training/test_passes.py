import re
from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from helpers import fit

from gpt import InputError
from gpt.checkpoint import list_checkpoints
from gpt.compiler import Compiled
from gpt.training.metrics import read_metrics
from gpt.training.report import report


def test_each_size_of_micro_batch_is_compiled_once(make_trainer, tiny_config, dynamo, capsys):
    """Whole ones, a last one with fewer sequences, those halved for want of memory, and in a process that resumes."""
    config = replace(tiny_config, steps=4, batch_tokens=10 * 32, micro_batch=4, compile="on")
    trainer, halved = make_trainer(config), make_trainer(replace(config, micro_batch=10), "halved")
    records = [trainer.train_step() for _ in range(3)]
    assert trainer.compiled.graphs == 2  # 4, 4, 2
    exhaust(halved)
    records += [halved.train_step() for _ in range(3)]
    assert halved.compiled.graphs == 1  # those of 10, 5 and 2 ran out of memory before
    for record in records:
        assert record["compiled"]
        assert "recompilations" not in record
    assert not capsys.readouterr().err


def exhaust(trainer):
    """Run out of memory whenever more than one sequence goes through the model at a time."""

    def forward(x, y):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return trainer.compiled(x, y)

    trainer.forward = forward


@pytest.mark.slow
def test_a_run_of_many_halvings_stays_compiled(make_trainer, tiny_config, dynamo):
    model = replace(tiny_config.model, n_layer=1, n_head=1, width=2, context=2)
    trainer = make_trainer(replace(tiny_config, model=model, batch_tokens=520 * 2, micro_batch=512, compile="on"))
    for size in (512, 256, 128, 64, 32, 16, 4, 2):
        trainer.micro_batch.size = size
        record = trainer.train_step()
    assert trainer.compiled.graphs == 9  # 8 is the rest of most
    assert record["compiled"]


def test_without_a_compiler_on_is_an_error_before_anything_is_done(make_trainer, tiny_config, no_compiler):
    with pytest.raises(InputError, match="torch.compile does not work here .*No working C.. compiler.*--compile off"):
        make_trainer(replace(tiny_config, compile="on"))


def test_without_a_compiler_auto_warns_once_and_every_record_tells(
    make_trainer, tiny_config, quiet, no_compiler, monkeypatch, capsys
):
    monkeypatch.setattr(Compiled, "__init__", partialmethod(wanted_everywhere, Compiled.__init__))
    trainer = make_trainer(tiny_config)
    fit(trainer, quiet)
    output = capsys.readouterr()
    assert output.err.count("warning: torch.compile does not work here") == output.err.count("\n") == 1
    assert "compile" not in output.out
    records = read_metrics(trainer.run)
    assert [record["compiled"] for record in records] == [False] * len(records)
    report(trainer)
    assert re.search(r"compiled +no: .*No working C\+\+ compiler", capsys.readouterr().out)


def wanted_everywhere(compiled, honest, function, wanted, device, **options):
    """Compiled.__init__, for which auto means on, as it does on a CUDA device."""
    honest(compiled, function, "on" if wanted == "auto" else wanted, device, **options)
    compiled.wanted = wanted


@pytest.mark.parametrize("where", ["forward", "backward", "another size"])
@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_a_compiler_that_fails_later_ends_nothing_without_saving(
    make_trainer, tiny_config, dynamo, quiet, monkeypatch, capsys, where, wanted
):
    """In the third step: auto goes on without it, on saves and ends."""
    monkeypatch.setattr(Compiled, "__init__", partialmethod(wanted_everywhere, Compiled.__init__))
    config = replace(tiny_config, steps=6, compile=wanted, checkpoint=replace(tiny_config.checkpoint, every=0))
    trainer, reference = make_trainer(config), make_trainer(replace(config, compile="off"), "reference")
    honest = trainer.compiled._run

    def run(program, arguments):
        if trainer.step == 2 and where == "forward":
            raise trainer.compiled._failed("Weird: it broke")
        if trainer.step == 2 and where == "another size" and not program.calls:
            raise trainer.compiled._failed("Weird: it broke")
        result = honest(program, arguments)
        if trainer.step == 2 and where == "backward":
            result.register_hook(broken_hook)
        return result

    def broken_hook(gradient):
        raise torch._dynamo.exc.InternalTorchDynamoError("it broke")

    trainer.compiled._run = run
    if where == "another size":
        monkeypatch.setattr(trainer, "train_step", resized(trainer))
        monkeypatch.setattr(reference, "train_step", resized(reference))
    if wanted == "on":
        with pytest.raises(InputError, match="torch.compile does not work here .*it broke.*--compile off"):
            fit(trainer, quiet)
        assert [path.name for path in list_checkpoints(trainer.run)] == ["step-00000002"]
        return
    fit(trainer, quiet)
    fit(reference, quiet)
    for one, two in zip(trainer.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [record["compiled"] for record in read_metrics(trainer.run)] == [True, True] + [False] * 4
    assert capsys.readouterr().err.count("warning: torch.compile does not work here") == 1


def resized(trainer):
    """train_step, with another micro-batch from the third step on."""
    honest = trainer.train_step

    def train_step():
        trainer.micro_batch.size = 3 if trainer.step == 2 else trainer.micro_batch.size
        return honest()

    return train_step
