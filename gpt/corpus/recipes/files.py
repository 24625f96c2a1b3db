"""Your own text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.corpus.recipes.python import Python
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Split, by_name_or_end
from gpt.errors import InputError


@dataclass(frozen=True)
class Files:
    """Prepare your own text: txt, md, source code, what is UTF-8, or JSON Lines.

    Of fewer than 100 documents the end of each validates; of more, some do.
    """

    input: list[Path]
    """Files and directories; a directory is read with all below it, hidden ones left out."""
    name: str
    """Name of the dataset, written to data/NAME."""
    field: str | None = None
    """Field of JSON Lines (.jsonl) files that holds the text."""
    tokenizer: str = "auto"
    """gpt2, bytes, char, bpe:VOCAB, that of a run, dataset or Hugging Face GPT-2, or auto, by the text's size."""
    validation_share: float = 0.1
    """Share of the text that validates, and is not trained on; at most 50 million characters."""
    out: Path | None = None
    """Dataset directory to write, instead of data/NAME."""

    def place(self) -> Path:
        """Return the directory to write.

        Raises InputError for a name that leads elsewhere than below data/, and for the default corpus's place.
        """
        if Path(self.name).name != self.name or self.name in (".", ".."):
            raise InputError(f"`name` {self.name}: is no plain name; to write elsewhere, give a directory with `out`")
        place = self.out or Path("data") / self.name
        if place == Python.out:
            raise InputError(
                f"{place}: is the place of the standard library of Python, which training reads where it is given no "
                "`data`; choose another `name`"
            )
        return place

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
