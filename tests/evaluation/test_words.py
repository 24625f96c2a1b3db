import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpt.dataset.shards import Split
from gpt.evaluation.loss import Evaluation, summarize
from gpt.evaluation.windows import Windows
from gpt.evaluation.words import format_evaluation

RESULT = Evaluation(
    loss=2.0,
    loss_se=0.1,
    bits_per_byte=1.0,
    bits_per_byte_se=0.05,
    perplexity=math.exp(2),
    perplexity_se=0.1 * math.exp(2),
    tokens=999,
    text_bytes=3000,
    freedom=10.0,
    units="14 documents",
    split_tokens=1000,
    context_length=64,
    stride=32,
)


def test_each_figure_has_its_error_its_interval_and_its_protocol():
    assert format_evaluation(RESULT) == [
        ("validation loss", "2.0000 ± 0.1000 nats per token (95 %: 1.7772 to 2.2228)"),
        ("bits per byte", "1.0000 ± 0.0500 (95 %: 0.8886 to 1.1114)"),
        ("perplexity", "7.39 ± 0.74 (95 %: 5.91 to 9.23)"),
        ("evaluated on", "999 tokens, 3,000 bytes: the whole validation split"),
        ("protocol", "context 64, stride 32"),
        ("standard errors", "of 14 documents, taken as independent"),
    ]


def test_answers_only_is_said_of_what_it_is_so():
    def protocol(**changes):
        return dict(format_evaluation(replace(RESULT, **changes)))["protocol"]

    assert protocol(answers_only=True).endswith("stride 32, answers only")
    assert protocol(answers_of="chats, tasks").endswith("stride 32, answers only of chats, tasks")


def test_a_part_of_the_split_is_not_called_the_whole():
    rows = dict(format_evaluation(replace(RESULT, split_tokens=9991)))
    assert rows["evaluated on"] == "999 tokens, 3,000 bytes: 10.0% of the validation split, spread evenly"


def test_too_little_text_is_said_and_no_number_invented():
    nothing = {"loss_se": None, "bits_per_byte_se": None, "perplexity_se": None, "freedom": None, "units": ""}
    shown = "\n".join(figure for _, figure in format_evaluation(replace(RESULT, **nothing)))
    assert shown.count("too little text for a standard error") == 3
    assert "±" not in shown and "nan" not in shown


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1000.0])
def test_the_loss_of_a_diverged_model_has_no_error_that_is_no_number(loss):
    generator = np.random.default_rng(0)
    nats = generator.normal(10, 1, size=64) * loss
    windows = Windows(Split("validation", []), 8)
    windows.__dict__["documents"] = np.arange(64)
    result = summarize(torch.from_numpy(np.stack([nats, np.full(64, 10.0), np.full(64, 30.0)], axis=1)), windows)
    shown = "\n".join(figure for _, figure in format_evaluation(result))
    assert "± nan" not in shown and "± inf" not in shown
    assert "too little" not in shown


def test_evaluations_of_older_runs_are_shown_without_what_they_did_not_keep():
    kept = ("loss", "loss_se", "bits_per_byte", "bits_per_byte_se", "perplexity", "perplexity_se")
    older = Evaluation(**{name: getattr(RESULT, name) for name in (*kept, "tokens", "text_bytes")})
    assert [name for name, _ in format_evaluation(older)] == [
        "validation loss",
        "bits per byte",
        "perplexity",
        "evaluated on",
    ]
