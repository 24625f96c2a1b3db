"""A base that is read once, and the adapters that are put on it one after another.

They are those of runs that trained them here, which name their base by its hash, and directories of PEFT's.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gpt.choices import WeightDtype
from gpt.config import TrainConfig
from gpt.device import Target
from gpt.errors import InputError
from gpt.interop import peft
from gpt.interop.hub_names import hub_id
from gpt.log import log
from gpt.model.lora import Adapter
from gpt.runs.checkpoint import list_checkpoints
from gpt.runs.directory import is_run, read_config
from gpt.runs.integrity import weights_sha256
from gpt.runs.load import (
    LoadedRun,
    StoredModel,
    build,
    put_adapter_on,
    put_on,
    read_base,
    read_source,
    ready,
)

NONE = "none"  # in place of an adapter's name
RUNS = Path("runs")


class Adapters:
    """The adapters of a base, each put on its weights anew: these are kept as they were read."""

    def __init__(
        self, base: StoredModel, target: Target, given: Sequence[str | Path] = (), sha256: str | None = None
    ) -> None:
        """`given`: adapters that need not lie under runs/. Raises InputError unless all of them are for the base.

        `sha256`: the hash of the base's weights, if it is known.
        """
        self.base, self.target, self._sha256 = base, target, sha256
        self.given = {path: self._described(path) for path in map(find, given)}
        self.current: Path | None = None
        """The adapter that was put on last."""

    @classmethod
    def open(
        cls, given: Sequence[str | Path], target: Target, source: str | Path | None = None, checkpoint: str = "best"
    ) -> "Adapters":
        """Read the base `source` of adapters, by default what the first one names; `checkpoint` is for one of PEFT's.

        Raises InputError if there is no such base, or if it is not that of all adapters.
        """
        first = find(given[0])
        if not peft.is_adapter(first):
            config = _trained(first)
            named = config if source is None else replace(config, init_from=str(source))
            return cls(read_base(named, first), target, given, config.init_sha256)
        source = peft.base_of(first).source if source is None else source
        if source is None:
            raise InputError(f"{first}: does not say by base_model_name_or_path for what it is: name that by `run`")
        base = read_source(source, checkpoint)
        if base.is_adapter:
            raise InputError(
                f"`run` {source}: has adapters itself, and two cannot be put on one base: merge that first"
            )
        return cls(base, target, given)

    @classmethod
    def of(cls, run: LoadedRun, target: Target) -> "Adapters":
        """Read the base of a model that was loaded: it is that itself, unless it is a run that trained adapters."""
        config = read_config(run.path) if is_run(run.path) else None
        if config is not None and config.lora.rank:
            adapters = cls(read_base(config, run.path), target, sha256=config.init_sha256)
            adapters.current = run.path
            return adapters
        base = read_source(run.path, str(run.state["step"]) if run.state else "best")
        return cls(replace(base, name=run.source), target)

    def load(self, name: str | Path, checkpoint: str = "best") -> LoadedRun:
        """Give the base with an adapter on it, merged where the target asks for that; or, for none, without.

        Raises InputError if there is no such adapter, or if it is for another base.
        """
        if name == NONE:
            self.current = None
            return ready(build(self.base), self.base, self.target)
        path = find(name)
        if peft.is_adapter(path):
            model = put_adapter_on(self.base, self._read_peft(path), self.target.merged)
            stored = replace(self.base, name=f"{self.base.name}, with the adapter {path}")
            self._compare_base(path)
        else:
            self._require_base(path)
            stored = read_source(path, checkpoint)
            model = put_on(self.base, stored, self.target.merged)
        self.current = path
        return ready(model, stored, self.target)

    def list(self) -> dict[Path, str]:
        """Describe those that were given, those under runs/ that are for this base, and the one that is on it."""
        found, known = dict(self.given), [path.resolve() for path in self.given]
        for path in [*_under(RUNS), *([self.current] if self.current else [])]:
            if path.resolve() not in known:
                with contextlib.suppress(InputError):  # another base's
                    found[path] = self._described(path)
                    known.append(path.resolve())
        return found

    def is_on(self, path: Path) -> bool:
        """Tell whether an adapter is the one that was put on last."""
        return self.current is not None and self.current.resolve() == path.resolve()

    @property
    def sha256(self) -> str:
        """The hash of the base's weights."""
        self._sha256 = self._sha256 or weights_sha256(self.base.weights)
        return self._sha256

    def _described(self, path: Path) -> str:
        """Say what an adapter is. Raises InputError if it is not for this base."""
        if peft.is_adapter(path):
            ranks = {layer.A.size(0) for layer in self._read_peft(path).layers.values()}
            return f"PEFT's, rank {' and '.join(map(str, sorted(ranks)))}"
        config = self._require_base(path)
        if not list_checkpoints(path):
            raise InputError(f"{path}: has no checkpoint yet")
        return f"rank {config.lora.rank}, {', '.join(config.lora.targets)}"

    def _read_peft(self, path: Path) -> Adapter:
        adapter = peft.read_adapter(path, self.base.config)
        for name, layer in adapter.layers.items():
            have, wanted = (layer.B.size(0), layer.A.size(1)), tuple(self.base.weights[f"{name}.weight"].shape)
            if have != wanted:
                raise InputError(
                    f"{path}: maps {have[1]} numbers to {have[0]} at {name}, and {self.base.name} has {wanted[1]} and "
                    f"{wanted[0]} there: it is for another base"
                )
        return adapter

    def _compare_base(self, path: Path) -> None:
        """Warn where an adapter of PEFT's says that it was trained on something else: only shapes can be compared."""
        base = peft.base_of(path)
        names = {str(base.name), str(base.source), hub_id(str(base.name)), str(Path(str(base.name)).absolute())}
        ours = {self.base.name, self.base.name.partition("@")[0], str(self.base.path.absolute())}
        if base.name and not names & ours:
            log.warning(f"{path}: was trained on {base.source}, and is put on {self.base.name}, whose shapes fit")

    def _require_base(self, path: Path) -> TrainConfig:
        config = _trained(path)
        if config.init_sha256 != self.sha256:
            raise InputError(
                f"`adapter` {path}: was trained on {config.init_from} with the SHA-256 {config.init_sha256}, and "
                f"{self.base.name} has {self.sha256}: name its own base, or leave the base out"
            )
        return config


