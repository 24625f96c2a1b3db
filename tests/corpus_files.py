"""What the corpus room reads of a file, by its content and name."""

import tempfile
from pathlib import Path

from gpt.corpus.documents import Document, Notice, ReadOptions, Skipped
from gpt.corpus.reading import say_notices
from gpt.corpus.sources import TextFiles


def found_in(content, name="x.txt", field=None, **settings):
    """Everything that is found in a file, in order."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(content)
        files = TextFiles([path], field, ReadOptions(**settings))
        found = [found for part in files.parts() for found in files.read(part)]
    say_notices([each for each in found if isinstance(each, Notice)])
    return [each for each in found if not isinstance(each, Notice)]


def texts_in(*arguments, **settings):
    """The texts of a file, by name."""
    found = found_in(*arguments, **settings)
    return {document.name: document.text for document in found if isinstance(document, Document)}


def skipped_in(*arguments, **settings):
    """Why parts of a file are left out, by name."""
    return {left.name: left.reason for left in found_in(*arguments, **settings) if isinstance(left, Skipped)}
