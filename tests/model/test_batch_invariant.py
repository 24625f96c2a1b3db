import pytest
import torch

from gpt.model.batch_invariant import BatchInvariant


class Odd(BatchInvariant):
    """Adds an ulp or so to rows where `wrong` (rows, place) says so, as a library of some processor might."""

    def __init__(self, wrong):
        super().__init__(torch.randn(8, generator=torch.Generator().manual_seed(1)))
        self.wrong, self.sizes = wrong, []

    def compute(self, rows):
        self.sizes.append(len(rows))
        factors = [1 + 1e-6 * self.wrong(len(rows), place) for place in range(len(rows))]
        return rows * torch.tensor(factors)[:, None]


FAULTS = {
    "none": lambda rows, place: 0,
    "a lone row": lambda rows, place: rows == 1,
    "fewer than four": lambda rows, place: rows < 4,
    "a lone row, and many": lambda rows, place: (rows == 1) + 2 * (rows > 256),
    "every number": lambda rows, place: rows,
    "every fifth place": lambda rows, place: place % 5 == 4,
    "every place": lambda rows, place: place,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_has_the_same_bits_in_any_number_and_place(fault):
    function, x = Odd(FAULTS[fault]), torch.randn(600, 8)
    lone = torch.cat([function(row) for row in x[:40].split(1)])
    assert function.keeps_bits
    for rows in (1, 2, 3, 5, 16, 17, 33, 129, 400, 600):
        assert function(x[:rows])[:40].equal(lone[:rows])
        assert function(x[40 - min(rows, 40) : 40]).equal(lone[40 - min(rows, 40) :])


def test_what_is_right_as_it_is_is_computed_as_it_is():
    function = Odd(FAULTS["a lone row"])
    for rows, size in ((1, 2), (2, 2), (300, 300)):
        function(torch.randn(rows, 8))
        function.sizes.clear()
        function(torch.randn(rows, 8))
        assert function.sizes == [size]


def test_what_is_never_the_same_is_not_promised():
    calls = []
    function = Odd(lambda rows, place: calls.append(0) or len(calls))
    assert not function.keeps_bits
    assert function(torch.randn(3, 8)).shape == (3, 8)


def test_it_is_found_out_anew_for_another_number_of_threads(several_threads):
    function = Odd(lambda rows, place: rows == 1 and torch.get_num_threads() == 1)
    x = torch.randn(1, 8)
    several = function(x)
    torch.set_num_threads(1)
    assert function(x).equal(several)
    assert function.sizes[-1] == 2


def test_no_rows_are_no_rows():
    assert Odd(FAULTS["a lone row"])(torch.randn(0, 3, 8)).shape == (0, 3, 8)