def load_adapter(
    adapter: str | Path,
    source: str | Path | None = None,
    device: str = "cpu",
    dtype: WeightDtype = "float32",
    prepacked: bool = False,
    checkpoint: str = "best",
) -> LoadedRun:
    """Load an adapter on the base `source`, by default its own, as `load_run` loads a run.

    `checkpoint` is one of the adapter's run; for an adapter of PEFT's, of the base. Raises InputError as `Adapters`.
    """
    return Adapters.open([adapter], Target.of(device, dtype, prepacked), source, checkpoint).load(adapter, checkpoint)


def _trained(path: Path) -> TrainConfig:
    """Read the config of a run that trained adapters. Raises InputError if it trained none."""
    config = read_config(path)
    if not config.lora.rank:
        raise InputError(f"`adapter` {path}: holds whole weights, and no adapter; name it by `run`")
    return config


def find(name: str | Path) -> Path:
    """Return the directory of an adapter, also one below runs/ by its bare name. Raises InputError if there is none."""
    path = Path(name)
    places = [path, RUNS / path] if path.parent == Path() else [path]
    found = next((place for place in places if is_run(place) or peft.is_adapter(place)), None)
    if found is None:
        is_what = "is neither a run nor an adapter of PEFT's" if path.exists() else "there is no such directory"
        raise InputError(f"{name}: {is_what}; name a run that trained adapters, or a directory with {peft.CONFIG}")
    return found


def _under(parent: Path) -> Iterator[Path]:
    """Yield what may be an adapter, also beside the base that `gpt export --adapter` wrote."""
    for path in sorted(parent.glob("*")):
        if peft.is_adapter(path) or is_run(path):
            yield path
        elif peft.is_adapter(path / "adapter"):
            yield path / "adapter"
