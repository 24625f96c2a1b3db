"""TinyStories (Eldan and Li 2023): stories that a small model can learn to tell; a file of others validates."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gpt.choices import Overlap
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.download import RemoteFile, beside
from gpt.corpus.hub import Folder, list_folder
from gpt.corpus.recipes import Recipe
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Splitter

REPOSITORY = "roneneldan/TinyStories"
COMMIT = "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
FILES = {"v1": "TinyStories", "v2": "TinyStoriesV2-GPT4"}


@dataclass(frozen=True)
class TinyStories(Recipe):
    """Prepare TinyStories, downloaded (2 GB): short stories in simple words. Its own validation file validates."""

    version: Literal["v1", "v2"] = "v2"
    """v2 are stories by GPT-4 alone, v1 those by GPT-3.5, too."""
    revision: str = COMMIT
    """Commit, branch or tag of the dataset on the Hugging Face hub."""
    tokenizer: str = "auto"
    """gpt2, bytes, char, bpe:VOCAB, that of a run, dataset or Hugging Face GPT-2, or auto, by the text's size."""
    overlap: Overlap = "move"
    """Leave out stories that share too much with validation, unless those are most (drop: an error), or report it."""
    out: Path = Path("data/tinystories")
    """Dataset directory to write; what is downloaded is kept beside it, in .downloads."""

    def place(self) -> Path:
        return self.out

    @cached_property
    def folder(self) -> Folder:
        return list_folder(REPOSITORY, self.revision, "", beside(self.out))

    def names(self) -> list[str]:
        """List the files that are taken: what trains, and what validates."""
        return [f"{FILES[self.version]}-{part}.txt" for part in ("train", "valid")]

    def downloads(self) -> dict[Path, list[RemoteFile]]:
        return {self.folder.directory: self.folder.chosen(self.names())}

    def source(self) -> TextFiles:
        """Return the stories, one a document; one that is in both files validates."""
        train, validation = self.folder.fetch(self.names())
        return TextFiles([train], validation=[validation])

    def split(self) -> Splitter:
        return SplitByContent(overlap=self.overlap)

    def manifest_entry(self) -> dict[str, Any]:
        hub = {"repository": REPOSITORY, "revision": self.folder.commit}
        return {
            "name": "tinystories",
            "tokenizer": self.tokenizer,
            "version": self.version,
            "overlap": self.overlap,
            **hub,
        }
