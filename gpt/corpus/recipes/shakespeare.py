"""tinyshakespeare (Karpathy 2015), split as in nanoGPT so that losses compare: the first 90 % of characters train."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.corpus.documents import Document
from gpt.corpus.download import RemoteFile, beside, download
from gpt.corpus.recipes import Recipe
from gpt.corpus.sources import Texts
from gpt.corpus.split import TRAIN, VALIDATION, Piece, Splitter
from gpt.errors import InputError

FILE = RemoteFile(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "tinyshakespeare.txt",
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


@dataclass(frozen=True)
class ByEnd:
    """Lets the end of each document validate."""

    share: float

    def __call__(self, document: Document) -> Iterator[Piece]:
        cut = int(len(document.text) * (1 - self.share))
        for split, text in ((TRAIN, document.text[:cut]), (VALIDATION, document.text[cut:])):
            if text:
                yield Piece(document.name, split, text)


@dataclass(frozen=True)
class Shakespeare(Recipe):
    """Prepare tinyshakespeare, downloaded, and split as by nanoGPT: its end validates."""

    input: Path | None = None
    """The text, if it is here already."""
    tokenizer: str = "char"
    """gpt2, bytes, char, bpe:VOCAB, or a run, a dataset or a Hugging Face GPT-2 whose tokenizer to use."""
    out: Path = Path("data/shakespeare")
    """Dataset directory to write."""

    def place(self) -> Path:
        return self.out

    def downloads(self) -> dict[Path, list[RemoteFile]]:
        return {} if self.input else {beside(self.out): [FILE]}

    def source(self) -> Texts:
        path = self.input.expanduser() if self.input else download([FILE], beside(self.out))[0]
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != FILE.sha256:
            raise InputError(
                f"{path}: is not the usual tinyshakespeare (its SHA-256 is {digest}, not {FILE.sha256}); "
                "for a text of your own use: gpt prepare files --input FILE --name NAME"
            )
        return Texts({"tinyshakespeare": content.decode("utf-8")})

    def split(self) -> Splitter:
        return lambda corpus: ByEnd(0.1)

    def manifest_entry(self) -> dict[str, Any]:
        return {"name": "shakespeare", "tokenizer": self.tokenizer}
