import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gpt import TrainConfig
from gpt.presets import MUON
from gpt.training import summary, validation
from gpt.training.state import OverfittingWatch, TrainState
from gpt.training.summary import overfitted, still_improving


def hear(losses):
    """What the watch says to (training loss, validation loss) pairs, an evaluation every second step."""
    said, watch = [], OverfittingWatch()
    for number, (train_loss, val_loss) in enumerate(losses):
        said.append(watch.hear({"step": 2 * number + 1, "train_loss": train_loss}))
        watch = OverfittingWatch(**json.loads(json.dumps(asdict(watch))))  # as a resume has it
        said.append(watch.hear({"step": 2 * number + 2, "train_loss": train_loss, "val_loss": val_loss}))
    return [words for words in said if words]


@pytest.mark.parametrize(
    "losses",
    [
        [(5.0, 5.1), (3.0, 3.2), (2.0, 2.5)],  # it learns
        [(5.0, 5.1), (3.0, 3.2), (2.9, 3.24), (2.5, 3.1)],  # a rise that is small
        [(5.0, 5.1), (3.0, 3.2), (4.0, 4.2), (3.0, 3.0)],  # a rise of both: a rate too high
        [(5.0, 5.1), (None, None), (3.0, 3.2)],  # a step that was skipped, a loss that is no number
    ],
)
def test_what_learns_is_not_warned(losses):
    assert hear(losses) == []


def test_validation_that_rises_while_training_falls_is_told_once():
    (said,) = hear([(5.0, 5.1), (3.0, 4.7), (2.0, 5.0), (0.1, 8.4)])
    assert said == (
        "step 6: it has begun to learn the text by heart: validation is 5.0000, above its best of 4.7000, "
        "while training fell to 2.0000; the best is kept"
    )


def words(best, last, monkeypatch, step=45, optimizer=None):
    monkeypatch.setattr(summary, "read_metrics", lambda run: [{"train_loss": 0.1}, {"train_loss": None}])
    state, config = TrainState(last_validation_loss=last), TrainConfig()
    config = replace(config, optimizer=optimizer or config.optimizer)
    return overfitted(
        Path("run"), config, state, {"evaluation": None if best is None else {"loss": best}, "step": step}
    )


def test_the_last_table_says_whether_it_was_too_long(monkeypatch):
    assert words(4.7, 4.74, monkeypatch) is None
    assert words(None, None, monkeypatch) is None
    assert words(4.7, 8.42, monkeypatch).startswith(
        "yes: validation ended at 8.4200, the training loss 0.1000; the best, 4.7000, was at step 45, which is what "
        "sample.py uses"
    )
    assert "to guess among all tokens alike gives 10.8249" in words(10.9, 11.0, monkeypatch)  # ln 50,257
    from_the_first = words(4.7, 8.42, monkeypatch, step=0)
    assert from_the_first.startswith("yes, from the first step: validation ended at 8.4200, ")
    advice = "the weights that it began with have 4.7000, and are what sample.py uses. Try a lower rate"
    assert f"{advice} (--optimizer.learning-rate 0.0002), or more text" in from_the_first
    by_muon = replace(MUON, muon_learning_rate=0.03)
    lower = "(--optimizer.learning-rate 0.0067 --optimizer.muon-learning-rate 0.01)"
    assert f"{advice} {lower}" in words(4.7, 8.42, monkeypatch, step=0, optimizer=by_muon)
    assert "fewer epochs" not in from_the_first


@pytest.mark.parametrize(
    ("losses", "step", "ends_early"),  # an evaluation each half of an epoch, under a line to 0
    [
        ([5.0, 4.9, 4.8, 4.7, 4.65, 4.62, 4.6], 6, True),  # 0.2, 0.15 and 0.05, of rates that are as 5 to 3 to 1
        ([5.0, 4.6, 4.3, 4.1, 4.0, 3.96, 3.93], 6, False),  # 0.7, 0.3 and 0.07: a sound run at its end
        ([5.0, 4.99, 4.98, 4.97, 4.965, 4.961, 4.959], 6, False),  # next to nothing, from the first
        ([5.0, 4.9, 4.8, 4.7, 4.65, 4.6, 4.62], 5, False),  # the best is not the last
        ([5.0, 4.9, 4.8, 4.7, 4.6], 4, False),  # of two epochs, of which the second gains much in any training
        ([5.0, 4.9], 1, False),  # less than an epoch in all
        ([5.0], 0, False),
        ([], 4, False),  # no records that can be read
    ],
)
def test_a_fine_tuning_that_ended_too_early_says_so(monkeypatch, losses, step, ends_early):
    evaluations = max(1, len(losses) - 1)
    records = [
        {"step": n, "epoch": n / 10, "train_loss": 1.0, "learning_rate": 1 - (n - 0.5) / (5 * evaluations)}
        | ({"val_loss": losses[n // 5]} if n % 5 == 0 else {})
        for n in range(5 * len(losses) - 4 if losses else 0)
    ]
    monkeypatch.setattr(summary, "read_metrics", lambda run: records)
    state, tuned = TrainState(step=5 * evaluations, best_step=5 * step), TrainConfig(init_from="base")
    found = still_improving(Path("run"), tuned, state)
    assert (found is not None) == ends_early
    if found:
        assert "perhaps: the last step is the best, and the last epoch gained 0.0500 nats of validation" in found
        assert "--epochs 6 --early-stopping-patience 3" in found
    assert still_improving(Path("run"), TrainConfig(), state) is None  # from scratch it is as it should be


def test_a_resumed_run_warns_of_learning_by_heart_when_an_undisturbed_one_does(
    make_training, tiny_config, monkeypatch, said
):
    """The warning compares with losses from before the stop, and comes once; also where not every step is logged."""
    honest_summary = validation.summarize
    config = replace(tiny_config, steps=16, log_every=5, evaluation=replace(tiny_config.evaluation, every=4))

    def lines(name, stops):
        losses, before = iter([4.0, 3.0, 6.0, 7.0]), len(said)
        monkeypatch.setattr(validation, "summarize", lambda *sums: replace(honest_summary(*sums), loss=next(losses)))
        for number, stop_at in enumerate(stops):
            training = make_training(replace(config, stop_at=stop_at), name, resume=number > 0)
            training.around_steps(lambda do, state=training.state: do() | {"train_loss": 5 - state.step / 4})
            training.fit()
        return [line for line in said[before:] if "by heart" in line]

    whole = lines("whole", [None])
    assert len(whole) == 1
    assert whole[0].startswith("step 12: it has begun to learn the text by heart: validation is 6.0000")
    assert lines("parts", [6, 9, 13, None]) == whole
