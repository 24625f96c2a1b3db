"""torch.compile, held to its word: it works here, computes what the function computes, and does not start over.

Dynamo keeps what it compiled beside a function's code, eight entries at the most, and runs uncompiled what does not
fit, with no more than a line in its log. Here each shape of arguments is a program with code of its own, and whatever
goes wrong, at the first call or a later one, is a CompilerFailed.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import platform
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor

from gpt.errors import InputError
from gpt.memory import causes, is_out_of_memory
from gpt.terminal import output_to_errors

Function = Callable[..., Tensor]
Compile = Literal["auto", "on", "off"]
MOST_GRAPHS = 1024  # of one function of a model: its layers, times the shapes that it is called with
MOST_RECOMPILATIONS = 8  # of one program, which should need none
ROUNDING = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}  # of results, whose sums go another way
ROUNDING_WITH_DROPOUT = 0.25  # which drops other values where it is compiled
CACHE = "TORCHINDUCTOR_CACHE_DIR"
CACHE_PREFIX = "gpt-cpu-"
NEEDS = {
    "cpu": "install a C++ compiler (g++ or clang++; CXX names another)",
    "cuda": "it needs a C compiler, and Triton",
    "mps": "it needs Xcode's command line tools",
}
_numbers = itertools.count()


class CompilerFailed(InputError):
    """torch.compile does not work here."""


@dataclass(eq=False)
class _Program:
    """The function, compiled for one shape of its arguments."""

    run: Function
    calls: int = 0
    recompilations: int = 0


class Compiled:
    """`function` through torch.compile where that is wanted: on, or auto on a CUDA device; else as it is."""

    def __init__(
        self,
        function: Function,
        wanted: Compile,
        device: str,
        mode: str | None = None,
        rounding: float = ROUNDING[torch.float32],
        remedy: str = "use `compile` off",
    ) -> None:
        """Wrap a function. `rounding`: how much the result may differ, as a fraction; `remedy`: how to do without."""
        self.function, self.wanted, self.device, self.mode = function, wanted, device, mode
        self.rounding, self.remedy = rounding, remedy
        self.works = wanted == "on" or (wanted == "auto" and device == "cuda")
        self.fault: str | None = None  # why it does not work, where that has shown
        self.graphs = self.recompilations = 0
        self._programs: dict[Hashable, _Program] = {}

    def __call__(self, *arguments: Tensor, variant: Hashable = None) -> Tensor:
        """Return the function's result. A `variant` is what else its program depends on, beside the arguments' shapes.

        Raises CompilerFailed, which leaves what has to be done about it to the caller.
        """
        if not self.works:
            return self.function(*arguments)
        shapes = tuple((tuple(argument.shape), argument.dtype) for argument in arguments)
        key = (shapes, variant, torch.get_num_threads(), torch.is_grad_enabled())
        if key in self._programs:
            return self._run(self._programs[key], arguments)
        use_cache_of_this_processor()
        with torch.no_grad(), _random_state(self.device):
            expected = self.function(*arguments)  # what fails here as well is no fault of the compiler
        # Not dynamic: a resumed process must run the same kernels, whatever came before.
        program = _Program(torch.compile(_with_own_code(self.function), dynamic=False, mode=self.mode))
        result = self._run(program, arguments)
        if not _alike(result.detach(), expected, arguments, self.rounding):
            raise self._failed(f"a result of {_in_words(result)} where it should be {_in_words(expected)}")
        self._programs[key] = program
        return result

    @contextlib.contextmanager
    def watch(self) -> Generator[None]:
        """Watch the backward pass, which may be compiled then only: raises CompilerFailed if that fails."""
        try:
            with output_to_errors() if self.works else contextlib.nullcontext():
                yield
        except Exception as error:
            if not self.works or is_out_of_memory(error) or not _compiler_has_part_in(error):
                raise
            raise self._failed(_reason(error)) from error

    def try_out(self) -> None:
        """Note as `fault` if the compiler does not even compile a small function: known before anything is begun."""
        if self.works and self.fault is None:
            self.fault = compiler_fault(self.device)

    def require(self) -> None:
        """Raise CompilerFailed if it has a fault."""
        if self.fault is not None:
            raise self.error(self.fault)

    def error(self, fault: str) -> CompilerFailed:
        """Make what to raise where nothing else can be done."""
        return CompilerFailed(f"torch.compile does not work here ({fault}); {NEEDS[self.device]}; or {self.remedy}")

    def give_up(self, fault: str) -> None:
        """Go on with the function as it is."""
        self.works, self.fault = False, fault
        self.forget()

    def forget(self) -> None:
        """Compile anew at the next call, as after a change of what the function consists of."""
        self._programs.clear()

    def figures(self) -> dict[str, Any]:
        """Return what the records of a training say of it."""
        again = {"recompilations": self.recompilations} if self.recompilations else {}
        return {"compiled": self.works, **again}

    def in_words(self) -> str:
        """Say whether it is compiled, and if not, why."""
        if self.works:
            again = f", {self.recompilations} of them once more" if self.recompilations else ""
            return f"yes, {self.graphs} programs{again}"
        return "no" if self.fault is None else f"no: {self.fault}"

    def _run(self, program: _Program, arguments: tuple[Tensor, ...]) -> Tensor:
        first, before = program.calls == 0, _graphs()
        try:
            with _strict(), output_to_errors():  # a compiler may print
                result = program.run(*arguments)
        except Exception as error:
            if is_out_of_memory(error) or not (first or _compiler_has_part_in(error)):
                raise
            raise self._failed(_reason(error)) from error
        new = _graphs() - before
        program.calls += 1
        self.graphs += new
        if new and not first:
            self._count_again(program)
        return result

    def _count_again(self, program: _Program) -> None:
        """Raise CompilerFailed if a program that was complete is compiled again and again."""
        program.recompilations += 1
        self.recompilations += 1
        if program.recompilations == MOST_RECOMPILATIONS:
            raise self._failed(f"one program had to be compiled {MOST_RECOMPILATIONS} times again")

    def _failed(self, fault: str) -> CompilerFailed:
        self.fault = fault
        return self.error(fault)


def _with_own_code(function: Function) -> Function:
    """Call the function through code of its own: what Dynamo keeps and counts beside it belongs to it alone."""

    def program(*arguments: Tensor) -> Tensor:
        return function(*arguments)

    name = f"program_{next(_numbers)}"
    code = program.__code__.replace(co_name=name, co_qualname=name)
    return FunctionType(code, program.__globals__, name, None, program.__closure__)


@contextlib.contextmanager
def _strict() -> Generator[None]:
    """Let what would go over Dynamo's limit fail in this context, instead of being run uncompiled.

    The limit is higher: where the hooks of sharded weights cut a model, all its layers share their code's entries.
    Dropout of attention that is computed again draws by torch's generator, which is seeded for each step, and not by
    one of the program's own, which would draw otherwise after a resumption (on CUDA).
    """
    from torch._functorch import config as functorch

    limits = {"recompile_limit": MOST_GRAPHS, "accumulated_recompile_limit": MOST_GRAPHS}
    with (
        torch._dynamo.config.patch({"fail_on_recompile_limit_hit": True, "suppress_errors": False} | limits),
        functorch.patch(graphsafe_rng_functionalization=False),
    ):
        yield


def _graphs() -> int:
    """Count what has been compiled in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@contextlib.contextmanager
