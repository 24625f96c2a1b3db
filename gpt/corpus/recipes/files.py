"""Your own text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt.choices import BadBytes, Markup
from gpt.corpus.documents import AUTO, Reading
from gpt.corpus.sources import TextFiles
from gpt.corpus.split import Split, by_name_or_end
from gpt.errors import InputError


@dataclass(frozen=True)
class Files:
    """Prepare your own text: txt, md, source code, HTML; JSON Lines, JSON, CSV, TSV and Parquet; packed or not.

    Each file is a document, or holds many: records with a field that is text, or texts with separators between them.
    Of fewer than 100 documents the end of each validates; of more, some documents, chosen by the hash of their names.
    """

    input: list[Path]
    """Files, directories, archives (.zip, .tar, .tar.gz …), patterns such as 'notes/*.md'; - is standard input.
    A directory is read with all below it, hidden ones left out. .gz, .zst, .bz2 and .xz are unpacked."""
    name: str
    """Name of the dataset, written to data/NAME."""
    field: str | None = None
    """Field or column that holds the text, in JSON Lines, JSON, CSV, TSV and Parquet.
    data.content is the field content of an object data."""
    separator: str = AUTO
    """What ends a document within a text file, such as '###' or '\\n\\n\\n'; none keeps each file whole.
    auto finds lines of <|endoftext|>, and form feeds in .txt."""
    encoding: str | None = None
    """Encoding of the files that are not UTF-8 and have no byte-order mark, such as cp1252.
    Without it they are left out, and the likely one is proposed."""
    bad_bytes: BadBytes = "replace"
    """Replace bytes that are no UTF-8, in a text that is, by U+FFFD; skip its document; or end with an error.
    How many there are is said."""
    html: Markup = "drop"
    """Drop the tags, scripts and styles of .html and .htm, or keep them as text."""
    max_unpacked: int = 100
    """How many times its size a compressed file may unpack to; 64 MiB in any case. The rest is left out."""
    zstd_window: int = 27
    """Largest window of a .zst file, as a power of 2 bytes.
    What zstd --long=31 wrote needs 31, and 2 GiB of memory."""
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
        return TextFiles(self.input, how=self.reading())

    def reading(self) -> Reading:
        """Return how the files are read."""
        return Reading(
            field=self.field,
            separator=self.separator,
            encoding=self.encoding,
            bad_bytes=self.bad_bytes,
            html=self.html,
            max_unpacked=self.max_unpacked,
            zstd_window=self.zstd_window,
        )

    def split(self) -> Split:
        return by_name_or_end(self.validation_share)

    def record(self) -> dict[str, Any]:
        return {
            "name": "files",
            "tokenizer": self.tokenizer,
            "input": [str(path) for path in self.input],
            **{name: value for name, value in vars(self.reading()).items() if name != "notices"},
            "validation_share": self.validation_share,
        }
