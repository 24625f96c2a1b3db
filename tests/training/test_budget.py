import dataclasses
import math
import re
from fractions import Fraction
from functools import cache, partial
from types import SimpleNamespace

import pytest
from helpers import python_text, write_dataset

from gpt import InputError, TrainConfig
from gpt.analysis.cost import parameter_count
from gpt.commands.train import settle
from gpt.commands.train_options import parse_train
from gpt.dataset.loader import Loader
from gpt.dataset.mixture import mix_datasets
from gpt.distributed.world import World
from gpt.presets import preset
from gpt.suits import preset_for
from gpt.training import budget
from gpt.training.budget import Asked, budgeted, suited
from gpt.training.forecast import Timings
from gpt.training.validation import evaluates_completely, validation_windows


def parsed(path, *arguments):
    return parse_train([*map(str, arguments), "--data", str(path), "--device", "cpu"])


parsed_once = cache(parsed)  # what no file changes: it takes longer than all that is tested of it


def settled(dataset, *arguments, resumes=False):
    command = (parsed if resumes else parsed_once)(dataset.path, *arguments)
    assert command.resumes == resumes
    return settle(command, dataset, World("cpu"))


def epochs(config, dataset):
    loader = Loader(dataset.train, config.batch_sequences, config.model.context_length, 0)
    return config.steps * config.batch_sequences / loader.windows


@pytest.mark.parametrize(("tokens", "times"), [(5_000, 1), (20_000, 1), (60_000, 12)])
def test_a_text_is_read_as_suits_it_and_evaluated_at_least_ten_times_where_nobody_says(tokens, times, said, tmp_path):
    text = python_text()[:tokens]
    documents = [("train", text[: tokens * 9 // 10]), ("validation", text[tokens * 9 // 10 :])]
    dataset = write_dataset(documents, "auto", tmp_path / "data")
    for arguments in ((), ("nano",)):
        config = settled(dataset, *arguments)
        once = math.ceil(dataset.train.tokens / config.batch_tokens)  # a named one keeps its batch: ten, at least
        assert config.steps <= max(10, once if arguments else times * once)
        assert epochs(config, dataset) > (0.9 if arguments else 0.9 * times)
        assert arguments or epochs(config, dataset) < 1.2 * times
        assert config.steps // config.evaluation.every >= 10
        assert config.optimizer.warmup_steps <= max(1, config.steps // 9)
    assert config.model == dataclasses.replace(preset("nano").model, vocab_size=257)  # named: its shape is kept
    assert re.match(r"[\d,]+ tokens to learn from: [\d.]+ epochs, [\d,]+ steps of [\d,]+ tokens; dropout", said[-1])


def test_what_is_named_by_flag_or_file_is_kept(dataset, said, tmp_path):
    (tmp_path / "file.toml").write_text("steps = 7\n[model]\ndropout = 0.05\n")
    config = settled(dataset, "--config", tmp_path / "file.toml", "--model.ngram=3", "--batch_tokens", 512)
    assert (config.steps, config.model.dropout, config.model.ngram, config.batch_tokens) == (7, 0.05, 3, 512)
    assert config.optimizer.learning_rate == 0.01  # not named: by the size of the text
    assert settled(dataset, "--evaluation.every", "5").evaluation.every == 5


def test_epochs_become_steps_exactly(dataset, said):
    for wanted in (3, 0.5, 1):
        config = settled(dataset, "--epochs", wanted)
        assert epochs(config, dataset) == pytest.approx(wanted, abs=config.batch_tokens / dataset.train.tokens)
        dropout, decay = config.model.dropout, config.optimizer.weight_decay
        assert f" tokens; dropout {dropout:g}, weight decay {decay:g}, " in said[-1]
    assert "warning" not in said[-1]


@pytest.mark.parametrize("length", [("--epochs", 40), ("--steps", 10_000)])
def test_too_many_epochs_are_told_with_what_would_be_right(dataset, said, length):
    settled(dataset, *length)
    warning = said[-1].splitlines()[-1]
    assert re.match(
        r"warning: [\d.e+]+ epochs of 36,\d+ tokens: it will learn them by heart; try `epochs` 12 ", warning
    )
    assert 1 <= int(re.search(r"`steps` (\d+)", warning)[1]) < 1000


def test_minutes_become_steps_by_this_machines_pace(said, monkeypatch, tmp_path):
    text = python_text()
    dataset = write_dataset([("train", text[:36_000]), ("validation", text[36_000:40_000])], "bytes", tmp_path / "data")
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=0.5, window=1e-9))
    assert settled(dataset, "--minutes", 2).steps == 240
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=0.5, window=0.01))  # 32 windows, 10 times
    assert 200 <= settled(dataset, "--minutes", 2).steps < 240
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=5.0, window=0.2))  # most of the time, if all
    assert settled(dataset, "--minutes", 2).steps > 12  # evaluations predict less
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=0.5, window=1.0))  # longer than all the time
    config = settled(dataset, "--minutes", 2, "--evaluation.tokens", 10_000)  # which are named: there is one
    assert config.steps >= 1
    assert config.evaluation.every == config.steps


