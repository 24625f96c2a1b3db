"""OpenWebText (Gokaslan and Cohen 2019): pages that Reddit pointed to, as the text that GPT-2 was trained on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt.corpus.download import beside
from gpt.corpus.hub import Folder, list_folder
from gpt.corpus.readers.parquet import require_parquet
from gpt.corpus.recipes.parquet import ParquetOfHub
from gpt.errors import check_limits

REPOSITORY, FOLDER = "Skylion007/openwebtext", "plain_text"
COMMIT = "79d93d786212f7344586290adb811d4ae6a1762c"


@dataclass(frozen=True)
class OpenWebText(ParquetOfHub):
    """Prepare OpenWebText, downloaded: 9 billion of GPT-2's tokens. Some of its 80 files will do."""

    revision: str = COMMIT
    """Commit, branch or tag of the dataset on the Hugging Face hub."""
    out: Path = Path("data/openwebtext")
    """Dataset directory to write; what is downloaded is kept beside it, in .downloads."""

    def place(self) -> Path:
        return self.out

    @cached_property
    def folder(self) -> Folder:
        check_limits(self)
        require_parquet()
        return list_folder(REPOSITORY, self.revision, FOLDER, beside(self.out))

    def manifest_entry(self) -> dict[str, Any]:
        named = {"name": "openwebtext", "tokenizer": self.tokenizer, "validation_share": self.validation_share}
        return named | {"repository": REPOSITORY, "revision": self.folder.commit, "files": len(self.names())}
