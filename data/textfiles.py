"""Your own text: txt, md, source code, whatever is UTF-8, or JSON Lines with the field that holds the text."""

from pathlib import Path
from typing import Annotated

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

from tyro.conf import arg

from gpt.commands import launch, print_dataset
from gpt.corpus.pipeline import prepare, require_plain, require_share
from gpt.corpus.sources import TextFiles


def main(
    inputs: Annotated[list[Path], arg(name="input")],
    name: str,
    field: str | None = None,
    tokenizer: str = "auto",
    out: Path | None = None,
    validation_share: float = 0.1,
) -> None:
    """Prepare your own text as a dataset.

    Args:
        inputs: Files and directories; a directory is read with all below it, hidden ones left out.
        name: Name of the dataset, written to data/NAME.
        field: Field of JSON Lines (.jsonl) files that holds the text.
        tokenizer: gpt2, bytes, char, bpe:VOCAB, or a run or dataset directory whose tokenizer to use; auto takes
            bytes or a BPE by the size of the text.
        out: Dataset directory to write, instead of data/NAME.
        validation_share: Share of the text that validates, and is not trained on; at most 50 million characters.
    """
    require_share(validation_share)
    require_plain(name)
    files = TextFiles(inputs, field, validation_share)
    recipe = {"name": "textfiles", "tokenizer": tokenizer, "input": [str(path) for path in inputs], "field": field}
    recipe["validation_share"] = validation_share
    print_dataset(prepare(files.documents, tokenizer, out or Path("data") / name, recipe, files.skipped))


if __name__ == "__main__":
    launch(main)
