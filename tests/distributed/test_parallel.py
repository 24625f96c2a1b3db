import itertools
import random

import pytest
import torch

from gpt.distributed.parallel import divided, share_out
from gpt.distributed.world import World


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_no_rank_has_a_third_more_to_do_than_it_must(ranks):
    """Graham 1969: to give the dearest piece first is at most 4/3 − 1/3m times as long as the best division."""
    numbers = random.Random(ranks)
    for pieces in range({1: 9, 2: 9, 3: 7, 8: 5}[ranks]):
        costs = [numbers.randint(1, 30) for _ in range(pieces)]
        owners = divided(costs, ranks)
        best = min(longest(costs, each, ranks) for each in itertools.product(range(ranks), repeat=pieces))
        assert len(owners) == pieces
        assert longest(costs, owners, ranks) <= (4 / 3 - 1 / (3 * ranks)) * best


def longest(costs, owners, ranks):
    return max(sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(ranks))


def test_equal_pieces_go_to_ranks_in_turn():
    assert divided([4] * 7, 3) == [0, 1, 2, 0, 1, 2, 0]
    assert divided([1, 9, 1, 1], 2) == [1, 0, 1, 1]


def test_a_process_alone_does_all_of_the_work():
    tensors = [torch.ones(2), torch.ones(3)]
    share_out(tensors, [2, 3], lambda some: [tensor.mul_(5) for tensor in some], World("cpu"))
    assert [tensor.tolist() for tensor in tensors] == [[5, 5], [5, 5, 5]]
