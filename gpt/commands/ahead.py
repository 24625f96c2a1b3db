"""What a command begins before its libraries are loaded: those seconds leave a processor idle.

Arguments are only guessed at here: nothing depends on it but time.
"""

import contextlib
import os
from collections.abc import Sequence

from gpt.errors import InputError
from gpt.files import hash_ahead

NOTHING_TO_BEGIN = {"-h", "--help", "--dry-run"}


def begin(command: str, arguments: Sequence[str]) -> None:
    """Begin what a command will want, as far as its arguments tell."""
    if NOTHING_TO_BEGIN.intersection(arguments):
        return
    if command == "sample":
        hash_weights(arguments)
    if command == "train" and os.environ.get("RANK", "0") == "0":  # of several processes, one reports
        from gpt.training.beside import beside

        beside.begin(_value("--data", arguments))


def hash_weights(arguments: Sequence[str]) -> None:
    """Begin to hash what `gpt sample` is to load: the best weights of --run, or of the newest run."""
    if any(word.startswith("--checkpoint") for word in arguments):
        return
    from gpt.runs.checkpoint import MODEL, best_path
    from gpt.runs.directory import by_name, newest_run

    with contextlib.suppress(InputError, OSError):  # which the command will meet as well, and say
        run = _value("--run", arguments)
        best = best_path(by_name(run) if run else newest_run(with_checkpoint=True))
        if best is not None:
            hash_ahead(best / MODEL)


def _value(flag: str, arguments: Sequence[str]) -> str | None:
    """Find what follows a flag, as another argument or behind an equals sign; None where it is not given."""
    for word, following in zip(arguments, [*arguments, None][1:], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
