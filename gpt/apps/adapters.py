"""What an interactive session says and does of adapters."""

from gpt.device import Target
from gpt.errors import InputError
from gpt.runs.adapters import NONE, Adapters, find
from gpt.runs.load import LoadedRun


class Switch:
    """Puts other adapters on the base of a session's model. It is read when that is first asked for, and then kept."""

    def __init__(
        self, target: Target, run: LoadedRun | None = None, adapters: Adapters | None = None, checkpoint: str = "best"
    ) -> None:
        """Begin with a model whose base was read already, or with none, and with the checkpoint it was asked for.

        At that one it comes back, too. Adapters of other runs are put on at their last checkpoint if it is `last`, else
        at their best, as a step is that of one run.
        """
        self.target, self.checkpoint, self._run, self._adapters = target, checkpoint, run, adapters
        self._first = run and run.path.resolve()

    def listing(self, run: LoadedRun) -> str:
        """List the adapters of a model's base, a line each; a star stands before the one that is on it."""
        adapters = self._of(run)
        found = adapters.list()
        rows = [(NONE, adapters.base.name, adapters.current is None)]
        rows += [(str(path), what, adapters.is_on(path)) for path, what in found.items()]
        width = max(len(name) for name, *_ in rows)
        return "".join(f"{'*' if on else ' '} {name:{width}}  {what}\n" for name, what, on in rows)

    def put(self, run: LoadedRun, name: str) -> LoadedRun:
        """Give a model's base with another adapter, or with none. Raises InputError as `Adapters.load`."""
        if not name:
            raise InputError(f"/adapter takes the name of an adapter, as /adapters lists them, or {NONE}")
        adapters = self._of(run)
        is_first = name != NONE and find(name).resolve() == self._first
        self._run = adapters.load(name, self.checkpoint if is_first or self.checkpoint == "last" else "best")
        return self._run

    def _of(self, run: LoadedRun) -> Adapters:
        if self._adapters is None or run is not self._run:  # another model was loaded
            self._adapters, self._run = Adapters.of(run, self.target), run
        return self._adapters
