import platform

import pytest
import torch
from out_of_memory import REPORTS
from processes import run_script

from gpt import InputError, memory
from gpt.memory import Halving, causes, free_memory, is_out_of_memory, peak_memory, used_memory


@pytest.mark.parametrize("error", REPORTS.values(), ids=REPORTS.keys())
def test_every_way_of_running_out_of_memory_is_recognized(error):
    assert is_out_of_memory(error)
    try:
        try:
            raise error
        except type(error) as first:
            raise ValueError("autotuning failed") from first
    except ValueError as second:
        assert is_out_of_memory(second)
        assert list(causes(second)) == [second, error]


def test_what_is_not_for_want_of_memory_is_not_taken_for_it():
    for text in (
        "shapes do not match",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`",
        "NCCL error in: …, unhandled system error\nncclSystemError: socketStartConnect: Connect failed",
        "No space left on device",
        "could not create a primitive descriptor for the matmul primitive. Run workload with environment variable …",
    ):
        assert not is_out_of_memory(RuntimeError(text))
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise KeyError("another error, of code that handles the first") from None
    except KeyError as error:
        assert not is_out_of_memory(error)
    assert not is_out_of_memory(InputError("step 3: out of memory with a single sequence"))  # which has been met


def test_the_cpus_own_report_is_recognized():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert is_out_of_memory(raised.value)


def test_rows_are_halved_until_they_fit_and_stay_so():
    sizes = []

    def function(a, b):
        sizes.append(len(a))
        if len(a) > 3:
            raise REPORTS["cuBLAS"]
        return a + b

    halving = Halving(function, "cpu")
    for _ in range(2):
        assert torch.equal(halving(torch.arange(11), torch.ones(11)), torch.arange(11) + 1)
    assert sizes == [11, 6, 3, 3, 3, 2, 3, 3, 3, 2]


def test_a_single_row_that_does_not_fit_and_other_errors_are_raised():
    def function(error):
        return Halving(lambda _: (_ for _ in ()).throw(error), "cpu")

    for error in (MemoryError(), ZeroDivisionError()):
        with pytest.raises(type(error)):
            function(error)(torch.ones(4))


def test_free_memory_is_at_most_what_encloses_the_process(monkeypatch):
    machine = free_memory("cpu")
    for left, free in ((1000, 1000), (machine * 10, machine)):
        monkeypatch.setattr(memory, "available", lambda: left)  # noqa: B023
        assert free_memory("cpu") == pytest.approx(free, rel=0.3)


def test_memory_is_counted_in_bytes():
    before = used_memory()
    block = torch.ones(50_000_000)
    assert 190e6 < used_memory() - before < 220e6
    del block
    assert used_memory() < before + 100e6
    assert peak_memory("cpu") > before + 190e6  # it remembers
    assert free_memory("cpu") > 1e8


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_kept_and_used_again(tmp_path):
    """In a process of its own: a tensor of 40 MB, freed and made again, is no new memory to the system."""
    code = """
import resource, torch
from gpt.memory import retain_freed_memory
retain_freed_memory("cpu")
for step in range(15):
    tensor = torch.ones(10_000_000)
    if step == 9:  # the first few may still need new memory, where what is free lies in pieces
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del tensor
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(printed(code, tmp_path)) < 15_000  # pages of 4 kB, each tensor having 9,766; without it some 50,000


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_goes_back_to_the_system_if_it_is_not_to_be_kept(tmp_path, keep):
    code = f"""
import torch
from gpt.memory import retain_freed_memory
from gpt.memory import used_memory
retain_freed_memory("cpu")
retain_freed_memory("cpu", keep={keep})
tensor = torch.ones(10_000_000)
held = used_memory()
del tensor
print(held - used_memory())
"""
    assert (int(printed(code, tmp_path)) > 39_000_000) == (not keep)


def printed(code, directory):
    program = directory / "program.py"
    program.write_text(code)
    return run_script(program, cwd=directory)


@pytest.mark.process
@pytest.mark.skipif(platform.system() != "Linux", reason="another system than Linux")
def test_the_peak_is_that_of_this_process_and_not_of_the_one_that_started_it(tmp_path):
    """Which getrusage says, too, where a large process starts a small one: one that holds 100 MB in thirty places."""
    small = "import resource; from gpt.memory import peak_memory"
    small += "; print(peak_memory('cpu'), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    large = f"""
import mmap, os, subprocess, sys
file = os.memfd_create("held")
os.ftruncate(file, 10**8)
held = [mmap.mmap(file, 10**8, mmap.MAP_SHARED | mmap.MAP_POPULATE) for _ in range(30)]
subprocess.run([sys.executable, "-c", {small!r}], check=True)
"""
    ours, inherited = map(int, printed(large, tmp_path).split())
    assert 10**7 < ours < 10**9
    assert inherited > 29 * 10**8, "the large process was none"
