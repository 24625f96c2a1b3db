"""Small files of prompts and answers, and datasets of them."""

import json

from gpt.corpus.content_split import SplitWhole
from gpt.corpus.documents import ReadOptions
from gpt.corpus.examples import Examples
from gpt.corpus.pipeline import prepare
from gpt.corpus.sources import TextFiles


def lines_of(count):
    """Lines of prompts and completions, all different."""
    return [json.dumps({"prompt": f"What is {n} and {n}? ", "completion": f"{2 * n}"}) for n in range(count)]


def made(home, examples=None, tokenizer="bytes", overlap="report", name="a.jsonl", **options):
    """The dataset of a.jsonl in a directory, or of another name in it, at `d` beside it."""
    source = TextFiles([home / name], **{"how": ReadOptions(examples=True)} | options)
    recipe = {"name": "instruct"}
    return prepare(source, SplitWhole(overlap=overlap), tokenizer, home / "d", recipe, examples=examples or Examples())


def files_of(out):
    """The content of a dataset's files, but for where it lies."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "report.json"}
