"""OpenWebText (Gokaslan and Cohen 2019): pages that Reddit pointed to, as the text that GPT-2 was trained on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt.choices import EncoderName
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.download import RemoteFile, beside
from gpt.corpus.formats import require_parquet
from gpt.corpus.hub import Folder, list_folder
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Split
from gpt.errors import bounded, check_limits

REPOSITORY, FOLDER = "Skylion007/openwebtext", "plain_text"
COMMIT = "79d93d786212f7344586290adb811d4ae6a1762c"


@dataclass(frozen=True)
class OpenWebText:
    """Prepare OpenWebText, downloaded: 9 billion of GPT-2's tokens. Some of its 80 files will do."""

    files: int | None = bounded(None, ge=1)
    """Take the first so many files only."""
    revision: str = COMMIT
    """Commit, branch or tag of the dataset on the Hugging Face hub."""
    tokenizer: str = "gpt2"
    """gpt2, bytes, char, bpe:VOCAB, or a run, a dataset or a Hugging Face GPT-2 whose tokenizer to use."""
    validation_share: float = 0.01
    """Share of the text that validates, and is not trained on; at most 50 million characters."""
    workers: str = "all"
    """Processes that read and encode, all for one a processor, or dask://HOST:PORT; the same files come out."""
    part: str = "1/1"
    """I/N for the I-th of N jobs that prepare the same on a common disk, such as those of a SLURM array."""
    encoder: EncoderName = "auto"
    """gigatoken, of the extra `fast`, or tiktoken; auto takes gigatoken where it is there; the same ids come out."""
    out: Path = Path("data/openwebtext")
    """Dataset directory to write; what is downloaded is kept beside it, in .downloads."""

    def place(self) -> Path:
        return self.out

    @cached_property
    def folder(self) -> Folder:
        check_limits(self)
        require_parquet()
        return list_folder(REPOSITORY, self.revision, FOLDER, beside(self.out))

    def names(self) -> list[str]:
        """List the files that are taken."""
        return self.folder.names(".parquet")[: self.files]

    def downloads(self) -> tuple[list[RemoteFile], Path]:
        return self.folder.chosen(self.names()), self.folder.directory

    def source(self) -> TextFiles:
        return TextFiles(self.folder.fetch(self.names()), field="text")

    def split(self) -> Split:
        return SplitByContent(self.validation_share)

    def record(self) -> dict[str, Any]:
        named = {"name": "openwebtext", "tokenizer": self.tokenizer, "validation_share": self.validation_share}
        return named | {"repository": REPOSITORY, "revision": self.folder.commit, "files": len(self.names())}
