from dataclasses import replace
from itertools import groupby
from types import SimpleNamespace

import pytest
import torch
from helpers import write_dataset

from gpt import InputError
from gpt.choices import IGNORE_INDEX
from gpt.dataset.order import Stream
from gpt.dataset.packing import Packed
from gpt.runs import load
from gpt.text.added import with_added
from gpt.training import start
from gpt.training.start import (
    fit_to_dataset,
    initial_weights,
    new_model,
    require_tokenizer,
    training_loader,
)
from gpt.training.state import TrainState
from gpt.training.trainer import Trainer

BOTH = {"windows": "packed", "document_mask": True}


@pytest.mark.parametrize(
    ("changes", "source", "masked"),
    [
        ({}, Stream, False),
        ({"windows": "packed"}, Packed, False),
        ({"document_mask": True}, Stream, True),
        (BOTH, Packed, True),
    ],
)
def test_the_config_says_what_a_loader_reads(tiny_config, dataset, changes, source, masked):
    loader = training_loader(replace(tiny_config, **changes), dataset)
    assert type(loader.source) is source
    assert (loader.batch(0).documents is not None) == masked


def test_each_source_of_a_mixture_is_packed_and_masked_as_it_is_alone(mixed_config, mixture):
    config = replace(mixed_config, **BOTH)
    loader, single = training_loader(config, mixture), replace(config, batch_tokens=32)
    alone = [training_loader(single, source.dataset) for source in mixture.sources]
    seen = set()
    for step in range(4):
        for sample, *row in zip(loader.samples(step), *loader.batch(step).tensors, strict=True):
            source, number = loader.source.locate(sample)
            seen.add(source)
            for found, expected in zip(row, alone[source].batch(number).tensors, strict=True):
                assert torch.equal(found, expected[0])
    assert seen == {0, 1}


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"windows": "packed"}, "`windows` packed"),
        ({"document_mask": True}, "`document_mask`"),
        (BOTH, "`document_mask`"),
    ],
)
def test_documents_that_cannot_be_told_apart_are_refused(tiny_config, tmp_path, changes, asked):
    """Those of a tokenizer without end-of-text, which one of characters is where each split is one document."""
    dataset = write_dataset([("train", "abc " * 100), ("validation", "cab " * 100)], "char", tmp_path / "char")
    config = replace(tiny_config, model=replace(tiny_config.model, vocab_size=dataset.tokenizer.vocab_size))
    assert dataset.tokenizer.end_of_text is None
    fit_to_dataset(config, dataset)
    said = rf"char: its tokenizer \(char\) has no end-of-text, .* told apart for {asked}: leave that out, or prepare"
    for use in (fit_to_dataset, training_loader):
        with pytest.raises(InputError, match=said):
            use(replace(config, **changes), dataset)


@pytest.mark.parametrize("windows", ["stream", "packed"])
@pytest.mark.parametrize("micro_batch_size", [1, 4, 6])
def test_a_masked_step_learns_from_each_document_alone(tiny_config, short_documents, windows, micro_batch_size):
    """Its loss and gradient are those of all documents of the batch, one by one."""
    config = replace(tiny_config, model=replace(tiny_config.model, dropout=0.0), micro_batch_size=micro_batch_size)
    config = replace(config, windows=windows, document_mask=True)
    batch, model = training_loader(config, short_documents).batch(1), new_model(config, "cpu")
    count, documents = int((batch.targets != IGNORE_INDEX).sum()), 0
    for x, y, numbers in zip(*batch.tensors, strict=True):
        lengths = [len([*run]) for _, run in groupby(numbers.tolist())]
        documents += len(lengths)
        for part, aims in zip(x.split(lengths), y.split(lengths), strict=True):
            (model(part[None], targets=aims[None]) / count).backward()
    assert documents > 1.5 * len(batch.inputs)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    with torch.no_grad():
        loss = float(model(batch.inputs, targets=batch.targets, documents=batch.documents)) / count
    found, norm = Trainer(model, config).gradient(1, batch, count)
    assert found == pytest.approx(loss, rel=1e-5)
    assert norm == pytest.approx(float(torch.stack([gradient.norm() for gradient in expected]).norm()), rel=1e-4)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_hash_of_a_batch_tells_whether_documents_are_masked(tiny_config, short_documents):
    records = []
    for mask in (False, True):
        config = replace(tiny_config, document_mask=mask)
        trainer, loader = Trainer(new_model(config, "cpu"), config), training_loader(config, short_documents)
        records.append(trainer.step(TrainState(), loader.batch(0)))
    assert records[0]["batch_hash"] != records[1]["batch_hash"]
    assert records[0]["train_loss"] != records[1]["train_loss"]


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("tied", [True, False])
def test_special_tokens_that_weights_lack_begin_with_the_mean_of_the_others(
    tiny_config, dataset, monkeypatch, tied, padding
):
    """Of those that have a token: rows that pad a vocabulary were never trained, and are replaced as well."""
    known = dataset.tokenizer.vocab_size
    model = replace(tiny_config.model, vocab_size=known + padding, tie_embeddings=tied, value_embeddings=True)
    config = replace(tiny_config, model=model, init_from="base")
    before = {name: weight.clone() for name, weight in new_model(config, "cpu").state_dict().items()}
    before["value_embedding.table.weight"].normal_()  # as it begins with zeros
    added = replace(dataset, tokenizer=with_added(dataset.tokenizer, ["<|a|>", "<|b|>"]))
    for module in (start, load):
        monkeypatch.setattr(module, "load_tokenizer", lambda _: dataset.tokenizer)
    source = SimpleNamespace(weights=before, name="base", path="base", is_adapter=False)
    monkeypatch.setattr(start, "read_base", lambda *_: source)
    require_tokenizer(config, added, resumes=False)
    config = fit_to_dataset(config, added)
    assert config.model.vocab_size == known + 2
    weights, _ = initial_weights(config)
    assert weights.keys() == before.keys()
    for name, weight in weights.items():
        if name not in ("token_embedding.weight", "value_embedding.table.weight", "lm_head.weight"):
            assert torch.equal(weight, before[name])
            continue
        assert torch.equal(weight[:known], before[name][:known])
        for row in weight[known:]:
            torch.testing.assert_close(row.double(), before[name][:known].double().mean(0))
    new_model(config, "cpu").load_state_dict(weights)
    with pytest.raises(InputError, match="`lora.rank` 4: the data has 2 special tokens that base lacks"):
        initial_weights(replace(config, lora=replace(config.lora, rank=4)))


def test_special_tokens_are_added_to_what_was_there_and_nothing_else(tiny_config, dataset, monkeypatch):
    other = with_added(dataset.tokenizer, ["<|other|>"])
    added = replace(dataset, tokenizer=with_added(dataset.tokenizer, ["<|a|>"]))
    config = replace(tiny_config, init_from="base", run_dir="base")
    monkeypatch.setattr(start, "load_tokenizer", lambda _: other)
    with pytest.raises(InputError, match="is written with another tokenizer"):
        require_tokenizer(config, added, resumes=False)
    monkeypatch.setattr(start, "load_tokenizer", lambda _: dataset.tokenizer)
    require_tokenizer(config, added, resumes=False)
    with pytest.raises(InputError, match="is written with another tokenizer"):  # the run's model has no such rows
        require_tokenizer(config, added, resumes=True)
