"""Grade runs by lm-evaluation-harness, on the field's tasks."""

import sys
import traceback
from collections.abc import Sequence

from gpt.errors import InputError
from gpt.interrupts import Interruptible

INSTALL = "pip install 'gpt[eval]'"
MODEL = "gpt-run"
OTHERS = ("ls", "validate")  # commands of lm_eval that need no model
USAGE = """\
usage: gpt lm-eval --tasks TASK [TASK ...] [--model_args run=RUN ...] [options]

Grade runs by lm-evaluation-harness, on the field's tasks.

All goes to lm_eval's command line, which the extra `eval` installs. Without
--model it is `--model gpt-run --batch_size auto --device auto`.

  --model_args run=RUN [checkpoint=best|last|STEP] [max_length=N]
               [dtype=auto|float32|bfloat16|float16|int8]
                       the run, by path or by name below runs/, or a GPT-2 of
                       Hugging Face's; by default the newest run, in float32
  --tasks TASK ...     tasks by name, or files of tasks in YAML
  --include_path DIR   where further tasks lie
  --batch_size N       sequences that are read at a time
  --device DEVICE      cpu, cuda or mps; auto takes the best there is
  --num_fewshot N      examples before each question
  --limit N            only the first N rows of each task, to try it
  --gen_kwargs K=V     how texts are written, such as max_gen_toks=64
  --apply_chat_template
                       ask in the form of the conversations that a run learned
  --output_path DIR    keep the results there; --log_samples each row's as well

gpt lm-eval ls tasks lists the tasks; gpt lm-eval run --help shows every option.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run lm_eval's command line with the model `gpt-run`. Raises InputError where it is not installed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ([], ["-h"], ["--help"]):
        print(USAGE, end="")
        return
    with Interruptible():
        _run(with_model(given))


def with_model(given: Sequence[str]) -> list[str]:
    """Write lm_eval's arguments in full: its command, and by default our model, and that model's settings."""
    if given[0] in OTHERS:
        return [*given]
    rest = [*given[1:]] if given[0] == "run" else [*given]
    names = {argument.partition("=")[0] for argument in rest}
    if names & {"-h", "--help", "--model", "-M", "--config", "-C"}:
        return ["run", *rest]
    rest += [] if names & {"--batch_size", "-b"} else ["--batch_size", "auto"]
    rest += [] if "--device" in names else ["--device", "auto"]
    return ["run", "--model", MODEL, *rest]


def _run(arguments: list[str]) -> None:
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        raise InputError(f"lm-eval: lm-evaluation-harness is not installed: {INSTALL} ({error})") from None
    import gpt.apps.harness  # noqa: F401 (it registers the model)

    sys.argv[1:] = arguments
    try:
        cli_evaluate()
    except (ValueError, KeyError, TypeError) as error:
        if _is_theirs(error):  # the harness has found fault with what it was given
            raise InputError(f"lm-eval: {error.args[0] if error.args else error}") from error
        raise


def _is_theirs(error: Exception) -> bool:
    """Tell whether the harness's own code has raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("lm_eval")
