"""tinyshakespeare (Karpathy 2015), split as in nanoGPT so that losses compare: the first 90 % of characters train."""

import hashlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

from gpt.commands import launch, print_dataset
from gpt.corpus.pipeline import Document, prepare
from gpt.errors import InputError

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def main(tokenizer: str = "char", out: Path = Path("data/shakespeare"), input: Path | None = None) -> None:
    """Prepare tinyshakespeare as a dataset.

    Args:
        tokenizer: gpt2, bytes, char, bpe:VOCAB, or a run or dataset directory whose tokenizer to use.
        out: Dataset directory to write.
        input: The text, if it is here already; without it, it is downloaded.
    """
    text = (read(input) if input else download()).decode("utf-8")
    cut = int(len(text) * 0.9)

    def documents() -> Iterator[Document]:
        yield Document("the first 90 %", text[:cut], "train")
        yield Document("the last 10 %", text[cut:], "validation")

    print_dataset(prepare(documents, tokenizer, out, {"name": "shakespeare", "tokenizer": tokenizer}))


def read(path: Path) -> bytes:
    content = path.read_bytes()
    require_usual(content, str(path))
    return content


def download() -> bytes:
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            content = response.read()
    except OSError as error:
        raise InputError(
            f"{URL}: could not be downloaded ({error}); get the file by other means and give it by --input"
        ) from None
    require_usual(content, URL)
    return content


def require_usual(content: bytes, where: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{where}: is not the usual tinyshakespeare (its SHA-256 is {digest}, not {SHA256}); "
            "for a text of your own use: python data/textfiles.py --input FILE --name NAME"
        )


if __name__ == "__main__":
    launch(main)
