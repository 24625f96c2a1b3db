"""Lines that are typed, or come out of a pipe, and the session that answers them."""

from typing import TYPE_CHECKING

from gpt.apps.line_editor import Notes, line_reader, typed_by_hand
from gpt.apps.repl import SETTINGS, Load, Session
from gpt.errors import InputError
from gpt.generation.sampling import SamplingConfig
from gpt.log import log
from gpt.runs.load import LoadedRun

if TYPE_CHECKING:
    from gpt.apps.adapters import Switch


def interact(
    run: LoadedRun,
    sampling: SamplingConfig,
    stops: tuple[str, ...],
    load: Load,
    adapters: "Switch",
    allow_commands: bool = False,
) -> None:
    """Answer lines until they end: typed in a terminal, or out of a pipe.

    A pipe's lines may be anybody's: they reach files and the network only with `allow_commands`.
    """
    notes = Notes()
    trusted = allow_commands or typed_by_hand()
    session = Session(run, sampling, stops, load, notes.write, adapters, trusted)
    notes.write(f"{run.source}: type a text to continue it, /help for the commands, Ctrl-D to leave\n")
    answer_lines(session, notes)


def answer_lines(session: Session, notes: Notes) -> None:
    """Answer lines until they end, or one of them ends the session."""
    with log.through(notes):
        read = line_reader(session.commands.keys() | SETTINGS)
        while True:
            try:
                line = read(session.prompt)
            except EOFError:
                return
            except KeyboardInterrupt:
                continue  # the line that was being typed is dropped, as in a shell
            try:
                session.answer(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                notes.write("[stopped]\n")
            except BrokenPipeError:
                raise
            except (InputError, OSError) as error:
                notes.write(f"{error}\n".replace("`", ""))
