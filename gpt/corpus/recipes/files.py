"""Your own text."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.choices import Overlap, UnicodeForm
from gpt.corpus.addresses import remote_file
from gpt.corpus.content_split import SplitByContent
from gpt.corpus.documents import FileOptions, ReadOptions
from gpt.corpus.download import DIRECTORY, RemoteFile, beside
from gpt.corpus.reading import Filters
from gpt.corpus.recipes import Recipe
from gpt.corpus.recipes.python import Python
from gpt.corpus.sources import ADDRESS, TextFiles
from gpt.corpus.split import Splitter
from gpt.errors import InputError


@dataclass(frozen=True)
class Files(Recipe):
    """Prepare your own text: files of text, HTML, JSON, CSV or Parquet, packed or not.

    Each file is a document, or many, by its records or separators. Some, or passages of long ones, validate, chosen by
    a hash of their content. Text that is added later changes nothing of that.
    """

    input: list[str]
    """Files, packed or not, archives, patterns such as 'notes/*.md', directories, https addresses, or - for stdin."""
    name: str
    """Name of the dataset, written to data/NAME."""
    reading: FileOptions = dataclasses.field(default_factory=FileOptions)
    """How files are read."""
    tokenizer: str = "auto"
    """gpt2, bytes, char, bpe:VOCAB, that of a run, dataset or Hugging Face GPT-2, or auto, by the text's size."""
    validation_share: float | None = None
    """Share of the text that validates, and is not trained on: a tenth; at most 50 million characters."""
    validation: list[str] = dataclasses.field(default_factory=list)
    """Files and directories that validate, instead of a share of the text."""
    overlap: Overlap = "move"
    """Move training text that shares too much with validation there, drop it, or only report how much it is."""
    max_overlap: float = 0.1
    """Share of its 13-grams that a passage may have in common with the other side."""
    normalize: UnicodeForm = "none"
    """Bring all text into a normal form of Unicode."""
    min_characters: int = 0
    """Leave out shorter documents."""
    max_characters: int | None = None
    """Leave out longer documents."""
    out: Path | None = None
    """Dataset directory to write, instead of data/NAME."""

    def place(self) -> Path:
        """Return the directory to write.

        Raises InputError for a name that leads elsewhere than below data/, and for the default corpus's place.
        """
        return named_place(self.name, self.out)

    def source(self) -> TextFiles:
        how, kept = ReadOptions(**vars(self.reading)), self.place().parent / DIRECTORY
        return TextFiles(self.input, how=how, validation=self.validation, downloads=kept)

    def downloads(self) -> dict[Path, list[RemoteFile]]:
        return addresses(self.input, self.validation, self.place())

    def steps(self) -> dict[str, Any]:
        """Return what becomes of documents first. Raises InputError for limits that nothing can keep."""
        return {"filters": Filters(self.normalize, self.min_characters, self.max_characters)}

    def split(self) -> Splitter:
        return SplitByContent(chosen_share(self.validation_share, self.validation), self.overlap, self.max_overlap)

    def manifest_entry(self) -> dict[str, Any]:
        settings = vars(self.reading) | vars(self.steps()["filters"]) | vars(self.split())
        paths = {"input": [*map(str, self.input)], "validation": [*map(str, self.validation)]}
        return {"name": "files", "tokenizer": self.tokenizer} | settings | paths


def addresses(inputs: list[str], validation: list[str], place: Path) -> dict[Path, list[RemoteFile]]:
    """Return what is to be downloaded of what was given, by the directory in which it is kept."""
    given = [("input", each) for each in inputs] + [("validation", each) for each in validation]
    found = [remote_file(each, setting, beside(place)) for setting, each in given if ADDRESS.match(each)]
    return {directory: [file] for file, directory in found}


def chosen_share(share: float | None, validation: list[str]) -> float:
    """Return the share that validates. Raises InputError for one beside files that validate."""
    if share is not None and validation:
        raise InputError("`validation_share` has no effect beside `validation`, all of which validates: give one")
    return SplitByContent.share if share is None else share


def named_place(name: str, out: Path | None) -> Path:
    """Return the directory to write a dataset of a name to, if no other was given.

    Raises InputError for a name that leads elsewhere than below data/, and for the default corpus's place.
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise InputError(f"`name` {name}: is no plain name; to write elsewhere, give a directory with `out`")
    place = out or Path("data") / name
    if place == Python.out:
        raise InputError(
            f"{place}: is the place of the standard library of Python, which training reads where it is given no "
            "`data`; choose another `name`"
        )
    return place
