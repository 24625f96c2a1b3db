"""The default corpus: the standard library of the Python that runs this, and its help topics. No network."""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.corpus.near_copies import by_family
from gpt.corpus.recipes import Recipe
from gpt.corpus.sources import Texts
from gpt.corpus.split import Splitter

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
FROM_A_TEMPLATE = {"encodings"}  # tables of code pages, one like the other, which a small model would know by heart
SAMPLE_PROMPT = 'class Reader:\n    """Read lines from a file."""\n'


@dataclass(frozen=True)
class Python(Recipe):
    """Prepare the standard library of this Python, the default corpus.

    Of modules that are alike, made from a template, all train or all validate.
    """

    tokenizer: str = "bpe:2048"
    """gpt2, bytes, char, bpe:VOCAB, or a run, a dataset or a Hugging Face GPT-2 whose tokenizer to use."""
    validation_share: float = 0.04
    """Share of the text that validates, and is not trained on."""
    out: Path = Path("data/python")
    """Dataset directory to write."""

    def place(self) -> Path:
        return self.out

    def source(self) -> Texts:
        return Texts((name, text) for name, text in texts() if text)

    def split(self) -> Splitter:
        return by_family(self.validation_share)

    def manifest_entry(self) -> dict[str, Any]:
        named = {"name": "python", "tokenizer": self.tokenizer, "sample_prompt": SAMPLE_PROMPT}
        return named | {"validation_share": self.validation_share}


def texts() -> Iterator[tuple[str, str]]:
    """Yield every module of the standard library, by its path, and every help topic of `pydoc`."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if (LEFT_OUT | FROM_A_TEMPLATE).isdisjoint(relative.parts) and relative.as_posix() != "pydoc_data/topics.py":
            yield relative.as_posix(), path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield f"pydoc_data/topics/{name}", text.replace("\r\n", "\n")
