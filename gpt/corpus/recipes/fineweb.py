"""FineWeb and FineWeb-Edu (Penedo et al. 2024): pages of Common Crawl, cleaned, and those of them that teach."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gpt.corpus.download import beside
from gpt.corpus.hub import Folder, list_folder
from gpt.corpus.readers.parquet import require_parquet
from gpt.corpus.recipes.parquet import ParquetOfHub
from gpt.errors import check_limits

COMMITS = {
    "HuggingFaceFW/fineweb": "9bb295ddab0e05d785b879661af7260fed5140fc",
    "HuggingFaceFW/fineweb-edu": "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
}


@dataclass(frozen=True)
class FineWeb(ParquetOfHub):
    """Prepare a sample of FineWeb or FineWeb-Edu, downloaded. Some of its files will do."""

    edu: bool = False
    """Take FineWeb-Edu, the pages that teach something."""
    sample: Literal["10BT", "100BT", "350BT"] = "10BT"
    """The sample, by how many billions of GPT-2's tokens it has; that of 10 is about 30 GB in files of 2 GB."""
    revision: str | None = None
    """Commit, branch or tag of the dataset on the Hugging Face hub, instead of the one that is built in."""
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

    def manifest_entry(self) -> dict[str, Any]:
        named = {"name": "fineweb", "tokenizer": self.tokenizer, "validation_share": self.validation_share}
        hub = {"repository": self.repository, "revision": self.folder.commit, "sample": self.sample}
        return named | hub | {"files": len(self.names())}
