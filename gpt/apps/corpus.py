"""The training text of a run, as a source of guesses of what its model says next."""

from functools import partial

from gpt.generation.lookups import PATIENCE, Corpus
from gpt.runs.load import LoadedRun
from gpt.runs.training_text import training_ids


def corpus_of(run: LoadedRun, patience: float = PATIENCE) -> Corpus:
    """Give what guesses by a run's training text, once `patience` seconds were spent on generating."""
    return Corpus(partial(training_ids, run.path, run.tokenizer), patience)
