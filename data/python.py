"""The default corpus: the standard library of the Python that runs this, and its help topics. No network."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

from gpt.commands import launch, print_dataset
from gpt.corpus.near_copies import validation_names
from gpt.corpus.pipeline import Document, prepare, require_share

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
FROM_A_TEMPLATE = {"encodings"}  # tables of code pages, one like the other, which a small model would know by heart
SAMPLE_PROMPT = 'class Reader:\n    """Read lines from a file."""\n'


def texts() -> Iterator[tuple[str, str]]:
    """Every module of the standard library, by its path, and every help topic of `pydoc`."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if (LEFT_OUT | FROM_A_TEMPLATE).isdisjoint(relative.parts) and relative.as_posix() != "pydoc_data/topics.py":
            yield relative.as_posix(), path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield f"pydoc_data/topics/{name}", text.replace("\r\n", "\n")


def documents(validation_share: float = 0.04) -> list[Document]:
    """The texts, but for empty ones; much of the library is made from templates, so near-copies stay on one side."""
    corpus = {name: text for name, text in texts() if text}
    validation = validation_names(corpus, validation_share)
    return [Document(name, text, "validation" if name in validation else "train") for name, text in corpus.items()]


def main(tokenizer: str = "bpe:2048", out: Path = Path("data/python"), validation_share: float = 0.04) -> None:
    """Prepare the standard library of this Python as a dataset.

    Args:
        tokenizer: gpt2, bytes, char, bpe:VOCAB, or a run or dataset directory whose tokenizer to use.
        out: Dataset directory to write.
        validation_share: Share of the text that validates, and is not trained on.
    """
    require_share(validation_share)
    corpus = documents(validation_share)
    recipe = {"name": "python", "tokenizer": tokenizer, "sample_prompt": SAMPLE_PROMPT}
    print_dataset(prepare(lambda: corpus, tokenizer, out, recipe | {"validation_share": validation_share}))


if __name__ == "__main__":
    launch(main)
