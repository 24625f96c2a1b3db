"""Masked data in training and evaluation: a gradient of answers alone, and figures of answers alone."""

import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import Training, exact, require_equal, weights
from instruction_files import lines_of, made

from gpt import InputError
from gpt.config import EvaluationConfig
from gpt.corpus.documents import ReadOptions
from gpt.corpus.examples import Examples
from gpt.dataset.mixture import mix_datasets
from gpt.evaluation.loss import evaluate
from gpt.evaluation.mixture import MixedWindows
from gpt.evaluation.windows import Windows
from gpt.evaluation.words import format_evaluation
from gpt.model import loss as loss_module
from gpt.model.loss import next_token_loss
from gpt.runs.directory import open_run
from gpt.text.chat_template import CHATML_SOURCE, PLAIN_SOURCE, Message
from gpt.text.templates import template_of
from gpt.training.start import training_loader

IGNORE = -100
LETTERS = (
    "{% for m in messages %}{{ 'ME ' if m.role == 'assistant' else 'YOU ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ME {% endif %}"
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Questions in bytes, of which the answers are learned."""
    home = tmp_path_factory.mktemp("answers")
    (home / "a.jsonl").write_text("\n".join(lines_of(150)))
    return made(home)


@pytest.fixture
def make(answers, tmp_path):
    """Builds a training of it, not begun."""

    def build(config, name="run", data=answers, resume=False):
        config = replace(config, run_dir=tmp_path / name, data=data.path)
        torch.manual_seed(config.seed)
        with open_run(config, data.tokenizer, resume) as run:
            return Training(config, data, run, resumes=resume)

    return build


@pytest.fixture
def masked_config(tiny_shape):
    model = replace(tiny_shape.model, dropout=0.0)
    evaluation = EvaluationConfig(every=10, sample_tokens=4)
    return replace(tiny_shape, model=model, evaluation=evaluation, windows="packed", document_mask=True)


def batch_of(dataset, tiny_shape, windows="packed", document_mask=True):
    config = replace(tiny_shape, windows=windows, document_mask=document_mask)
    return training_loader(config, dataset).batch(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_gradient_of_a_prompts_targets_is_exactly_zero(answers, tiny_shape, monkeypatch, chunked, dtype):
    """At the hidden state before each target that is part of a prompt; before all others it is not."""
    if chunked:
        monkeypatch.setattr(loss_module, "chunk_rows", lambda *_: 32)
    batch = batch_of(answers, tiny_shape)
    torch.manual_seed(0)
    hidden = torch.randn(*batch.inputs.shape, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(257, 16, dtype=dtype, requires_grad=True)
    next_token_loss(hidden, weight, batch.targets).backward()
    counted = batch.targets != IGNORE
    assert 0 < counted.sum() < counted.numel() / 2
    assert (hidden.grad[~counted] == 0).all()
    assert (hidden.grad[counted].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("windows", ["stream", "packed"])
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_the_gradient_is_that_of_the_answers_alone(answers, tiny_shape, name, windows):
    """In float64, beside the sum over the answers' log-probabilities, for a model with every option, too."""
    loader = training_loader(replace(tiny_shape, windows=windows, document_mask=True), answers)
    batch, model = loader.batch(0), exact(name)
    model(batch.inputs, targets=batch.targets, documents=batch.documents).backward()
    found = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    logprobs = model(batch.inputs, documents=batch.documents)[..., :257].log_softmax(-1)
    ids = answers.train.read(0, answers.train.tokens).tolist()
    learned, terms = learned_by_the_text(ids), []
    for row, sample in enumerate(loader.samples(0)):
        column = 0
        for start, length in loader.spans(sample):
            terms += [
                logprobs[row, column + place, ids[start + place + 1]]
                for place in range(length)
                if learned[start + place + 1]
            ]
            column += length
    assert len(terms) > 20
    (-torch.stack(terms).sum()).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("template", [PLAIN_SOURCE, CHATML_SOURCE, LETTERS], ids=["plain", "chatml", "file"])
def test_of_a_conversation_nothing_but_answers_and_their_ends_has_a_gradient(tmp_path, tiny_shape, template):
    """Exactly zero at all other targets. What is learned is found here by the words of the answers alone."""
    written = template_of(template)
    end = {PLAIN_SOURCE: "\n### User:", CHATML_SOURCE: "<|im_end|>", LETTERS: "\nYOU"}[template]
    talks = [
        [Message("user", f"ask {n}"), Message("assistant", f"tell {n}."), Message("user", "<|im_end|> tell 1."),
         Message("assistant", f"tell {n}, too.")]
        for n in range(60)
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"messages": [m._asdict() for m in t]}) for t in talks))
    data = made(tmp_path, Examples(template=template), how=ReadOptions(examples=True, template=template))
    batch = batch_of(data, tiny_shape)
    torch.manual_seed(0)
    hidden = torch.randn(*batch.inputs.shape, 16, requires_grad=True)
    next_token_loss(hidden, torch.randn(data.tokenizer.vocab_size, 16), batch.targets).backward()
    learned = batch.targets != IGNORE
    assert (hidden.grad[~learned] == 0).all()
    assert (hidden.grad[learned].abs().sum(-1) > 0).all()
    ids, mask = data.train.read(0, data.train.tokens), data.train.learned(0, data.train.tokens)
    ends = np.flatnonzero(ids == data.tokenizer.end_of_text) + 1
    last = "" if written.ends else "<|endoftext|>"
    for own, its in zip(np.split(ids, ends)[:-1], np.split(mask, ends)[:-1], strict=True):
        said = data.tokenizer.decode(own[its].tolist())
        number = re.match(r"tell (\d+)", said)[1]
        gap = "\n" if template == LETTERS else ""  # which this template writes behind an answer
        assert said == f"tell {number}.{end}tell {number}, too.{end if written.ends else gap + last}"


