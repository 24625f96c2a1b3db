"""Prompts and answers, of which the answers are learned."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.choices import Faulty, Overlap
from gpt.corpus.content_split import SplitWhole
from gpt.corpus.documents import ReadOptions
from gpt.corpus.download import RemoteFile, beside
from gpt.corpus.examples import Examples
from gpt.corpus.recipes import Recipe
from gpt.corpus.recipes.files import addresses, chosen_share, named_place
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Splitter
from gpt.text.chat_template import CHATML, PLAIN
from gpt.text.templates import named_source


@dataclass(frozen=True)
class Instruct(Recipe):
    """Prepare prompts and answers, of which the answers alone are learned.

    Each line is a JSON object with prompt and completion, or with messages. Alpaca's and ShareGPT's fields are known.
    """

    input: list[str]
    """Files of JSON Lines, packed or not, archives, patterns, directories, https:// addresses, or - for stdin."""
    name: str
    """Name of the dataset, written to data/NAME."""
    max_tokens: int = 1024
    """Cut longer examples to so many tokens, with their end-of-text: the context in which they will be learned."""
    template: str = PLAIN
    """How messages become text: plain, chatml, or a file in Jinja, such as a chat_template.jinja of transformers."""
    faulty: Faulty = "error"
    """Lines that are no examples, or whose answers are cut off, are an error, once all are read, or are skipped."""
    tokenizer: str = "gpt2"
    """gpt2, bytes, char, bpe:VOCAB, or that of a run, dataset or Hugging Face GPT-2 that is to be fine-tuned."""
    validation_share: float | None = None
    """Share of the text that validates, and is not trained on: whole examples, a tenth."""
    validation: list[str] = dataclasses.field(default_factory=list)
    """Files of examples that validate, instead of a share."""
    overlap: Overlap = "move"
    """Move training examples that share too much with validation there, drop them, or only report how much it is."""
    max_overlap: float = 0.1
    """Share of its 13-grams that an example may have in common with the other side."""
    out: Path | None = None
    """Dataset directory to write, instead of data/NAME."""

    def place(self) -> Path:
        """Return the directory to write. Raises InputError for a name that leads elsewhere than below data/."""
        return named_place(self.name, self.out)

    def source(self) -> TextFiles:
        how = ReadOptions(examples=True, template=named_source(self.template))
        return TextFiles(self.input, how=how, validation=self.validation, downloads=beside(self.place()))

    def downloads(self) -> dict[Path, list[RemoteFile]]:
        return addresses(self.input, self.validation, self.place())

    def split(self) -> Splitter:
        return SplitWhole(chosen_share(self.validation_share, self.validation), self.overlap, self.max_overlap)

    def steps(self) -> dict[str, Any]:
        """Return what becomes of examples that are too long, and of lines that are none."""
        return {"examples": Examples(self.max_tokens, self.faulty, named_source(self.template))}

    def manifest_entry(self) -> dict[str, Any]:
        files = {"input": [*map(str, self.input)], "validation": [*map(str, self.validation)]}
        template = self.template if self.template in (PLAIN, CHATML) else self._named_template()
        how = {"template": template, "max_tokens": self.max_tokens, "faulty": self.faulty}
        return {"name": "instruct", "tokenizer": self.tokenizer} | files | how | vars(self.split())

    def _named_template(self) -> str:
        """Name a template's file so that another content is another setting."""
        return f"{self.template}, SHA-256 {hashlib.sha256(named_source(self.template).encode()).hexdigest()[:16]}"