@pytest.mark.parametrize(
    "lengths", [("--steps", 5, "--epochs", 2), ("--epochs", 2, "--minutes", 1), ("--minutes", 1, "--steps", 3)]
)
def test_one_length_is_enough(lengths):
    with pytest.raises(InputError, match="give one of them"):
        parse_train([*map(str, lengths), "--device", "cpu"])


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("minutes", -1), ("epochs", float("nan"))])
def test_a_length_is_above_zero(name, value):
    with pytest.raises(InputError, match=f"`{name}` is .*; it must be above 0"):
        Asked(**{name: value})


def test_a_resumed_run_keeps_its_steps_and_a_finished_one_gets_the_minutes(trained_run, dataset, said, monkeypatch):
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=1.0, window=1e-9))
    on = ("--run-dir", trained_run, "--resume")
    assert settled(dataset, *on, resumes=True).steps == 30
    assert settled(dataset, *on, "--minutes", 1, resumes=True).steps == 30 + 60
    assert settled(dataset, *on, "--steps", 50, resumes=True).steps == 50
    half = settled(dataset, *on, "--epochs", 100, resumes=True)
    assert epochs(half, dataset) == pytest.approx(100, abs=0.1)
    monkeypatch.setattr("gpt.commands.train._last_step", lambda run: 20)
    assert settled(dataset, *on, "--minutes", 1, resumes=True).steps == 30
    assert "it goes on to" in said[-1] or "goes on to first" in said[-1]


@pytest.fixture
def finished_wsd(finished, tiny_config):
    """A run of 40 steps, of which the last 16 came down."""
    optimizer = dataclasses.replace(tiny_config.optimizer, schedule="wsd", decay_ratio=0.4, min_lr_ratio=0.0)
    return finished(dataclasses.replace(tiny_config, steps=40, optimizer=optimizer))


@pytest.mark.parametrize(("minutes", "jump"), [(2, False), (0.3, False), (2, True)])
def test_more_minutes_are_counted_from_where_the_run_goes_on(
    finished_wsd, dataset, said, monkeypatch, make_training, minutes, jump
):
    """With wsd that is before the decay, and not the end, unless a jump is allowed."""
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=1.0, window=1e-9))
    allowed = ["--allow-rate-jump"] if jump else []
    arguments = ("--run-dir", finished_wsd, "--resume", "--minutes", minutes, *allowed)
    config = settled(dataset, *arguments, resumes=True)
    training = make_training(config, resume=True, allow_rate_jump=jump)
    assert training.state.step == (40 if jump else 24)
    assert config.steps - training.state.step == 60 * minutes
    counts = [line for line in said if "step" in line and ("`minutes`" in line or "to learn from" in line)]
    assert f": {60 * minutes:.0f} more steps and " in counts[0]
    assert f", {config.steps} steps in all of " in counts[1]


@pytest.mark.parametrize("minutes", [0.05, 16 / 60, 16.5 / 60])
def test_minutes_that_add_nothing_to_a_run_that_must_go_back_are_refused(
    finished_wsd, dataset, said, monkeypatch, minutes
):
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=1.0, window=1e-9))
    with pytest.raises(InputError, match=r"goes on from step 24, .* has done 16 steps from there already; .* would do"):
        settled(dataset, "--run-dir", finished_wsd, "--resume", "--minutes", minutes, resumes=True)


def test_a_context_that_nobody_named_shrinks_to_the_text(said, tmp_path):
    documents = [("train", "one two three " * 60), ("validation", "four five six " * 6)]
    dataset = write_dataset(documents, "bytes", tmp_path / "data")
    config = settled(dataset, "shakespeare-char-cpu", "--model.vocab-size", 257)
    assert config.model.context_length == 64
    config = settled(dataset, "gpt2", "--model.vocab-size", 257)
    assert config.model.context_length == 64
    assert config.batch_tokens % 64 == 0
    with pytest.raises(InputError, match="one window needs 129"):
        settled(dataset, "nano", "--model.context-length", 128)


def test_asked_of_nothing_names_nothing():
    assert not Asked().length
    assert Asked(settings=frozenset({"steps"})).length
    assert TrainConfig().steps == 1000


