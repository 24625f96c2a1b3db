import re
import resource
import sys
from types import MappingProxyType

import pytest
import torch

from gpt import products
from gpt.device import (
    Target,
    autocast,
    choose_device,
    choose_dtype,
    choose_products,
    choose_weight_dtype,
    mkl_is_slow,
    reseed,
)
from gpt.errors import InputError
from gpt.training import utilization
from gpt.training.utilization import measured_peak_flops

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def test_the_cpu_computes_in_float32_unless_told():
    assert choose_dtype("auto", "cpu") == torch.float32
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        assert choose_dtype(name, "cpu") == dtype
        with autocast("cpu", dtype):
            assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("name", ["fp16", None, torch.float32])
def test_a_dtype_that_is_none_of_the_names_is_refused(name):
    for choose in (choose_dtype, choose_weight_dtype):
        with pytest.raises(InputError, match="`dtype` .*: is none of auto, float32, bfloat16, float16(, int8)?$"):
            choose(name, "cpu")


@pytest.mark.parametrize("device", ["gpu", None, 3, "", torch.device("meta")])
def test_a_device_that_is_not_here_is_refused_and_torchs_own_is_taken(device):
    with pytest.raises(InputError, match="sees no such device here"):
        Target.of(device, "float32", False)
    assert Target.of(torch.device("cpu"), "float32", False).device == "cpu"


@pytest.mark.parametrize(
    ("own", "kernels", "there"),
    [
        ((9, 0), ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_120"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_86", "sm_90"], True),  # by those for 8.6
        ((13, 0), ["sm_90", "compute_90"], True),  # made by the driver
        ((12, 1), ["sm_90", "sm_120"], True),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((9, 4), ["gfx90a", "gfx942"], True),  # of AMD's nothing is known
        ((6, 1), ["sm_75", "sm_80", "compute_90"], False),
        ((8, 0), ["sm_86", "sm_90"], False),
        ((10, 3), ["sm_90", "sm_120"], False),
    ],
)
def test_a_gpu_that_torch_has_no_kernels_for_is_not_taken(own, kernels, there, monkeypatch, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: own)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GTX 1")
    assert choose_device("auto") == ("cuda" if there else "cpu")
    if there:
        assert choose_device("cuda") == "cuda"
        assert not said
        return
    fault = rf"has no kernels for GTX 1 \(sm_{own[0]}{own[1]}\), but for sm_"
    assert re.search(f"^`device` cpu, and not cuda: .*{fault}", said[-1])
    with pytest.raises(InputError, match=f"^`device` cuda: .*{fault}.*; use one of: auto, cpu$"):
        choose_device("cuda")
    with pytest.raises(InputError, match="sees no such device here; use one of: auto, cpu$"):
        choose_device("mps")


def test_where_the_cpu_is_named_no_gpu_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a GPU was asked"))
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("good", [True, False])
def test_one_of_several_gpus_gets_the_dtype_that_any_gets(good, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: good)
    for name in ("cuda", "cuda:1"):
        assert Target.of(name, "auto", False) == (name, torch.bfloat16 if good else torch.float32, False)


def test_reseeding_draws_what_torchs_own_way_draws():
    for seed in (0, 7, 2**64 - 1):
        torch.manual_seed(seed)
        expected = torch.rand(5)
        reseed("cpu", seed)
        assert torch.rand(5).equal(expected)


@pytest.fixture
def processor(monkeypatch):
    """Give what takes this processor for another, by name and with or without AVX-512 of full width."""

    def taken_for(name, wide=True, used="AVX512", limit=None, memory=MappingProxyType({})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "avx512_vp2intersect": wide})
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (memory.get(kind, -1), -1))
        for each in ISA_LIMITS:
            monkeypatch.delenv(each, raising=False)
        if limit:
            monkeypatch.setenv(limit, "AVX2")
        return mkl_is_slow()

    return taken_for


def test_mkl_is_slow_on_amds_processors_with_avx512_of_full_width_alone(processor):
    assert processor("AMD EPYC 9755")
    assert processor("AMD Ryzen 9 9950X")
    assert not processor("AMD EPYC 9654", wide=False)
    assert not processor("Intel(R) Core(TM) i7-1185G7")
    assert not processor("AMD EPYC 9755", used="AVX2"), "ATEN_CPU_CAPABILITY takes it for another"
    for limit in ISA_LIMITS:
        assert not processor("AMD EPYC 9755", limit=limit)


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_where_a_shell_limits_memory_onednn_is_not_taken(processor, kind):
    """It takes memory for each new shape, and does not go on where it once got none; with MKL, batches are halved."""
    assert not processor("AMD EPYC 9755", memory={getattr(resource, kind): 10**9})


@pytest.mark.parametrize("asked", ["highest", "medium"])
def test_where_mkl_is_slow_onednn_multiplies_unless_it_would_round_unasked(processor, monkeypatch, asked):
    processor("AMD EPYC 9755")
    for rounds in (False, True):
        monkeypatch.setattr(products, "rounds", lambda: rounds)  # noqa: B023
        if asked == "medium" and not rounds:
            with pytest.raises(InputError, match="would change nothing here"):
                choose_products(asked, "cpu")
            continue
        with choose_products(asked, "cpu")():
            assert (torch.backends.mkldnn.matmul.fp32_precision == "bf16") == (rounds == (asked == "medium"))
        with choose_products("highest", "cpu", compiled=True)(), choose_products("highest", "cuda")():
            assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


def test_products_of_the_highest_precision_leave_torchs_setting_alone(as_if_it_rounds, processor):
    processor("Intel(R) Xeon(R)")
    for asked in ("cpu", "cuda", "mps"):
        with choose_products("medium", "cpu")(), choose_products("highest", asked)():
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


class Machine:
    """A clock that goes on by what a product of two matrices takes at some speed, or more in busy moments."""

    def __init__(self, flops_per_s, busy_products=0, extra_seconds=0.0):
        self.now, self.products = 0.0, 0
        self.flops_per_s, self.busy_products, self.extra_seconds = flops_per_s, busy_products, extra_seconds

    def matrix(self, rows, columns, **_):
        machine = self

        class Matrix:
            def __matmul__(self, other):
                machine.products += 1
                busy = machine.products <= machine.busy_products
                machine.now += 2 * rows * rows * columns / machine.flops_per_s + busy * machine.extra_seconds

        return Matrix()

    def install(self, monkeypatch):
        monkeypatch.setattr(utilization.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(utilization.torch, "randn", self.matrix)


@pytest.mark.parametrize("speed", [1e9, 2e11, 9e14])
def test_the_matrix_speed_is_exact_on_an_exact_clock(monkeypatch, speed):
    Machine(speed).install(monkeypatch)
    assert measured_peak_flops("cpu", torch.float32) == pytest.approx(speed)


@pytest.mark.parametrize("busy_products", [1, 4, 5])
def test_a_busy_moment_does_not_pass_for_a_slow_machine(monkeypatch, busy_products):
    """The first products, even all of the smallest size, wait 20 ms for a processor that another program has."""
    Machine(2e11, busy_products, extra_seconds=0.02).install(monkeypatch)
    assert measured_peak_flops("cpu", torch.float32) == pytest.approx(2e11)
