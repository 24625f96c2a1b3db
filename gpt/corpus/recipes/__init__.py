"""Corpora by name: a recipe is a source, a split and their settings. RECIPES of commands/prepare.py lists them."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gpt.corpus.download import RemoteFile
from gpt.corpus.sources import Source
from gpt.corpus.split import Splitter


class Recipe(Protocol):
    """The settings of one corpus; its fields are the options of the command."""

    @property
    def tokenizer(self) -> str: ...

    def place(self) -> Path:
        """Return the dataset directory to write."""

    def source(self) -> Source:
        """Return where the documents come from."""

    def split(self) -> Splitter:
        """Return how they are divided between training and validation."""

    def manifest_entry(self) -> dict[str, Any]:
        """Return what the manifest says of the recipe."""

    def steps(self) -> dict[str, Any]:
        """Return what of the pipeline is this recipe's own: `filters` of documents, or `examples` in their place."""
        return {}


@runtime_checkable
class Remote(Protocol):
    """A recipe that downloads."""

    def downloads(self) -> dict[Path, list[RemoteFile]]:
        """Return the files that it takes, by the directory in which they are kept. Nothing is written."""
