import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gpt import TrainConfig
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


def words(best, last, monkeypatch, step=45):
    monkeypatch.setattr(summary, "read_metrics", lambda run: [{"train_loss": 0.1}, {"train_loss": None}])
    state = TrainState(last_validation_loss=last)
    return overfitted(
        Path("run"), TrainConfig(), state, {"evaluation": None if best is None else {"loss": best}, "step": step}
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
    assert "the weights that it began with have 4.7000, and are what sample.py uses. Try a lower rate" in from_the_first
    assert "fewer epochs" not in from_the_first


@pytest.mark.parametrize(
    ("losses", "step", "words"),
    [
        ([5.0, 4.5, 4.2, 4.0, 3.9], 4, "the last epoch gained 0.3000 nats of validation: train longer, such as by --e"),
        ([5.0, 4.5, 4.2, 4.2, 4.19], 4, None),  # next to nothing
        ([5.0, 4.5, 4.2, 4.0, 4.1], 3, None),  # the best is not the last
        ([5.0, 4.9], 1, "the last epoch gained 0.1000 nats of validation"),  # less than an epoch in all
        ([5.0], 0, None),
        ([], 4, None),  # no records that can be read
    ],
)
def test_a_fine_tuning_that_ended_too_early_says_so(monkeypatch, losses, step, words):
    records = [{"step": n, "val_loss": loss, "epoch": n / 2} for n, loss in enumerate(losses)]
    monkeypatch.setattr(summary, "read_metrics", lambda run: records)
    state, tuned = TrainState(step=len(losses) - 1 if losses else 4, best_step=step), TrainConfig(init_from="base")
    found = still_improving(Path("run"), tuned, state)
    assert (found is None) == (words is None)
    if words:
        assert words in found
        assert "--epochs" in found
    assert still_improving(Path("run"), TrainConfig(), state) is None  # from scratch it is as it should be


def test_a_resumed_run_warns_of_learning_by_heart_when_an_undisturbed_one_does(
    make_training, tiny_config, monkeypatch, said
):
    """The warning compares with losses from before the stop, and comes once; also where not every step is logged."""
    honest_summary = validation.summarize
    config = replace(tiny_config, steps=40, log_every=7)

    def lines(name, stops):
        losses, before = iter([4.0, 3.0, 6.0, 7.0]), len(said)
        monkeypatch.setattr(validation, "summarize", lambda *sums: replace(honest_summary(*sums), loss=next(losses)))
        for number, stop_at in enumerate(stops):
            training = make_training(replace(config, stop_at=stop_at), name, resume=number > 0)
            training.around_steps(lambda do, state=training.state: do() | {"train_loss": 5 - state.step / 10})
            training.fit()
        return [line for line in said[before:] if "by heart" in line]

    whole = lines("whole", [None])
    assert len(whole) == 1
    assert whole[0].startswith("step 30: it has begun to learn the text by heart: validation is 6.0000")
    assert lines("parts", [15, 24, 33, None]) == whole
