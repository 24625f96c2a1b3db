"""The default corpus: the standard library of the Python that runs this, and its help topics. No network."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gpt.cli import describe, run
from gpt.tokens.prepare import Document, prepare, split_by_hash

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
VALIDATION_SHARE = 0.04
SAMPLE_PROMPT = 'class Reader:\n    """Read lines from a file."""\n'


def documents() -> Iterator[Document]:
    """Every module of the standard library, by its path, and every help topic of `pydoc`."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if LEFT_OUT.isdisjoint(relative.parts) and relative.as_posix() != "pydoc_data/topics.py":
            yield document(relative.as_posix(), path.read_bytes().decode("utf-8", errors="replace"))
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield document(f"pydoc_data/topics/{name}", text)


def document(name: str, text: str) -> Document:
    return Document(name, text.replace("\r\n", "\n"), split_by_hash(name, VALIDATION_SHARE))


def main(tokenizer: str = "bpe:2048", out: Path = Path("data/python")) -> None:
    """Prepare the standard library of this Python as a dataset.

    Args:
        tokenizer: gpt2, bytes, char, bpe:VOCAB, or a run or dataset directory whose tokenizer to use.
        out: Dataset directory to write.
    """
    describe(
        prepare(documents, tokenizer, out, {"name": "python", "tokenizer": tokenizer, "sample_prompt": SAMPLE_PROMPT})
    )


if __name__ == "__main__":
    run(main)