@pytest.fixture
def large(dataset):
    """A dataset as it would be with so many tokens to learn from, and to validate on."""

    def make(train, validation):
        splits = (SimpleNamespace(name="split", tokens=int(number)) for number in (train, validation))
        return dataclasses.replace(dataset, **dict(zip(("train", "validation"), splits, strict=True)))

    return make


@pytest.mark.parametrize(("train", "validation"), [(3.2e6, 134e3), (12e6, 1.3e6), (110e6, 12.5e6), (12.5e9, 12.5e6)])
@pytest.mark.parametrize("arguments", [(), ("nano",), ("gpt2",)])
def test_of_a_large_corpus_evaluations_take_a_quarter_of_the_time_at_most(large, said, train, validation, arguments):
    """A forward pass is a third of a step's work; the complete split comes on top, if it is shorter than training."""
    text = large(train, validation)
    config = settled(text, *arguments)
    windows, learned = validation_windows(config, text), config.steps * config.batch_tokens
    times = config.steps // config.evaluation.every
    assert times >= 10
    assert times * windows.targets / 3 <= 0.34 * learned
    assert evaluates_completely(config, text) == (not windows.is_complete and validation / 3 <= learned)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((), "nano-deep"),
        (("--epochs", 5, "--model.dropout", 0.3), "nano-deep"),
        (("--minutes", 1), "nano-deep"),
        (("--epochs", 1), "nano"),
        (("--steps", 50), "nano"),
        (("--max-epochs", 2), "nano"),
        (("--model.n-head", 10), "nano"),
        (("--model.ngram", 2), "nano"),
        (("nano",), "nano"),
    ],
)
def test_a_small_text_is_read_often_where_nothing_speaks_against_it(large, said, monkeypatch, arguments, name):
    monkeypatch.setattr(budget, "measure_timings", lambda *_: Timings(step=0.5, window=1e-9))
    config = settled(large(54_000, 6_000), *arguments)
    assert config.preset == name
    assert config.model.n_layer == (4 if name == "nano-deep" else 1)
    assert (config.optimizer.weight_decay > 0) == (name == "nano-deep")
    assert ("preset nano-deep: a text so small that it is read often" in said) == (name == "nano-deep")


@pytest.mark.parametrize(
    ("tokens", "name", "decay"),
    [
        (5_000, "nano", 0),
        (50_000, "nano-deep", 0.4),
        (200_000, "nano-deep", 0.2),
        (700_000, "nano", 0),
        (4_000_000, "gpt2-small-corpus", 1.9),
    ],
)
def test_where_there_is_a_gpu_the_size_decides_on_all_as_well(large, said, tokens, name, decay):
    begun, _ = preset_for("cuda", "scratch")
    config = suited(begun, Asked(), large(tokens, 10_000), "cuda")
    wanted, _ = preset_for("cuda", "scratch", tokens, often=True)
    optimizer = dataclasses.replace(wanted.optimizer, weight_decay=decay)
    assert config == dataclasses.replace(wanted, optimizer=optimizer)
    assert config.preset == name


@pytest.mark.parametrize("name", ["gpt2", "gpt2-modern", "nano", "nano-deep", "gpt2-small-corpus"])
def test_a_named_preset_reads_a_text_as_often_on_every_device(large, said, name):
    asked, text = Asked(preset=True), large(20_000_000, 100_000)
    on_cpu, on_cuda = (budgeted(preset(name), asked, text, World(device)) for device in ("cpu", "cuda"))
    assert on_cuda == on_cpu


def test_so_it_is_in_750_steps_at_most(large, said):
    text = large(300_000, 30_000)
    assert settled(text).steps == 750
    assert epochs(settled(text), text) == pytest.approx(5.1, abs=0.1)


def test_no_part_of_a_mixture_is_read_often(dataset, other_dataset, said):
    command = parse_train(["--data", f"{dataset.path}=1", f"{other_dataset.path}=1", "--device", "cpu"])
    mixed = mix_datasets([(dataset, Fraction(1)), (other_dataset, Fraction(1))])
    assert settle(command, mixed, World("cpu")).preset == "nano"


def test_of_a_mixture_what_is_read_most_often_decides_how_soon_it_is_forgotten(large):
    """Of 3 and 50 million tokens, nine parts to one: as 10/9 of the smaller."""
    shares = {3e6: Fraction(9, 10), 50e6: Fraction(1, 10)}
    sources = [SimpleNamespace(dataset=large(tokens, 1e5), weight=share) for tokens, share in shares.items()]
    tokenizer = SimpleNamespace(vocab_size=2048)
    mixed, alone = SimpleNamespace(sources=sources, tokenizer=tokenizer), large(3e6 * 10 / 9, 1e5)
    config = preset("gpt2-small-corpus")
    one = SimpleNamespace(sources=[SimpleNamespace(dataset=alone, weight=Fraction(1))], tokenizer=tokenizer)
    assert budget._forgetting(config, mixed) == budget._forgetting(config, one)
    assert budget._forgetting(dataclasses.replace(config, init_from="runs/a"), one) == {}


