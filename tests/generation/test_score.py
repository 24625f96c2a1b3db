import math

import pytest
import torch

from gpt import InputError, Tokenizer
from gpt.generation.score import score_ids, score_text

TOKENIZER = Tokenizer.utf8_bytes()


def test_scores_are_those_of_the_full_pass(model):
    ids = [i * 7 % 257 for i in range(48)]
    expected = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    scores = list(score_ids(model, TOKENIZER, ids, top_logprobs=2))
    assert [score.id for score in scores] == ids
    assert scores[0].logprob is None
    for t in range(1, 48):
        assert scores[t].logprob == pytest.approx(expected[t - 1, ids[t]].item(), abs=1e-4)
        assert [other.id for other in scores[t].top_logprobs] == expected[t - 1].topk(2).indices.tolist()


@pytest.mark.parametrize("length", [1, 2, 48, 49, 50, 73, 200])
def test_a_text_longer_than_the_context_is_scored_with_half_a_context_at_least(model, length):
    """Each of its tokens is as likely as in one of the windows that see between 24 and 48 before it."""
    ids = [i * 31 % 256 for i in range(length)]
    scores = list(score_ids(model, TOKENIZER, ids))
    assert [score.id for score in scores] == ids
    windows = torch.tensor([(ids + 48 * [0])[begin : begin + 48] for begin in range(length)])
    logprobs = model(windows).double().log_softmax(-1)
    for t in range(1, length):
        begins = range(t - 48, t - 23) if t > 48 else [0]
        found = [logprobs[begin, t - 1 - begin, ids[t]].item() for begin in begins]
        assert min(abs(value - scores[t].logprob) for value in found) < 1e-4


def test_a_text_begins_after_end_of_text_where_there_is_one(model):
    scores = list(score_text(model, TOKENIZER, "ab"))
    logarithms = model(torch.tensor([[256, 97]]))[0].double().log_softmax(-1)
    assert [score.text for score in scores] == ["a", "b"]
    assert [score.logprob for score in scores] == pytest.approx(
        [logarithms[0, 97].item(), logarithms[1, 98].item()], abs=1e-4
    )
    without = Tokenizer.char("".join(map(chr, range(97, 123))), end_of_text=False)
    assert next(score_text(model, without, "ab")).logprob is None


def test_probabilities_are_shared_among_the_tokenizers_ids_alone(model):
    """Ids that only pad the model's vocabulary have none."""
    letters = Tokenizer.char("abcdef", end_of_text=False)
    total = sum(math.exp(list(score_ids(model, letters, [0, id]))[1].logprob) for id in range(letters.vocab_size))
    assert total == pytest.approx(1.0, abs=1e-6)


def test_no_ids_have_no_scores(model):
    assert list(score_ids(model, TOKENIZER, [])) == []


def test_broken_weights_are_an_error(model):
    model.final_norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        list(score_text(model, TOKENIZER, "ab"))
