import pytest
import torch
from helpers import VARIANTS, exact

from gpt.model.branches import Branches, Prefixes


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_branches_have_the_logits_of_the_full_pass(name):
    """Several after one prefix, of different lengths, with ids behind them that only pad; up to the context's end."""
    model, draw = exact(name), torch.Generator().manual_seed(1)
    prefixes = Prefixes(torch.randint(257, (3, 46), generator=draw))
    lengths = torch.tensor([1, 30, 30, 45, 46])
    rows = torch.tensor([0, 1, 1, 2, 2])
    rests = torch.randint(257, (5, 5), generator=draw)
    read = [5, 5, 2, 3, 2]  # of each row; the others stand beyond the context, or pad
    model.hidden_states(prefixes.ids, prefixes)
    hidden = model.hidden_states(rests, Branches(prefixes, rows, lengths, 48))
    for row, length, rest, found, count in zip(rows, lengths, rests, hidden, read, strict=True):
        whole = torch.cat([prefixes.ids[row, :length], rest[:count]]).unsqueeze(0)
        assert (model.hidden_states(whole)[0, length:] - found[:count]).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_prefixes_are_read_as_without_them(name):
    model, ids = exact(name), torch.arange(40).view(2, 20)
    assert torch.equal(model.hidden_states(ids, Prefixes(ids)), model.hidden_states(ids))
