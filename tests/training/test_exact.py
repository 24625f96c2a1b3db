import os

import pytest
import torch

from gpt import InputError
from gpt.training.exact import EXACT_WORKSPACES, WORKSPACE, exact_arithmetic, is_exact


def modes():
    import torch._inductor.config as inductor

    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        inductor.deterministic,
        torch.get_num_threads(),
    )


def test_exact_is_the_default_where_it_costs_nothing():
    assert [is_exact("auto", device) for device in ("cpu", "cuda", "mps")] == [True, False, False]
    assert [is_exact(wanted, "cuda") for wanted in ("on", "off")] == [True, False]


@pytest.mark.parametrize(("wanted", "device"), [("auto", "cuda"), ("off", "cuda"), ("on", "cpu"), ("auto", "mps")])
def test_nothing_is_set_unless_cuda_is_to_be_exact(monkeypatch, wanted, device):
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = modes()
    with exact_arithmetic(wanted, device):
        assert modes() == before
        assert WORKSPACE not in os.environ


def test_on_cuda_all_is_set_and_afterwards_as_before(monkeypatch):
    monkeypatch.setenv(WORKSPACE, EXACT_WORKSPACES[1])
    before = modes()
    with pytest.raises(ZeroDivisionError), exact_arithmetic("on", "cuda"):
        assert modes()[:5] == (True, False, False, False, True)
        raise ZeroDivisionError
    assert modes() == before


def test_what_cannot_be_exact_is_refused(monkeypatch):
    with (
        pytest.raises(InputError, match="`exact` on: nobody knows that for this device"),
        exact_arithmetic("on", "mps"),
    ):
        pass
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(InputError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0'"), exact_arithmetic("on", "cuda"):
        pass
