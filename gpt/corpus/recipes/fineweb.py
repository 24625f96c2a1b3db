"""FineWeb and FineWeb-Edu (Penedo et al. 2024): pages of Common Crawl, cleaned, and those of them that teach."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gpt.choices import EncoderName
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.download import RemoteFile, beside
from gpt.corpus.formats import require_parquet
from gpt.corpus.hub import Folder, list_folder
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Split
from gpt.errors import bounded, check_limits

COMMITS = {
    "HuggingFaceFW/fineweb": "9bb295ddab0e05d785b879661af7260fed5140fc",
    "HuggingFaceFW/fineweb-edu": "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
}


@dataclass(frozen=True)
class FineWeb:
    """Prepare a sample of FineWeb or FineWeb-Edu, downloaded. Some of its files will do."""

    edu: bool = False
    """Take FineWeb-Edu, the pages that teach something."""
    sample: Literal["10BT", "100BT", "350BT"] = "10BT"
    """The sample, by how many billions of GPT-2's tokens it has; that of 10 is a download of about 30 GB."""
    files: int | None = bounded(None, ge=1)
    """Take the first so many files of the sample only, of 2 GB each."""
    revision: str | None = None
    """Commit, branch or tag of the dataset on the Hugging Face hub, instead of the one that is built in."""
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
    out: Path | None = None
    """Dataset directory to write, instead of data/fineweb or data/fineweb-edu; the download is kept beside it."""

    def place(self) -> Path:
        return self.out or Path("data") / self.repository.rpartition("/")[2]

    @property
    def repository(self) -> str:
        return "HuggingFaceFW/fineweb-edu" if self.edu else "HuggingFaceFW/fineweb"

    @cached_property
    def folder(self) -> Folder:
        check_limits(self)
        require_parquet()
        revision = self.revision or COMMITS[self.repository]
        return list_folder(self.repository, revision, f"sample/{self.sample}", beside(self.place()))

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
        named = {"name": "fineweb", "tokenizer": self.tokenizer, "validation_share": self.validation_share}
        hub = {"repository": self.repository, "revision": self.folder.commit, "sample": self.sample}
        return named | hub | {"files": len(self.names())}
