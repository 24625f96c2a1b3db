import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from gpt.evaluation.loss import evaluate, sums_per_piece
from gpt.evaluation.windows import Windows
from gpt.evaluation.words import format_evaluation


def windows_of(dataset, context_length=48, **options):
    return Windows(dataset.validation, context_length, dataset.tokenizer.end_of_text, **options)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_evaluation_is_token_weighted_over_the_complete_split(model, dataset, batch):
    """Against one window at a time in float64; the last window is shorter, so a mean of means would differ."""
    stream = torch.from_numpy(dataset.validation.read(0, dataset.validation.tokens))
    nats, count = 0.0, 0
    double = type(model)(model.config).double().eval()
    double.load_state_dict(model.state_dict())
    for start in range(0, len(stream) - 1, 48):
        window = stream[start : start + 49]
        nats += F.cross_entropy(double(window[None, :-1])[0], window[1:], reduction="sum").item()
        count += len(window) - 1
    assert count == len(stream) - 1
    result = evaluate(model, windows_of(dataset), dataset.tokenizer.byte_lengths(), "cpu", batch=batch)
    text = dataset.tokenizer.decode(stream[1:].tolist()).replace("<|endoftext|>", "")
    assert result.tokens == count
    assert result.text_bytes == len(text.encode())
    assert result.loss == pytest.approx(nats / count, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / result.text_bytes, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / count), rel=1e-3)


def test_documents_are_evaluated_as_each_is_alone(model, dataset):
    """With a mask, each piece of a window, from the end-of-text before it, is a sequence of its own."""
    stream, end = dataset.validation.read(0, dataset.validation.tokens), dataset.tokenizer.end_of_text
    nats, whole = 0.0, []
    for start in range(0, len(stream) - 1, 48):
        window = torch.from_numpy(stream[start : start + 49])
        begins = [0, *(t for t in range(1, len(window) - 1) if window[t] == end), len(window) - 1]
        for begin, stop in pairwise(begins):
            piece = window[begin : stop + 1]
            nats += F.cross_entropy(model(piece[None, :-1])[0].detach(), piece[1:], reduction="sum").item()
            whole += piece[1:].tolist()
    assert whole == stream[1:].tolist()
    lengths = dataset.tokenizer.byte_lengths()
    masked, plain = (evaluate(model, windows_of(dataset, document_mask=mask), lengths, "cpu") for mask in (True, False))
    assert masked.loss == pytest.approx(nats / len(whole), rel=1e-5)
    assert masked.loss != pytest.approx(plain.loss, rel=2e-5)
    assert masked.tokens == plain.tokens
    assert ("protocol", "context 48, stride 48, inside documents") in format_evaluation(masked)
    assert ("protocol", "context 48, stride 48") in format_evaluation(plain)


def test_parts_add_up_to_the_whole_after_equally_many_forward_passes(model, dataset):
    """As three processes would do it: one more than the windows divide into, so that some have nothing left to do."""
    arguments = (model, windows_of(dataset), dataset.tokenizer.byte_lengths(), "cpu", torch.float32, 4)
    whole = sums_per_piece(*arguments)
    passes, parts = [], []
    for number in range(3):
        calls = []
        handle = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        parts.append(sums_per_piece(*arguments, part=(number, 3)))
        handle.remove()
        passes.append(len(calls))
    assert len(set(passes)) == 1
    assert torch.allclose(sum(parts), whole, rtol=1e-6)
    assert torch.equal((parts[0] != 0).sum(0) + (parts[1] != 0).sum(0) + (parts[2] != 0).sum(0), (whole != 0).sum(0))


def test_evaluation_ends_when_asked_between_batches(model, dataset):
    asked = iter([False, False, True])
    arguments = (model.train(), windows_of(dataset), dataset.tokenizer.byte_lengths(), "cpu", torch.float32, 4)
    assert sums_per_piece(*arguments, stop=lambda fault: next(asked)) is None
    assert model.training
    assert next(asked, "used up") == "used up"


def test_evaluation_leaves_the_model_as_it_was(model, dataset):
    for training in (True, False):
        model.train(training)
        evaluate(model, windows_of(dataset), dataset.tokenizer.byte_lengths(), "cpu")
        assert model.training is training
