"""Where the time of a training step goes: a trace of a few steps, and the operations that cost most."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from gpt.log import log
from gpt.runs.directory import TRACE

WARM_UP, TRACED, SHOWN = 3, 3, 10  # steps, steps, operations


@contextlib.contextmanager
def step_profiler(run: Path, device: str) -> Generator[Callable[[], None]]:
    """Profile the steps in this context; call its value after each.

    Steps 4 to 6 from here are traced into the run's trace.json (to be opened in ui.perfetto.dev), and the operations
    that took longest are said.
    """

    def report(trace: profile) -> None:
        # A trace that cannot be written must not stop training; torch at times raises nothing, and writes nothing.
        with contextlib.suppress(OSError, RuntimeError):
            trace.export_chrome_trace(str(run / TRACE))
        written = (run / TRACE).is_file()
        log.info(f"a trace of {TRACED} steps: {run / TRACE}" if written else f"{run / TRACE}: cannot be written")
        order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
        log.info(f"the {SHOWN} costliest operations of {TRACED} steps:")
        log.info(trace.key_averages().table(sort_by=order, row_limit=SHOWN, max_name_column_width=60))

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    steps = schedule(wait=0, warmup=WARM_UP, active=TRACED, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=report) as trace:
        yield trace.step
