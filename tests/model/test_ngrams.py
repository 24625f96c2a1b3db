import torch
from helpers import ngram_buckets

from gpt import ModelConfig
from gpt.model.ngrams import NO_TOKEN, NGramEmbedding

CONFIG = ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=16, vocab_size=100, ngram=4, ngram_buckets=1000)
NOTHING = torch.full((1, 3), NO_TOKEN)


def rows(*ids):
    """The rows of the runs that end at the last of some ids."""
    return NGramEmbedding(CONFIG).indices(torch.tensor([ids]), NOTHING)[0, -1].tolist()


def test_rows_are_those_of_the_formula():
    """Of two sequences side by side, at every position, with a vocabulary's smallest and largest ids among them."""
    ids = torch.randint(100, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[0, :4], ids[1, :4] = torch.tensor([0, 0, 99, 99]), torch.tensor([99, 0, 0, 99])
    found = NGramEmbedding(CONFIG).indices(ids, NOTHING.expand(2, 3))
    for sequence, rows_of_it in zip(ids.tolist(), found.tolist(), strict=True):
        assert rows_of_it == [ngram_buckets(sequence[: t + 1], longest=4, rows=1000) for t in range(12)]


def test_each_length_has_its_own_part_of_the_table():
    for row, part in zip(rows(5, 6, 7, 8), range(3), strict=True):
        assert part * 1000 <= row < (part + 1) * 1000


def test_a_row_depends_on_its_run_alone():
    two, three, four = rows(5, 6, 7, 8)
    assert rows(1, 2, 7, 8)[0] == two
    assert rows(1, 6, 7, 8)[:2] == [two, three]
    assert rows(9, 5, 6, 7, 8) == [two, three, four]
    assert rows(5, 6, 8, 7)[0] != two  # the order counts
    assert rows(5, 7, 7, 8)[1] != three
    assert rows(1, 6, 7, 8)[2] != four


def test_the_beginning_differs_from_the_first_token():
    assert rows(8) != rows(0, 8)


def test_runs_are_spread_evenly():
    """200 × 100 pairs into 1,000 rows: a Poisson's spread, within a quarter."""
    pairs = torch.cartesian_prod(torch.arange(100), torch.arange(200))
    found = NGramEmbedding(CONFIG).indices(pairs, NOTHING.expand(len(pairs), 3))[:, 1, 0]
    counts = torch.bincount(found, minlength=1000).float()
    assert counts.min() > 0
    assert 0.75 < counts.std() / 20**0.5 < 1.25


def test_what_came_before_counts_as_if_read_together():
    ids = torch.randint(100, (2, 12))
    embedding = NGramEmbedding(CONFIG)
    whole = embedding.indices(ids, NOTHING.expand(2, 3))
    rest = embedding.indices(ids[:, 5:], ids[:, 2:5])
    assert torch.equal(whole[:, 5:], rest)


def test_it_is_the_sum_of_its_rows():
    embedding = NGramEmbedding(CONFIG)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = [sum(embedding.table.weight[row] for row in position) for position in embedding.indices(ids, NOTHING)[0]]
    torch.testing.assert_close(embedding(ids, NOTHING)[0], torch.stack(expected))
