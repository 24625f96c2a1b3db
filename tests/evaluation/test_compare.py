import copy

import numpy as np
import pytest
import torch
from helpers import write_dataset

from gpt import GPT, InputError, ModelConfig, Tokenizer
from gpt.evaluation.compare import Measured, bits_difference, encoded_anew, loss_difference
from gpt.evaluation.loss import summarize, sums_per_piece
from gpt.evaluation.windows import Windows


def measured(model, tokenizer, split, **options):
    windows = Windows(split, model.config.context_length, tokenizer.end_of_text, **options)
    sums = sums_per_piece(model, windows, tokenizer.byte_lengths(), "cpu", torch.float32, 16)
    return Measured(sums.numpy(), windows)


def figures(found):
    return summarize(torch.from_numpy(found.sums), found.windows)


@pytest.fixture
def nearly(model):
    """The same model with slightly other weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return other


def test_a_paired_difference_is_surer_than_the_figures(model, nearly, dataset):
    one, two = (measured(m, dataset.tokenizer, dataset.validation) for m in (model, nearly))
    found, (first, other) = loss_difference(one, two), (figures(one), figures(two))
    assert found.value == pytest.approx(other.loss - first.loss)
    assert 0 < found.standard_error < 0.3 * first.loss_se
    back = loss_difference(two, one)
    assert (back.value, back.standard_error) == pytest.approx((-found.value, found.standard_error))
    bits = bits_difference(one, two)
    assert bits.value == pytest.approx(other.bits_per_byte - first.bits_per_byte)


def test_the_error_of_a_difference_covers_it():
    """Two models' losses share what is hard in a document, and differ by 0.02 on average over documents."""
    generator, held, wide = np.random.default_rng(0), [], []

    class Pieces:
        documents = np.arange(40)
        starts = np.arange(40)

    for _ in range(800):
        tokens = np.ceil(np.exp(generator.normal(5, 1, size=40)))
        hard = generator.normal(3, 0.5, size=40)
        better = generator.normal(0.02, 0.05, size=40)
        one, two = (
            Measured(np.stack([tokens * loss, tokens, 3 * tokens], axis=1), Pieces) for loss in (hard, hard - better)
        )
        found = loss_difference(one, two)
        held.append(abs(found.value + 0.02) <= found.half_width)
        wide.append(found.standard_error)
    assert 0.925 < np.mean(held) < 0.98
    assert np.median(wide) < 0.02


def test_models_of_different_contexts_are_compared_on_the_same_tokens(model, dataset):
    torch.manual_seed(1)
    short = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, context_length=16, vocab_size=257)).eval()
    one, two = (measured(m, dataset.tokenizer, dataset.validation) for m in (model, short))
    found = loss_difference(one, two)
    assert found.value == pytest.approx(figures(two).loss - figures(one).loss)
    assert "documents" in found.spread.units
    few = [measured(m, dataset.tokenizer, dataset.validation, tokens=480) for m in (model, short)]
    with pytest.raises(InputError, match="leave `tokens` out"):
        loss_difference(*few)


def test_tokenizers_are_compared_document_by_document(model, dataset, bpe):
    torch.manual_seed(1)
    other = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, context_length=16, vocab_size=bpe.vocab_size)).eval()
    anew = encoded_anew(dataset.validation, dataset.tokenizer, bpe)
    assert anew.tokens < dataset.validation.tokens
    texts = [tokenizer.decode(split.read(0, split.tokens).tolist()) for tokenizer, split in
             ((dataset.tokenizer, dataset.validation), (bpe, anew))]  # fmt: skip
    assert texts[0] == texts[1]
    one, two = measured(model, dataset.tokenizer, dataset.validation), measured(other, bpe, anew)
    found = bits_difference(one, two, same_tokenizer=False)
    assert found.value == pytest.approx(figures(two).bits_per_byte - figures(one).bits_per_byte)
    assert found.spread.units == "10 documents"


def test_other_documents_are_not_compared(model, dataset, bpe, tmp_path):
    torch.manual_seed(1)
    other = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, context_length=16, vocab_size=bpe.vocab_size)).eval()
    documents = [("validation" if i % 2 else "train", f"{i} " * 200) for i in range(20)]
    alien = write_dataset(documents, "bytes", tmp_path / "d")
    one = measured(model, dataset.tokenizer, dataset.validation)
    two = measured(other, bpe, encoded_anew(alien.validation, alien.tokenizer, bpe))
    with pytest.raises(InputError, match="do not spell the same documents"):
        bits_difference(one, two, same_tokenizer=False)


def test_what_a_tokenizer_cannot_encode_is_refused(dataset):
    with pytest.raises(InputError):
        encoded_anew(dataset.validation, dataset.tokenizer, Tokenizer.char(set("abc"), end_of_text=True))