@pytest.mark.parametrize("tokens", [4e6, 25e6])
def test_a_small_corpus_is_read_ten_times_and_forgotten_in_fewer_epochs_the_smaller_it_is(large, said, tokens):
    text = large(tokens, tokens / 10)
    small = partial(settled, text, "gpt2-small-corpus")
    config = small()
    assert epochs(config, text) == pytest.approx(10, abs=0.05)
    assert "warning" not in said[-1]
    memory = config.batch_tokens / tokens / (config.optimizer.muon_learning_rate * config.optimizer.weight_decay)
    assert memory == pytest.approx(2 * (tokens / parameter_count(config.model)) ** 0.5, rel=0.05)  # in epochs
    assert small("--epochs", 5).optimizer.weight_decay == config.optimizer.weight_decay
    assert small("--optimizer.weight-decay", 0.7).optimizer.weight_decay == 0.7
    assert settled(text, "gpt2-modern", "--epochs", 10).optimizer.weight_decay == 0
    adamw = small("--optimizer.name", "adamw").optimizer
    assert adamw.weight_decay * adamw.learning_rate == pytest.approx(config.optimizer.weight_decay * 0.02, rel=0.05)


def test_weights_are_not_forgotten_within_a_few_steps(large, said):
    config = settled(large(3e5, 3e4), "gpt2-small-corpus")
    assert config.optimizer.muon_learning_rate * config.optimizer.weight_decay == pytest.approx(1 / 20)
    assert config.optimizer.weight_decay != preset("gpt2-small-corpus").optimizer.weight_decay


def test_what_an_evaluation_predicts_is_as_named(large, said):
    text = large(110e6, 12.5e6)
    assert settled(text, "--evaluation.tokens", 5_000_000).evaluation.tokens == 5_000_000
    assert settled(text, "--steps", 100).evaluation.tokens == 200_000
    assert settled(text, "--epochs", 100).evaluation.tokens == 10_000_000


