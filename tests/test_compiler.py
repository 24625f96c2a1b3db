import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, needs_compiler
from torch._dynamo.utils import counters

from gpt import InputError
from gpt import compiler as compiler_module
from gpt.compiler import MOST_RECOMPILATIONS, Compiled, CompilerFailed, compiler_fault, use_cache_of_this_processor


def broken(error, calls=0):
    """torch.compile, whose programs fail after so many calls in all."""

    def compile(function, **_):
        def call(*arguments):
            nonlocal calls
            if calls == 0:
                raise error
            calls -= 1
            return function(*arguments)

        return call

    return compile


def replaced(monkeypatch, result):
    """torch.compile, whose programs give what `result` makes of their function's result."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *arguments: result(function(*arguments)))


def test_it_compiles_where_that_is_wanted(monkeypatch):
    replaced(monkeypatch, lambda result: result + 1e-4)
    for setting, device, works in [("on", "cpu", True), ("auto", "cpu", False), ("off", "cpu", False)]:
        function = Compiled(lambda x: x, setting, device)
        assert function.works == works
        assert function(torch.ones(())).item() == (pytest.approx(1.0001) if works else 1)
    assert Compiled(lambda x: x, "auto", "cuda").works


@pytest.mark.parametrize("calls", [0, 1], ids=["at the first call", "at another shape"])
def test_a_compiler_that_fails_is_a_sentence_that_names_the_fault_and_the_remedy(monkeypatch, calls):
    monkeypatch.setattr(torch, "compile", broken(RuntimeError("no compiler\nmore of it"), calls))
    function = Compiled(lambda x: x.sum(), "on", "cpu")
    with pytest.raises(InputError) as raised:
        for size in (3, 4):
            function(torch.ones(size))
    assert str(raised.value) == (
        "torch.compile does not work here (RuntimeError: no compiler); install a C++ compiler (g++ or clang++; CXX "
        "names another); or use `compile` off"
    )
    assert function.fault == "RuntimeError: no compiler"
    function.give_up(function.fault)
    assert function(torch.ones(4)).item() == 4
    assert not function.works


def test_a_backward_pass_that_cannot_be_compiled_is_the_compilers_fault(monkeypatch):
    replaced(monkeypatch, lambda result: result)
    function = Compiled(lambda x: x.sum(), "on", "cpu")
    loss = function(torch.ones(3, requires_grad=True))
    with pytest.raises(CompilerFailed, match="no backward"), function.watch():
        loss.register_hook(lambda _: raise_(torch._dynamo.exc.InternalTorchDynamoError("no backward")))
        loss.backward()
    with pytest.raises(ZeroDivisionError), function.watch():
        raise ZeroDivisionError


def raise_(error):
    raise error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["CUDA", "CPU"])
def test_running_out_of_memory_is_no_failure_of_the_compiler(monkeypatch, error):
    monkeypatch.setattr(torch, "compile", broken(error))
    function = Compiled(lambda x: x, "on", "cpu")
    with pytest.raises(type(error)):
        function(torch.ones(1))
    assert function.fault is None


def test_a_failure_of_the_function_itself_is_not_blamed_on_the_compiler(monkeypatch):
    replaced(monkeypatch, lambda result: result)
    with pytest.raises(ZeroDivisionError):
        Compiled(lambda x: x / (1 // 0), "on", "cpu")(torch.ones(1))


@pytest.mark.parametrize("wrong", [torch.nan, 1.01, 0.0], ids=str)
def test_other_results_than_the_functions_are_refused(monkeypatch, wrong):
    replaced(monkeypatch, lambda result: result * wrong)
    with pytest.raises(CompilerFailed, match="a result of .* where it should be 300"):
        Compiled(lambda x, y: (x * y).sum(), "on", "cpu")(torch.full((3,), 100.0), torch.ones(3))


def test_dropout_draws_other_values_when_compiled_and_leaves_no_trace(monkeypatch):
    replaced(monkeypatch, lambda result: result)
    function = Compiled(lambda x: torch.dropout(x, 0.5, True).sum(), "on", "cpu", rounding=0.25)
    torch.manual_seed(0)
    plain = torch.dropout(torch.ones(1000), 0.5, True).sum()
    torch.manual_seed(0)
    assert function(torch.ones(1000)) == plain


# ---- with Dynamo, which counts and limits, and without a compiler behind it ----


def test_programs_draw_by_the_generator_that_is_seeded_for_each_step(monkeypatch):
    seen = []

    def compile(function, **_):
        return lambda *x: seen.append(torch._functorch.config.graphsafe_rng_functionalization) or function(*x)

    monkeypatch.setattr(torch, "compile", compile)
    Compiled(lambda x: x.sum(), "on", "cpu")(torch.ones(2))
    assert seen == [False]


def test_any_number_of_shapes_and_of_functions_with_one_code_is_compiled(dynamo):
    class Layer:
        def __init__(self, number):
            self.number = number

        def sum(self, x):
            return x.sum() + self.number

    for number in range(9):  # Dynamo's own limit is 8
        function = Compiled(Layer(number).sum, "on", "cpu")
        for size in (2, 3, 2):
            assert function(torch.ones(size)).item() == size + number
        assert function.figures() == {"compiled": True}
        assert function.graphs == 2
    assert dynamo() == 18
    assert torch._functorch.config.graphsafe_rng_functionalization  # of others' programs
    many = Compiled(lambda x: x.sum(), "on", "cpu")
    for size in range(2, 12):
        many(torch.ones(size))
    assert many.graphs == 10


def test_all_layers_of_a_model_that_hooks_cut_are_compiled(dynamo):
    """As fully_shard's hooks do: every layer is then an entry of one code's."""

    class Layer(torch.nn.Module):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def forward(self, x):
            return x + self.number

    layers = [Layer(number) for number in range(10)]

    def cut(x):
        for layer in layers:
            torch._dynamo.graph_break()
            x = layer(x)
        return x.sum()

    function = Compiled(cut, "on", "cpu")
    for _ in range(3):
        function(torch.ones(2))
    assert dynamo() == function.graphs >= 10
    assert not function.recompilations


def test_a_storm_of_recompilations_is_counted_and_ends(dynamo):
    state = {"number": 0}
    function = Compiled(lambda x: x.sum() + state["number"], "on", "cpu")
    with pytest.raises(CompilerFailed, match=f"one program had to be compiled {MOST_RECOMPILATIONS} times again"):
        for state["number"] in range(100):
            assert function(torch.ones(2)).item() == 2 + state["number"]
            assert function.figures().get("recompilations", 0) == state["number"]
    assert state["number"] == MOST_RECOMPILATIONS


def test_dynamos_limit_is_a_failure_and_no_silence(dynamo, monkeypatch):
    monkeypatch.setattr(compiler_module, "MOST_GRAPHS", 2)
    state = {"number": 0}
    function = Compiled(lambda x: x.sum() + state["number"], "on", "cpu")
    with pytest.raises(CompilerFailed, match="recompile limit exceeded"):
        for state["number"] in range(100):
            function(torch.ones(2))
    assert state["number"] == 2


# ---- with the compiler ----


@pytest.mark.process
@needs_compiler
def test_a_small_function_is_really_compiled():
    compiler_fault.cache_clear()
    before = inductor_graphs()
    with torch._inductor.config.patch({"cpp.vec_isa_ok": True}):  # no programs that try out each set of instructions
        assert compiler_fault("cpu") is None
    assert inductor_graphs() == before + 2  # the function, and its gradient


def inductor_graphs():
    """Those that Inductor has compiled, or read from what it had compiled before."""
    return sum(counters["inductor"][f"fxgraph_cache_{what}"] for what in ("hit", "miss", "bypass"))


@pytest.mark.process
def test_no_compiler_is_found_out_before_anything_else(no_compiler):
    function = Compiled(lambda x: x, "on", "cpu")
    function.try_out()
    with pytest.raises(
        CompilerFailed, match=r"\(InductorError: .*No working C\+\+ compiler found.*\); install a C\+\+"
    ):
        function.require()


PROGRAM = """
import torch
from gpt.compiler import Compiled
torch.manual_seed(0)
x = torch.randn(37, 53)
function = Compiled(lambda x: (torch.softmax(torch.tanh(x) * 1.5, -1) * x).sum(), "on", "cpu", rounding=1e-5)
print(float(function(x)), function.graphs)
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("order", [("", "avx2"), ("avx2", ""), ("default", ""), ("", "default")], ids=str)
def test_processors_of_several_kinds_share_a_cache(tmp_path, order):
    """Inductor's graphs are not kept apart by the width of vectors: what one wrote would give another NaN."""
    losses = []
    for capability in order:
        environment = dict(os.environ) | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        if capability:
            environment["ATEN_CPU_CAPABILITY"] = capability
        program = [sys.executable, "-c", PROGRAM]
        result = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
        loss, graphs = result.stdout.split()
        assert graphs == "1"
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_was_compiled_is_kept_by_processor_and_number_of_threads(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    places = set()
    for capability in ("AVX512", "AVX2", "DEFAULT", "NO AVX"):
        for threads in (1, 3):
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)  # noqa: B023
            monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # noqa: B023
            use_cache_of_this_processor()  # each time from where the one before has left it, as a child process does
            places.add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert len(places) == 8
    assert {Path(place).parent for place in places} == {tmp_path / "own"}
    monkeypatch.setattr(compiler_module, "_processor_features", lambda: "flags: avx2 fma")
    use_cache_of_this_processor()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] not in places


def test_without_a_directory_of_the_users_it_is_within_torchs(monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    use_cache_of_this_processor()
    assert Path(cache_dir()).parent == Path(default_cache_dir())
