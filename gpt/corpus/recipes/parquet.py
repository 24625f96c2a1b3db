"""What corpora of the hub have in common that are Parquet files in a folder, with a column `text`."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from gpt.corpus.content_split import SplitByContent
from gpt.corpus.download import RemoteFile
from gpt.corpus.hub import Folder
from gpt.corpus.recipes import Recipe
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Splitter
from gpt.errors import bounded


@dataclass(frozen=True)
class ParquetOfHub(Recipe):
    """A folder of which the first files may do."""

    files: int | None = bounded(None, ge=1)
    """Take the first so many files only."""
    tokenizer: str = "gpt2"
    """gpt2, bytes, char, bpe:VOCAB, or a run, a dataset or a Hugging Face GPT-2 whose tokenizer to use."""
    validation_share: float = 0.01
    """Share of the text that validates, and is not trained on; at most 50 million characters."""

    @property
    @abstractmethod
    def folder(self) -> Folder:
        """List the folder. Raises InputError for settings that are none, and where nothing here reads Parquet."""

    def names(self) -> list[str]:
        """List the files that are taken."""
        return self.folder.names(".parquet")[: self.files]

    def downloads(self) -> dict[Path, list[RemoteFile]]:
        return {self.folder.directory: self.folder.chosen(self.names())}

    def source(self) -> TextFiles:
        return TextFiles(self.folder.fetch(self.names()), field="text")

    def split(self) -> Splitter:
        return SplitByContent(self.validation_share)