def planned_seconds(config, text, timings, done=0):
    """What the steps after those done take, with their evaluations, in all and by evaluating."""
    steps, every = config.steps - done, config.evaluation.every
    windows = (-(-steps // every) if every else 1) * len(validation_windows(config, text))
    windows += evaluates_completely(config, text) * len(validation_windows(config, text, complete=True))
    return steps * timings.step + windows * timings.window, windows * timings.window


TIMINGS = [
    Timings(step=0.1, window=128 / 60_000),
    Timings(step=6.8, window=128 / 900),
    Timings(step=0.001, window=128 / 6e6),
]


@pytest.mark.parametrize("minutes", [1, 200])
@pytest.mark.parametrize("validation", [4e3, 134e3, 1e6, 4e6, 5e6, 8e6, 12e6])
@pytest.mark.parametrize("named", [(), ("--evaluation.every", 5), ("--evaluation.tokens", 30_000)], ids=str)
def test_minutes_hold_the_evaluations_as_well(large, said, monkeypatch, minutes, validation, named):
    """And are used up: what is left out at the end leaves its time to the steps."""
    text = large(10 * validation, validation)
    command = parsed_once(text.path, "nano", "--batch-tokens", 2048, "--minutes", minutes, *named)
    for timings in TIMINGS:
        monkeypatch.setattr(budget, "measure_timings", lambda *_, timings=timings: timings)
        config = settle(command, text, World("cpu"))
        in_all, evaluating = planned_seconds(config, text, timings)
        assert in_all <= 60 * minutes * 1.01 or config.steps <= 2
        if config.steps > 100:  # some steps more would not fit, but where the complete split comes in at just as many
            more = dataclasses.replace(config, steps=round(config.steps * 1.1) + 1)
            assert planned_seconds(more, text, timings)[0] > 60 * minutes * 0.99
            assert evaluating < 0.65 * 60 * minutes or named
        times = -(-config.steps // config.evaluation.every)
        assert f"{config.steps:,} step" in said[-2]
        assert f" {times} evaluation" in said[-2]


def test_minutes_of_a_finished_run_count_the_evaluations_that_it_makes(trained_run, dataset, large, said, monkeypatch):
    """It keeps how often it evaluates, and is long enough now for its complete split."""
    text, done = large(1e6, 30e3), 30
    for tokens in (640, 10_000_000):
        timings = Timings(step=0.05, window=0.01)
        monkeypatch.setattr(budget, "measure_timings", lambda *_, timings=timings: timings)
        on = ("--run-dir", trained_run, "--resume", "--minutes", 2, "--evaluation.tokens", tokens)
        config = settled(text, *on, resumes=True)
        assert config.evaluation.every == 10
        assert planned_seconds(config, text, timings, done)[0] == pytest.approx(120, rel=0.1)


def test_a_preset_that_evaluates_at_its_end_only_has_a_budget_too(large, said):
    text = large(110e6, 12.5e6)
    config = settled(text, "shakespeare-char-modern", "--model.vocab-size", 257)
    assert config.evaluation.every == 0
    assert config.evaluation.tokens <= config.steps * config.batch_tokens
    often = settled(text, "nano", "--evaluation.every", 5)
    windows = -(-often.steps // 5) * len(validation_windows(often, text))
    assert windows * 128 / 3 <= 0.35 * often.steps * often.batch_tokens


# ---- several datasets ----


@pytest.fixture
def settled_mixture(dataset, other_dataset):
    """Settles the steps of a mixture, of which each part is the share of a dataset."""

    def settle_it(*arguments, parts=(Fraction(8, 10), Fraction(2, 10))):
        paths = (dataset.path, other_dataset.path)
        data = [f"{path}={float(part):g}" for path, part in zip(paths, parts, strict=True)]
        command = parse_train(["nano", *map(str, arguments), "--data", *data, "--device", "cpu"])
        return settle(command, mix_datasets([*zip((dataset, other_dataset), parts, strict=True)]), World("cpu"))

    return settle_it


def test_how_often_each_source_is_read_is_said(settled_mixture, said):
    settled_mixture("--steps", 10, "--batch-tokens", 2048)
    lines = said[-1].splitlines()
    assert re.fullmatch(r"python is read 0\.4\d+ times: 80\.0% of all tokens, of its 36,\d+", lines[-2])
    assert re.fullmatch(r"more is read 0\.4\d+ times: 20\.0% of all tokens, of its 10,\d+", lines[-1])
    assert "the weights add up" not in said[-1]
    settled_mixture("--steps", 10, parts=(Fraction(4), Fraction(2)))
    assert "the weights add up to 6; their proportions count" in said[-1]


def test_a_source_that_would_be_read_too_often_is_refused_with_the_most_steps(settled_mixture, said):
    uneven = (Fraction(1, 10), Fraction(9, 10))
    with pytest.raises(InputError, match=r"more would be read .* times, and at most 4 are allowed") as error:
        settled_mixture("--steps", 60, parts=uneven)
    most, times = (int(re.search(rf"{name} (\d+)", str(error.value))[1]) for name in ("use `steps`", "`max_epochs`"))
    assert settled_mixture("--steps", most, parts=uneven).steps == most
    with pytest.raises(InputError, match="would be read"):
        settled_mixture("--steps", most + 1, parts=uneven)
    assert settled_mixture("--steps", 60, "--max-epochs", times, parts=uneven).steps == 60
    with pytest.raises(InputError, match="would be read"):
        settled_mixture("--steps", 60, "--max-epochs", times - 1, parts=uneven)


def test_steps_that_nobody_named_keep_to_the_limit(settled_mixture, said):
    for limit in (0.5, 2):
        config = settled_mixture("--max-epochs", limit, parts=(Fraction(1, 10), Fraction(9, 10)))
        assert config.steps >= 1
        assert float(re.search(r"more is read ([\d.]+) times", said[-1])[1]) <= limit


def test_one_dataset_has_a_limit_only_where_it_is_given(dataset, said):
    assert settled(dataset, "nano", "--epochs", 9).steps > 1
    with pytest.raises(InputError, match=r"python would be read 9(\.\d+)? times, and at most 8 are allowed: use"):
        settled(dataset, "nano", "--batch-tokens", 2048, "--epochs", 9, "--max-epochs", 8)
    with pytest.raises(InputError, match="`max_epochs` is 0.0; it must be above 0"):
        settled(dataset, "--max-epochs", 0)


def test_not_even_one_step_may_be_too_much(settled_mixture):
    with pytest.raises(InputError, match="are allowed: use a smaller weight, more text, or `max_epochs` 1"):
        settled_mixture("--steps", 1, "--max-epochs", 0.001)


def test_steps_beyond_counting_are_refused_too(settled_mixture):
    with pytest.raises(InputError, match="would be read"):
        settled_mixture("--steps", 2**63)