def _random_state(device: str) -> Generator[None]:
    """Draw random numbers in this context, and leave no trace of it."""
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _alike(result: Tensor, expected: Tensor, arguments: tuple[Tensor, ...], rounding: float) -> bool:
    """Tell whether two results differ by rounding alone; sums over an argument's elements may by that for each."""
    if not torch.isfinite(expected).all():
        return True  # a model that is broken in either way
    scale = float(expected.abs().max()) + (arguments[-1].numel() if expected.dim() < 2 else 0)
    return float((result - expected).abs().max()) <= rounding * scale


def _in_words(result: Tensor) -> str:
    return f"{float(result):.6g}" if result.dim() == 0 else f"{float(result.flatten()[0]):.6g} …"


def _is_of_compiler(error: BaseException) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch", "triton"))


def _compiler_has_part_in(error: BaseException) -> bool:
    return any(map(_is_of_compiler, causes(error)))


def _reason(error: BaseException) -> str:
    """Say it in a line: the first of what it all came from."""
    chain = list(causes(error))
    origin = ([cause for cause in chain if _is_of_compiler(cause)] or chain)[-1]
    lines = [line.strip() for line in str(origin).splitlines() if line.strip()]
    return f"{type(origin).__name__}: {lines[0]:.200}" if lines else type(origin).__name__


@functools.cache
def compiler_fault(device: str) -> str | None:
    """Find what keeps a small function and its gradient from being compiled and computed; None where nothing does."""

    def small(x: Tensor) -> Tensor:
        return (torch.tanh(x @ x) * x).sum()

    trial = Compiled(small, "on", device)
    x = torch.linspace(-1, 1, 64 * 64, device=device).view(64, 64).requires_grad_()
    try:
        with torch.enable_grad():
            (expected,) = torch.autograd.grad(small(x), x)
            loss = trial(x)
            with trial.watch():
                (gradient,) = torch.autograd.grad(loss, x)
    except CompilerFailed:
        return trial.fault
    good = _alike(gradient, expected, (), trial.rounding)
    return None if good else f"a gradient of {_in_words(gradient)} where it should be {_in_words(expected)}"


# ---- its files ----


def use_cache_of_this_processor() -> None:
    """Have Inductor keep its files in a directory of this kind of processor and this number of threads.

    The processor is not in the name that it gives a graph compiled for a CPU, up to torch 2.13 at least, and what was
    generated for vectors of 16 numbers gives NaN, or writes beyond its memory, where they have 8. The number of
    threads is in it since torch 2.13 only (pytorch issue 184444).
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    base = Path(os.environ.get(CACHE) or default_cache_dir())
    if base.name.startswith(CACHE_PREFIX):  # of a parent process, or of another number of threads
        base = base.parent
    os.environ[CACHE] = str(base / f"{CACHE_PREFIX}{processor()}-{torch.get_num_threads()}")


def processor() -> str:
    """Describe what code is generated for: how wide its vectors are, and a hash of all that it can do."""
    capability = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-")
    return f"{capability}-{hashlib.sha256(_processor_features().encode()).hexdigest()[:8]}"


@functools.cache
def _processor_features() -> str:
    """List them as the system names them; `-march=native` uses every one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("flags", "Features", "model name", "vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0].strip() in kinds}))