def learned_by_the_text(ids):
    """Tell of each byte of texts as 'What is 2 and 2? 4' whether it is of an answer, or the end-of-text after one."""
    learned, is_answer = [], False
    for place, token in enumerate(ids):
        learned.append(is_answer)
        is_answer = token != 256 and (is_answer or ids[place - 1 : place + 1] == [*b"? "])
    return learned


def test_micro_batches_of_rows_with_unequal_answers_are_one_batch(make, masked_config):
    """Each target weighs the same, however the rows are divided; one row has no answer at all."""
    norms = []
    for size in (1, 2, 6):
        training = make(replace(masked_config, micro_batch_size=size), str(size))
        batch = training.loader.batch(0)
        batch.targets[0] = IGNORE
        batch.targets[1, 3:] = IGNORE
        count = int((batch.targets != IGNORE).sum())
        loss, norm = training.trainer.gradient(0, batch, count)
        norms.append((loss, norm))
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert norms[2] == pytest.approx(norms[0], rel=1e-5)


def test_a_run_learns_answers(make, masked_config):
    training = make(replace(masked_config, steps=8, optimizer=replace(masked_config.optimizer, learning_rate=1e-2)))
    before = evaluate(training.model, training.validation.windows, np.ones(257), "cpu").loss
    records = [training.step() for _ in range(8)]
    after = evaluate(training.model, training.validation.windows, np.ones(257), "cpu").loss
    assert after < before - 0.5
    assert all("skipped" not in record for record in records)


def test_a_resumed_run_ends_with_the_same_weights_and_the_same_best(make, masked_config):
    """Its best loss, which is of the answers' tokens, is compared with those to come."""
    config = replace(masked_config, steps=4, checkpoint=replace(masked_config.checkpoint, every=2))
    config = replace(config, evaluation=replace(config.evaluation, every=1))
    whole = make(config, "whole")
    whole.fit()
    make(replace(config, stop_at=2), "parts").fit()
    resumed = make(config, "parts", resume=True)
    assert resumed.state.step == 2
    assert resumed.state.best_validation_loss is not None
    resumed.fit()
    assert resumed.state.best_validation_loss == whole.state.best_validation_loss
    require_equal(weights(resumed), weights(whole))


# ---- evaluation ----


def test_an_evaluation_predicts_the_answers_alone(answers):
    """Beside the plain formula over the windows, one after another."""
    model = exact("gpt2")
    windows = Windows(answers.validation, 48, 256)
    found = evaluate(model, windows, answers.tokenizer.byte_lengths(), "cpu")
    split = answers.validation
    ids, learned = torch.from_numpy(split.read(0, split.tokens)), split.learned(0, split.tokens)
    nats, tokens, size = 0.0, 0, 0
    for begin in range(0, split.tokens - 1, 48):
        part = ids[begin : begin + 49]
        with torch.no_grad():
            logprobs = model(part[None, :-1])[0, :, :257].log_softmax(-1)
        for place, target in enumerate(part[1:].tolist(), begin + 1):
            if learned[place]:
                nats -= float(logprobs[place - begin - 1, target])
                tokens += 1
                size += target != 256
    assert (found.tokens, found.text_bytes) == (tokens, size)
    assert found.loss == pytest.approx(nats / tokens, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(nats / size / np.log(2), rel=1e-6)
    assert windows.counted == tokens == windows.split_tokens - 1
    rows = dict(format_evaluation(found))
    assert rows["protocol"].endswith(", answers only")
    assert "the whole validation split" in rows["evaluated on"]
    assert found.loss_se > 0


def test_of_a_part_of_the_split_the_answers_in_it_are_counted(answers):
    windows = Windows(answers.validation, 16, 256, tokens=48)
    targets = sum(int((windows.read(range(n, n + 1))[1] != IGNORE).sum()) for n in range(len(windows)))
    assert windows.counted == targets < windows.split_tokens - 1


def test_windows_without_an_answer_are_refused_before_the_first_step(tmp_path, make, masked_config):
    (tmp_path / "a.jsonl").write_text("\n".join(line.replace("What", "What" * 60) for line in lines_of(80)))
    data = made(tmp_path)
    config = replace(masked_config, evaluation=replace(masked_config.evaluation, tokens=32))
    with pytest.raises(InputError, match="none of the 1 windows of the validation split .* more `evaluation.tokens`"):
        make(config, data=data)


def test_a_mixture_of_masked_and_plain_data_counts_what_each_teaches(answers, dataset, tiny_shape):
    mixture = mix_datasets([(answers, Fraction(1)), (dataset, Fraction(1))])
    batch = mixture.loader(8, 32, 0).batch(0)
    plain, masked = [], []
    for row in batch.targets:
        (plain if (row != IGNORE).all() else masked).append(row)
    assert plain and masked
    windows = MixedWindows(mixture.validation, mixture.sources, 32, 256)
    own = answers.validation
    assert windows.split_tokens - 1 == own.count_learned(1, own.tokens) + dataset.validation.tokens - 1
    windows.require_targets()
