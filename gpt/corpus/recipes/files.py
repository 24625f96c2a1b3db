"""Your own text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Split, by_name_or_end
from gpt.errors import InputError


@dataclass(frozen=True)
class Files:
    """Prepare your own text: txt, md, source code, whatever is UTF-8, or JSON Lines.

    Of fewer than 100 documents the end of each validates; of more, some documents, chosen by the hash of their names.
    """

    input: list[Path]
    """Files and directories; a directory is read with all below it, hidden ones left out."""
    name: str
    """Name of the dataset, written to data/NAME."""
    field: str | None = None
    """Field of JSON Lines (.jsonl) files that holds the text."""
    tokenizer: str = "auto"
    """gpt2, bytes, char, bpe:VOCAB, or a run, a dataset or a Hugging Face GPT-2 whose tokenizer to use; auto takes
    bytes or a BPE by the size of the text."""
    validation_share: float = 0.1
    """Share of the text that validates, and is not trained on; at most 50 million characters."""
    out: Path | None = None
    """Dataset directory to write, instead of data/NAME."""

    def place(self) -> Path:
        """Return the directory to write. Raises InputError for a name that leads elsewhere than below data/."""
        if Path(self.name).name != self.name or self.name in (".", ".."):
            raise InputError(f"`name` {self.name}: is no plain name; to write elsewhere, give a directory with `out`")
        return self.out or Path("data") / self.name

    def source(self) -> TextFiles:
        return TextFiles(self.input, self.field)

    def split(self) -> Split:
        return by_name_or_end(self.validation_share)

    def record(self) -> dict[str, Any]:
        return {
            "name": "files",
            "tokenizer": self.tokenizer,
            "input": [str(path) for path in self.input],
            "field": self.field,
            "validation_share": self.validation_share,
        }
