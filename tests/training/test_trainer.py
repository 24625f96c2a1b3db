import json
import math
import signal
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gpt import GPT, InputError, checkpoint
from gpt.checkpoint import list_checkpoints, load_newest, step_of
from gpt.tokens.loader import IGNORED
from gpt.training import trainer as trainer_module
from gpt.training.metrics import read_metrics
from gpt.training.trainer import compiled


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def require_equal(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def plain(records):
    """Records without what depends on the clock."""
    return [{key: value for key, value in r.items() if key not in ("elapsed_s", "tokens_per_s")} for r in records]


def test_the_loss_goes_down(make_trainer, tiny_config, quiet):
    trainer = make_trainer(replace(tiny_config, steps=120, evaluation=replace(tiny_config.evaluation, every=0)))
    assert trainer.fit(quiet)
    records = read_metrics(trainer.run)
    assert records[0]["train_loss"] == pytest.approx(math.log(257), abs=0.1)
    assert records[-1]["val_loss"] < 4.0


def test_a_resumed_run_repeats_an_undisturbed_one_bit_for_bit(make_trainer, tiny_config, quiet):
    """30 steps at once, and 11 + 19 with everything rebuilt from disk between, dropout on."""
    whole = make_trainer(tiny_config, "whole")
    assert whole.fit(quiet)
    first = make_trainer(replace(tiny_config, stop_at=11), "parts")
    assert not first.fit(quiet)
    torch.manual_seed(99)  # whatever else happened in between
    second = make_trainer(tiny_config, "parts", resume=True)
    assert second.step == 11
    assert second.fit(quiet)
    require_equal(weights(whole), weights(second))
    one, two = (load_newest(t.run, print) for t in (whole, second))
    require_equal(one.model, two.model)
    require_equal(one.optimizer, two.optimizer)
    assert plain(read_metrics(whole.run)) == plain(read_metrics(second.run))
    assert one.state["evaluation"] == two.state["evaluation"]


def test_how_often_one_evaluates_or_saves_does_not_change_the_training(make_trainer, tiny_config, quiet):
    often = replace(
        tiny_config,
        evaluation=replace(tiny_config.evaluation, every=3),
        checkpoint=replace(tiny_config.checkpoint, every=4),
    )
    seldom = replace(tiny_config, evaluation=replace(tiny_config.evaluation, every=0))
    runs = [make_trainer(config, name) for config, name in ((often, "often"), (seldom, "seldom"))]
    for trainer in runs:
        trainer.fit(quiet)
    require_equal(weights(runs[0]), weights(runs[1]))


def test_the_micro_batch_does_not_change_what_is_learned(make_trainer, tiny_config):
    """Loss and gradient are means over all targets of the batch, those of padded windows not counted."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    results = []
    for micro_batch in (1, 4, 6):
        trainer = make_trainer(replace(config, micro_batch=micro_batch), f"micro-{micro_batch}")
        records = [trainer.train_step() for _ in range(40)]
        results.append(([r["train_loss"] for r in records], [r["gradient_norm"] for r in records]))
    assert results[0][0] == pytest.approx(results[2][0], rel=1e-4)
    assert results[1][1] == pytest.approx(results[2][1], rel=1e-2)


def test_a_step_is_what_its_definition_says(make_trainer, tiny_config):
    """Loss and gradient by hand, on the batch that has a padded window."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    trainer = make_trainer(config)
    while not (trainer.loader.batch(trainer.step)[1] == IGNORED).any():
        trainer.train_step()
    twin = GPT(config.model)
    twin.load_state_dict(trainer.model.state_dict())
    inputs, targets = trainer.loader.batch(trainer.step)
    loss = F.cross_entropy(twin(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
    record = trainer.train_step()
    assert record["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_gradients_are_clipped_to_the_limit(make_trainer, tiny_config, monkeypatch):
    seen = []
    trainer = make_trainer(replace(tiny_config, optimizer=replace(tiny_config.optimizer, gradient_clip=0.05)))

    def look(*_, **__):
        seen.append(torch.sqrt(sum((p.grad**2).sum() for p in trainer.model.parameters())).item())

    trainer.optimizer.register_step_pre_hook(look)
    assert trainer.train_step()["gradient_norm"] > 0.1
    assert seen == [pytest.approx(0.05, rel=1e-3)]


def test_metrics_have_the_documented_keys(trained_run):
    records = read_metrics(trained_run)
    assert [record["step"] for record in records] == list(range(1, 31))
    keys = {"step", "tokens", "elapsed_s", "train_loss", "learning_rate", "gradient_norm", "tokens_per_s"}
    evaluated = {"val_loss", "val_loss_se", "val_bits_per_byte"}
    for record in records:
        assert set(record) == (keys | evaluated if record["step"] % 10 == 0 else keys)
        assert record["tokens"] == record["step"] * 192
    times = [record["elapsed_s"] for record in records]
    assert times == sorted(times)


def test_checkpoints_are_kept_as_configured(trained_run, make_trainer, tiny_config, quiet):
    assert [step_of(path) for path in list_checkpoints(trained_run)] == [20, 30]
    config = replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, every=5, keep=3))
    trainer = make_trainer(config, "three")
    trainer.fit(quiet)
    assert [step_of(path) for path in list_checkpoints(trainer.run)] == [20, 25, 30]


def test_the_best_checkpoint_survives_worse_ones(make_trainer, tiny_config, quiet, monkeypatch):
    losses = iter([3.0, 1.0, 2.5])
    original = trainer_module.evaluate

    def scripted(*arguments):
        return replace(original(*arguments), loss=next(losses))

    monkeypatch.setattr(trainer_module, "evaluate", scripted)
    config = replace(tiny_config, checkpoint=replace(tiny_config.checkpoint, every=0, keep=1))
    trainer = make_trainer(config)
    trainer.fit(quiet)
    assert [step_of(path) for path in list_checkpoints(trainer.run)] == [20, 30]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_can_be_resumed(make_trainer, tiny_config, quiet, monkeypatch, number):
    trainer = make_trainer(tiny_config)
    original = trainer.train_step

    def step():
        if trainer.step == 13:
            signal.raise_signal(number)
        return original()

    monkeypatch.setattr(trainer, "train_step", step)
    assert not trainer.fit(quiet)
    assert step_of(list_checkpoints(trainer.run)[-1]) == 14
    resumed = make_trainer(tiny_config, resume=True)
    assert resumed.step == 14
    assert resumed.fit(quiet)


def test_a_second_ctrl_c_interrupts_at_once(make_trainer, tiny_config, quiet, monkeypatch):
    trainer = make_trainer(tiny_config)

    def step():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(quiet)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_divergence_stops_before_the_weights_are_touched(make_trainer, tiny_config, quiet):
    trainer = make_trainer(tiny_config)
    trainer.train_step()
    before = weights(trainer)
    trainer.model.final_norm.bias.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(InputError, match=r"diverged at step 2 .*learning-rate"):
        trainer.fit(quiet)
    require_equal(before, weights(trainer))


def test_other_data_is_refused_on_resume(make_trainer, tiny_config, quiet):
    trainer = make_trainer(replace(tiny_config, stop_at=5))
    trainer.fit(quiet)
    path = list_checkpoints(trainer.run)[-1]
    state = json.loads((path / "state.json").read_text()) | {"dataset_fingerprint": "other"}
    for old in list_checkpoints(trainer.run):
        old.rename(old.with_suffix(".old"))
    checkpoint.save(trainer.run, trainer.model.state_dict(), {}, state)
    with pytest.raises(InputError, match="is not the dataset"):
        make_trainer(tiny_config, resume=True)


def test_fewer_steps_than_were_done_are_refused_and_change_nothing(make_trainer, tiny_config, trained_run):
    before = (trained_run / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"--steps 20: .* has done 30 steps already"):
        make_trainer(replace(tiny_config, steps=20), resume=True)
    assert (trained_run / "config.json").read_bytes() == before


def test_a_run_without_a_checkpoint_yet_begins_again(make_trainer, tiny_config, quiet):
    make_trainer(tiny_config)
    again = make_trainer(tiny_config, resume=True)
    assert again.step == 0
    assert again.fit(quiet)


def test_compile_falls_back_with_one_warning(tiny_config, monkeypatch, capsys):
    def broken(function):
        def call(*_):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    function = compiled(lambda x: x + 1, replace(tiny_config, compile="on"), "cpu")
    assert [function(torch.tensor(i)).item() for i in range(3)] == [1, 2, 3]
    assert capsys.readouterr().out.count("torch.compile does not work here (RuntimeError)") == 1


def test_compile_is_asked_for_or_left_out(tiny_config, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda *_: "compiled")
    cases = [
        ("on", "cpu", "compiled"),
        ("auto", "cuda", "compiled"),
        ("auto", "cpu", "plain"),
        ("off", "cuda", "plain"),
    ]
    for setting, device, expected in cases:
        function = compiled(lambda: "plain", replace(tiny_config, compile=setting), device)
        assert function() == expected


@pytest.mark.slow
def test_compiled_training_has_the_same_losses(make_trainer, tiny_config):
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    losses = []
    for setting in ("off", "on"):
        trainer = make_trainer(replace(config, compile=setting), setting)
        losses.append([trainer.train_step()["train_loss"] for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_cuda_learns_like_the_cpu(dataset, tiny_config, tmp_path):
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0))
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = GPT(config.model).to(device)
        trainer = trainer_module.Trainer(config, model, dataset, tmp_path / device, device)
        losses.append([trainer.train_step()["train_loss"] for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # bfloat16 has 8 bits
