"""What an export is proved by: 20 texts of the data that validated the run, or else of a list."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gpt.config import TrainConfig
from gpt.dataset.manifest import describe
from gpt.dataset.shards import Split
from gpt.errors import InputError
from gpt.text.tokenizer import Tokenizer

PROMPTS = 20
MOST, FEWEST = 64, 8  # tokens of a text
OWN, BUILT_IN = "of its validation data", "from a list that the package has"
TEXTS = (  # that have what tokenizers stumble on: capitals, digits, marks, blanks, line ends, other scripts
    "Once upon a time there was a small house at the edge of the forest.",
    "The capital of the country was moved in 1867, and again in 1923.",
    "def read(path):\n    with open(path) as file:\n        return file.read()\n",
    "She said: \"I don't know what you'd like, but we'll see.\"",
    "In the beginning, nobody knew how large the number would become: 1,024.",
    "for i in range(10):\n\tprint(i, i ** 2, sep=', ')\n",
    "Dear Sir or Madam,\n\nthank you for your letter of 3 May.\n",
    "The results are shown in table 2; see also section 4.1 (below).",
    "Überall grüßten die Bäcker: „Schöne Grüße, und bis morgen!“",
    "Le garçon a été très étonné d'être à l'heure, n'est-ce pas ?",
    "Он сказал, что завтра будет дождь, и закрыл окно.",
    "東京は日本の首都です。人口は約1400万人です。",
    "class Reader:\n    # Read lines from a file.\n    def __init__(self): ...\n",
    "A train leaves at 9:45 and travels 120 km at 80 km/h. When does it arrive?",
    "First Citizen:\nBefore we proceed any further, hear me speak.\n",
    "x = (a + b) * c / d - e % f; y = x << 2 | 0xFF\n",
    "  Two blanks before, and  two   or three  between words.  ",
    "Breaking news: the committee has decided to postpone the meeting.",
    "import numpy as np\n\n\nmatrix = np.zeros((3, 4), dtype=np.float32)\n",
    "It was the best of times, it was the worst of times 🙂, said no one.",
)


@dataclass(frozen=True)
class Prompts:
    """What is continued."""

    texts: list[str]
    source: str
    """In words: where they are from."""


def prompts_for(config: TrainConfig | None, tokenizer: Tokenizer) -> Prompts:
    """Take texts of the validation data of a run, where that is still there, else those of the list."""
    for path in config.datasets if config else ():
        try:
            found = [*dict.fromkeys(_validation_texts(path, tokenizer))]
        except (InputError, OSError):  # it is gone, or damaged, which is not what is asked here
            continue
        if len(found) == PROMPTS:
            return Prompts(found, OWN)
    return Prompts([_known(text, number, tokenizer) for number, text in enumerate(TEXTS)], BUILT_IN)


def _validation_texts(path: Path, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts of a dataset's validation split, spread evenly; fewer where it is too little for them."""
    if not (path / "manifest.json").exists():  # what other programs wrote may have no tokenizer
        return
    about = describe(path)
    if about.tokenizer.fingerprint != tokenizer.fingerprint:
        return
    files = [file for file, split in about.splits.items() if split == "validation" and file not in about.masks]
    split = Split("validation", [about.open(file) for file in files])
    for place in np.linspace(0, max(0, split.tokens - MOST), PROMPTS).astype(int).tolist():
        ids = split.read(place, min(MOST, split.tokens - place))
        ends = [-1, *np.flatnonzero(ids >= len(tokenizer.ranks)).tolist(), len(ids)]  # of documents: special tokens
        begin, end = max(pairwise(ends), key=lambda span: span[1] - span[0])
        text = tokenizer.decode(ids[begin + 1 : end].tolist()).strip("\ufffd")  # a character cut in two
        if end - begin > FEWEST and text:
            yield text


def _known(text: str, number: int, tokenizer: Tokenizer) -> str:
    """Leave out characters that a vocabulary of characters lacks; where next to nothing is left, take some it has."""
    if tokenizer.kind != "char":
        return text
    characters = [token.decode() for token in tokenizer.ranks]
    known = "".join(character for character in text if character in characters)
    return known if len(known) >= FEWEST else "".join(characters[(number + i) % len(characters)] for i in range(MOST))
