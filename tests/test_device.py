import platform
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT

from gpt import device as device_module
from gpt.device import (
    autocast,
    choose_dtype,
    compiled,
    free_memory,
    is_out_of_memory,
    matrix_speed,
    peak_memory,
    used_memory,
)


def test_compile_falls_back_with_one_warning(monkeypatch, capsys):
    def broken(function, **_):
        def call(*_):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    function = compiled(lambda x: x + 1, "on", "cpu")
    assert [function(torch.tensor(i)).item() for i in range(3)] == [1, 2, 3]
    assert capsys.readouterr().out.count("torch.compile does not work here (RuntimeError)") == 1


def test_compile_is_asked_for_or_left_out(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *_: "compiled")
    cases = [
        ("on", "cpu", "compiled"),
        ("auto", "cuda", "compiled"),
        ("auto", "cpu", "plain"),
        ("off", "cuda", "plain"),
    ]
    for setting, device, expected in cases:
        function = compiled(lambda: "plain", setting, device)
        assert function() == expected


def test_running_out_of_memory_is_no_failure_of_the_compiler(monkeypatch):
    def exhausted(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda function, **_: exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(lambda x: x, "on", "cpu")(1)


def test_the_cpu_computes_in_float32_unless_told():
    assert choose_dtype("auto", "cpu") == torch.float32
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        assert choose_dtype(name, "cpu") == dtype
        with autocast("cpu", dtype):
            assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype


def test_an_allocation_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_memory_is_counted_in_bytes():
    before = used_memory()
    block = torch.ones(50_000_000)
    assert 190e6 < used_memory() - before < 220e6
    del block
    assert used_memory() < before + 100e6
    assert peak_memory("cpu") > before + 190e6  # it remembers
    assert free_memory("cpu") > 1e8


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
        monkeypatch.setattr(device_module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(device_module.torch, "randn", self.matrix)


@pytest.mark.parametrize("speed", [1e9, 2e11, 9e14])
def test_the_matrix_speed_is_exact_on_an_exact_clock(monkeypatch, speed):
    Machine(speed).install(monkeypatch)
    assert matrix_speed("cpu", torch.float32) == pytest.approx(speed)


@pytest.mark.parametrize("busy_products", [1, 4, 5])
def test_a_busy_moment_does_not_pass_for_a_slow_machine(monkeypatch, busy_products):
    """The first products, even all of the smallest size, wait 20 ms for a processor that another program has."""
    Machine(2e11, busy_products, extra_seconds=0.02).install(monkeypatch)
    assert matrix_speed("cpu", torch.float32) == pytest.approx(2e11)


def test_the_matrix_speed_is_that_of_a_product_and_depends_on_the_type():
    """Within a factor that allows for a busy machine."""
    found = matrix_speed("cpu", torch.float32)
    a = torch.randn(1024, 1024)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    assert 0.3 < found * min(seconds) / (2 * 1024**3) < 3
    assert matrix_speed("cpu", torch.float64) < found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_kept_and_used_again():
    """In a process of its own: a tensor of 40 MB, freed and made again, is no new memory to the system."""
    code = """
import resource, torch
from gpt.device import keep_freed_memory
keep_freed_memory("cpu")
for step in range(15):
    tensor = torch.ones(10_000_000)
    if step == 9:  # the first few may still need new memory, where what is free lies in pieces
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del tensor
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(printed(code)) < 15_000  # pages of 4 kB, each tensor having 9,766; without it some 50,000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_goes_back_to_the_system_if_it_is_not_to_be_kept(keep):
    code = f"""
import torch
from gpt.device import keep_freed_memory, used_memory
keep_freed_memory("cpu")
keep_freed_memory("cpu", keep={keep})
tensor = torch.ones(10_000_000)
held = used_memory()
del tensor
print(held - used_memory())
"""
    assert (int(printed(code)) > 39_000_000) == (not keep)


def printed(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
