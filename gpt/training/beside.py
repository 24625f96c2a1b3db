"""A process beside a training, that measures its baselines and draws its picture while the training loads and learns.

At the end they would take seconds, most of them to load matplotlib. The process loads what it needs while the training
loads torch, which leaves a processor idle, and yields to whatever else wants one. Nothing depends on it but time:
where there is none, or it fails, the training does the same work itself.

1. `begin` starts it, at the door of the program, with the data that will probably be trained on.
2. `measure` has it keep the baselines in the run.
3. `draw` asks for loss.png, and `drawn` waits for it, which is its end.

It ends as well when the training does, however that ends, as its standard input does then.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.errors import InputError

if TYPE_CHECKING:
    from gpt.dataset.dataset import Dataset
    from gpt.evaluation.baselines import Measuring
    from gpt.evaluation.windows import Windows

ROOT = str(Path(__file__).parents[2])
PROGRAM = (
    f"import sys; {ROOT!r} in sys.path or sys.path.insert(0, {ROOT!r}); import gpt.training.beside as it; it.serve()"
)
NICE = 19  # it gets a hundredth of what who trains gets, and all that is idle
PATIENCE = 3.0  # seconds that a training waits for it: on a busy machine it may get no processor
CONTEXT = 1024  # of windows that are laid end to end: the same is predicted with any other
LIFETIME = 900.0  # seconds: in a longer training, those that it saves are nothing, and its memory would lie idle


class Beside:
    """The training's end of the process, if there is one. It is asked in the order of the file's list."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def begin(self, data: str | None = None) -> None:
        """Start the process, which measures what it can of the data at once. The system may have none to give."""
        with contextlib.suppress(OSError):
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                # Ctrl-C is the training's. In a session of its own, it would get as much of a processor as that.
                process_group=0,
            )
            atexit.register(self.end)
            if data:
                self._ask(do="expect", data=data)

    def measure(self, run: Path, dataset: "Dataset", windows: "Windows") -> None:
        """Have it measure the baselines of a training, if its data has any, and keep them in the run."""
        if len(dataset.sources) == 1 and not windows.answers_only:
            self._ask(do="measure", run=str(run), data=str(dataset.path), windows=windows.settings)

    def draw(self, run: Path) -> None:
        """Ask for loss.png."""
        self._ask(do="draw", run=str(run))

    def drawn(self) -> str | None:
        """Give the path of the picture that was asked for, or say why there is none; None if nobody has drawn it."""
        if self.process is None:
            return None
        answer = ""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            answer = self.process.communicate(timeout=PATIENCE)[0]
        self.end()
        return json.loads(answer) if answer.endswith("\n") else None

    def end(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _ask(self, **request: Any) -> None:
        if self.process is not None and self.process.stdin is not None:
            try:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            except OSError:  # it has ended
                self.end()


beside = Beside()


# ---- in the process ----


def serve() -> None:
    """Load what is needed, then do what standard input asks for, until it ends or the picture is drawn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # of a system without such a file; where memory is short, this is to go first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    if hasattr(os, "nice"):
        os.nice(NICE)
    lifetime = threading.Timer(LIFETIME, os._exit, (0,))
    lifetime.daemon = True
    lifetime.start()
    from gpt.dataset.dataset import open_dataset
    from gpt.evaluation.windows import Windows
    from gpt.tracking.plot import draw_losses
    from gpt.training.baseline_rows import keep_baselines

    measuring = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "expect":
            measuring = _expected(Path(request["data"]))
        elif request["do"] == "measure":
            dataset = open_dataset(Path(request["data"]))
            known = measuring if measuring and measuring.dataset.fingerprint == dataset.fingerprint else None
            keep_baselines(Path(request["run"]), dataset, Windows(dataset.validation, **request["windows"]), known)
            measuring = known = None  # what was counted takes memory
        else:
            try:
                answer = str(draw_losses(Path(request["run"])))
            except Exception as error:  # a full disk, or whatever matplotlib does not like; the training says so
                answer = undrawn(error)
            print(json.dumps(answer), file=answers, flush=True)
            os._exit(0)  # to take down what was loaded takes time, for which the training would wait
        for drawing in ("matplotlib.backends.backend_agg", "matplotlib.figure"):
            importlib.import_module(drawing)


def _expected(data: Path) -> "Measuring | None":
    """Measure what most trainings on this data will want, its whole validation split, where it was opened before.

    None where it was not: to check all that there is of it would take long, and the training does so.
    """
    from gpt.dataset.dataset import REMEMBERED, open_dataset
    from gpt.evaluation.baselines import Measuring
    from gpt.evaluation.windows import Windows

    with contextlib.suppress(InputError, OSError):
        if (data / REMEMBERED).exists():
            measuring = Measuring(open_dataset(data))
            measuring.measure(Windows(measuring.dataset.validation, CONTEXT))
            return measuring
    return None


def undrawn(error: Exception) -> str:
    """Say why there is no picture."""
    return f"could not be drawn ({type(error).__name__}: {error})"
