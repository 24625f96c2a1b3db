import pytest
import torch
from helpers import VARIANTS, exact, variant
from out_of_memory import REPORTS

from gpt import InputError
from gpt.evaluation.likelihood import Likelihood, likelihoods, rolling_windows
from gpt.model.transformer import GPT

WORDS = [(5, 6, 7), (5, 6, 8), (5, 9), (6,), (7,), (5, 6), (5, 6, 7, 7, 7)]  # some share a beginning


def random_ids(length, seed=1):
    return tuple(torch.randint(257, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def by_one_pass(model, context, continuation, max_length=48):
    """A pair's likelihood from the logits of a full pass over it alone."""
    ids = torch.tensor([(tuple(context) + tuple(continuation))[-(max_length + 1) :][:-1]])
    with torch.no_grad():
        logprobs = model(ids)[0, -len(continuation) :].log_softmax(-1)
    own = logprobs[range(len(continuation)), list(continuation)]
    return Likelihood(own.sum().item(), logprobs.argmax(-1).tolist() == list(continuation), len(continuation))


def require_same(found, expected, tolerance=1e-12):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert (one.greedy, one.tokens) == (two.greedy, two.tokens)
        assert one.logprob == pytest.approx(two.logprob, rel=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_pair_has_the_likelihood_of_a_pass_of_its_own(name):
    """Choices of one context, contexts of other lengths, and those cut from the left, in one call."""
    model = exact(name)
    contexts = [random_ids(length, length) for length in (1, 2, 20, 44, 46, 47, 48, 49, 80)]
    pairs = [(context, word) for context in contexts for word in WORDS]
    found = likelihoods(model, pairs)
    require_same(found, [by_one_pass(model, *pair) for pair in pairs])


def test_what_greedy_decoding_writes_is_greedy(model):
    context, written = list(random_ids(9)), []
    for _ in range(6):
        written.append(model(torch.tensor([context + written]))[0, -1].argmax().item())
    other = [*written[:-1], (written[-1] + 1) % 257]
    pairs = [(context, written), (context, other), (context, written[:3]), (context, written[:1])]
    assert [found.greedy for found in likelihoods(model, pairs)] == [True, False, True, True]


def test_a_context_too_long_by_one_loses_its_first_token_alone():
    model, ids = exact("gpt2"), random_ids(52)
    cases = [(ids[:47], ids[47:49]), (ids[:48], ids[48:50]), (ids[:4], ids[4:52]), (ids[:1], ids[1:49])]
    require_same(likelihoods(model, cases), [by_one_pass(model, *pair) for pair in cases])
    kept = likelihoods(model, [(ids[1:48], ids[48:50])])
    assert likelihoods(model, [(ids[:48], ids[48:50])]) == kept
    assert likelihoods(model, [(ids[:47], ids[47:49])]) != likelihoods(model, [(ids[1:47], ids[47:49])])


def test_max_length_is_what_the_model_reads():
    model, ids = exact("rope"), random_ids(30)
    found = likelihoods(model, [(ids[:25], ids[25:])], max_length=10)
    require_same(found, [by_one_pass(model, ids[:25], ids[25:], 10)])


@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_a_pair_is_scored_alike_in_any_company(name):
    model = variant(name)
    pairs = [(random_ids(length, seed), word) for seed, length in enumerate((3, 17, 30, 46)) for word in WORDS]
    together = likelihoods(model, pairs)
    for batch in (1, 2, 3):
        require_same(likelihoods(model, pairs, batch=batch), together, 1e-6)
    for pair, found in zip(pairs, together, strict=True):
        require_same(likelihoods(model, [pair]), [found], 1e-6)
    require_same(likelihoods(model, pairs[::-1])[::-1], together, 1e-6)


def count_positions(monkeypatch):
    """How many positions each pass reads, padding included."""
    honest, passes = GPT.hidden_states, []

    def hidden_states(self, ids, *rest):
        passes.append(ids.numel())
        return honest(self, ids, *rest)

    monkeypatch.setattr(GPT, "hidden_states", hidden_states)
    return passes


def test_a_context_is_read_once_for_all_its_continuations(model, monkeypatch):
    passes, context = count_positions(monkeypatch), random_ids(30)
    likelihoods(model, [(context, (token,)) for token in range(100)])
    assert passes == [30]
    passes.clear()
    likelihoods(model, [(context, (1, token, 3)) for token in range(4)])
    assert passes == [31, 4]  # the context and what is shared; then what is left to read of each
    passes.clear()
    likelihoods(model, [(context, (1, 2, 3))] * 5)
    assert passes == [32]


def test_no_more_is_read_at_a_time_than_was_asked_for(model, monkeypatch):
    passes, pairs = count_positions(monkeypatch), [(random_ids(20, seed), (1,)) for seed in range(7)]
    likelihoods(model, pairs, batch=3)
    assert passes == [60, 60, 20]
    monkeypatch.setattr("gpt.evaluation.likelihood.POSITIONS", 45)
    passes.clear()
    likelihoods(model, pairs)
    assert passes == [40, 40, 40, 20]


def test_logits_are_of_what_is_predicted_alone(model, monkeypatch):
    rows, honest = [], GPT.head
    monkeypatch.setattr(GPT, "head", lambda self, states: rows.append(len(states)) or honest(self, states))
    likelihoods(model, [(random_ids(40), (1, 2, 3))])
    assert rows == [3]


@pytest.mark.parametrize("most", [1, 2])
def test_where_memory_runs_out_fewer_are_read_at_a_time(model, monkeypatch, most):
    pairs = [(random_ids(20, seed), word) for seed in range(5) for word in WORDS]
    expected, honest = likelihoods(model, pairs), GPT.hidden_states

    def hidden_states(self, ids, *rest):
        if len(ids) > most:
            raise REPORTS["CUDA"]
        return honest(self, ids, *rest)

    monkeypatch.setattr(GPT, "hidden_states", hidden_states)
    require_same(likelihoods(model, pairs), expected, 1e-6)


def test_the_model_is_left_in_its_mode(model):
    model.train()
    likelihoods(model, [((1,), (2,))])
    assert model.training


def test_progress_adds_up_to_all_pairs(model):
    told = []
    likelihoods(model, [((1, 2), word) for word in WORDS] * 2, progress=told.append)
    assert sum(told) == 2 * len(WORDS)


def test_no_pairs_have_no_likelihoods(model):
    assert likelihoods(model, []) == []


@pytest.mark.parametrize(
    ("pair", "settings", "complaint"),
    [
        (((), (1,)), {}, "pair 1: its context has no token"),
        (((1,), ()), {}, "pair 1: its continuation has no token"),
        (((1,), (2,) * 49), {}, "its continuation has 49 tokens, and the model sees 48"),
        (((1,), (2,)), {"max_length": 49}, "`max_length` is 49; it must be from 1 to the model's context, 48"),
        (((1,), (2,)), {"max_length": 0}, "`max_length` is 0"),
        (((1,), (2,)), {"batch": 0}, "`batch` is 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, pair, settings, complaint):
    with pytest.raises(InputError, match=complaint):
        likelihoods(model, [pair], **settings)


def test_broken_weights_are_an_error(model):
    model.final_norm.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        likelihoods(model, [((1,), (2,))])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17, 23, 24, 25])
def test_rolling_windows_predict_each_token_once_with_the_fullest_context(length):
    ids = tuple(range(100, 100 + length))
    pairs = rolling_windows(ids, 0, 8)
    assert sum((continuation for _, continuation in pairs), ()) == ids
    whole, done = (0, *ids), 0
    for context, continuation in pairs:
        assert context == whole[max(0, done + len(continuation) - 8) : done + 1]
        assert len(context) + len(continuation) - 1 == min(8, done + len(continuation))
        done += len(continuation)


def test_many_continuations_of_a_short_context_are_read_some_at_a_time(monkeypatch):
    """As many as their own length allows, not that of the context: else thousands of sentences would be one pass."""
    model, sizes = exact("gpt2"), []
    honest = type(model).hidden_states
    monkeypatch.setattr("gpt.evaluation.likelihood.POSITIONS", 100)
    monkeypatch.setattr(
        type(model), "hidden_states", lambda self, ids, *rest: sizes.append(ids.numel()) or honest(self, ids, *rest)
    )
    pairs = [((1,), random_ids(2 + number % 30, number)) for number in range(60)]
    found = likelihoods(model, pairs)
    assert max(sizes) <= 100
    monkeypatch.undo()
    require_same(found, [by_one_pass(model, *pair) for pair in pairs])
