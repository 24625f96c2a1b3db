"""Documents side by side give the losses and gradients that each gives alone."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, VARIANTS, exact
from torch import nn
from torch.nn import functional as F

from gpt import GPT, InputError, ModelConfig
from gpt.choices import IGNORE_INDEX
from gpt.compiler import Compiled
from gpt.model.cache import KVBlock, KVCache
from gpt.model.documents import DocumentMask
from gpt.model.positions import POSITIONS, PositionHooks

# Rows of documents: of length 1, several of them in a row, one that is all of it, one beyond every window.
ROWS = [[1, 1, 20, 3, 1, 22], [48], [7, 40, 1], [24, 24], [1] * 48]


class Biased(PositionHooks, nn.Module):
    """Scores depend on where keys stand, and not only on their distance."""

    def __init__(self, n_embd, n_head, context_length):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(n_head, context_length))

    def on_scores(self, queries, keys):
        distance = queries.unsqueeze(-1) - keys  # (..., T, S)
        bias = self.bias[:, torch.atleast_2d(keys)]  # (H, 1, S), or (H, B, 1, S)
        return (bias if keys.dim() == 1 else bias.transpose(0, 1)) - 0.1 * distance.unsqueeze(-3)


@pytest.fixture(params=[*VARIANTS, "bias"])
def model(request, monkeypatch):
    if request.param != "bias":
        return exact(request.param)
    monkeypatch.setitem(POSITIONS, "bias", Biased)
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, positions="bias", n_kv_head=2, sliding_window=6, window_pattern="SL")).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def packed(rows, vocab_size=257):
    """Ids, targets and documents, (B, T) each: numbers of documents are in no order, and some targets do not count."""
    generator = torch.Generator().manual_seed(3)
    B, T = len(rows), sum(rows[0])
    ids, targets = torch.randint(vocab_size, (2, B, T), generator=generator)
    targets[torch.rand(B, T, generator=generator) < 0.1] = IGNORE_INDEX
    numbers = [torch.randperm(len(lengths), generator=generator) for lengths in rows]
    pairs = zip(numbers, rows, strict=True)
    return ids, targets, torch.stack([own.repeat_interleave(torch.tensor(lengths)) for own, lengths in pairs])


def by_length(rows, *streams):
    """The documents of rows, those of one length as a batch, (B, T) of each stream."""
    found = defaultdict(list)
    for row, lengths in enumerate(rows):
        for parts in zip(*(stream[row].split(lengths) for stream in streams), strict=True):
            found[len(parts[0])].append(parts)
    return [map(torch.stack, zip(*alike, strict=True)) for alike in found.values()]


def alone(model, rows, ids, targets):
    """The sum of the losses of all documents, each a sequence of its own."""
    return sum(model(x, targets=y) for x, y in by_length(rows, ids, targets))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def require_alike(one, two, atol=1e-10):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("recompute", ["none", "activations", "blocks"])
def test_documents_give_the_losses_and_gradients_that_each_gives_alone(model, recompute):
    ids, targets, documents = packed(ROWS)
    expected = alone(model, ROWS, ids, targets)
    model.set_recompute(recompute)
    loss = model(ids, targets=targets, documents=documents)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    own = gradients(model, expected)
    require_alike(gradients(model, loss), own)
    assert all(gradient.abs().max() > 0 for gradient in own)
    assert abs(model(ids, targets=targets) - expected) > 1e-3  # without them, it is another loss


def test_logits_and_each_target_are_those_of_a_document_alone(model):
    ids, targets, documents = packed(ROWS)
    logits = model(ids, documents=documents)
    with torch.no_grad():
        losses = model(ids, targets=targets, reduction="none", documents=documents)
    for parts, own, aims, found in by_length(ROWS, ids, logits, targets, losses):
        torch.testing.assert_close(model(parts), own, rtol=0, atol=1e-11)
        right = F.cross_entropy(own.float().mT, aims, ignore_index=IGNORE_INDEX, reduction="none")
        torch.testing.assert_close(found.float(), right)
    torch.testing.assert_close(model(ids, documents=documents, last=True), logits[:, -1])


def test_one_document_is_the_row_itself(model):
    ids, targets, _ = packed(ROWS)
    whole = torch.full_like(ids, 7)
    torch.testing.assert_close(model(ids, documents=whole), model(ids), rtol=0, atol=1e-11)
    expected = gradients(model, model(ids, targets=targets))
    require_alike(gradients(model, model(ids, targets=targets, documents=whole)), expected)


def test_nothing_crosses_the_end_of_a_document(model):
    """A change of one token changes what comes after it in its document, and not a bit elsewhere."""
    ids, _, documents = packed(ROWS)
    changed = ids.clone()
    changed[0, 5], changed[3, 2] = (ids[0, 5] + 1) % 257, (ids[3, 2] + 1) % 257
    before, after = model(ids, documents=documents), model(changed, documents=documents)
    differs = (before != after).any(dim=2)
    assert differs[0].nonzero().min() == 5 and differs[0].nonzero().max() == 21
    assert differs[3].nonzero().min() == 2 and differs[3].nonzero().max() == 23
    assert not differs[[1, 2, 4]].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_longer_than_a_kernels_block(dtype):
    """Of thousands of positions, some blocks of keys are hidden from a query as a whole, before and behind it."""
    torch.manual_seed(0)
    shape = ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=1700, vocab_size=30, positions="rope")
    model, rows = GPT(shape).to(dtype), [[600, 1, 1099], [1700]]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids, targets, documents = packed(rows, 30)
    expected = alone(model, rows, ids, targets)
    loss = model(ids, targets=targets, documents=documents)
    torch.testing.assert_close(loss, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0)
    own = gradients(model, expected)
    atol = 1e-9 if dtype == torch.float64 else 1e-4 * max(float(gradient.abs().max()) for gradient in own)
    require_alike(gradients(model, loss), own, atol)


def test_documents_under_autocast():
    """As training on a GPU computes: near the same in float32."""
    model = exact("modern").float()
    ids, targets, documents = packed(ROWS)
    expected = model(ids, targets=targets, documents=documents)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, targets=targets, documents=documents)
        loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_documents_compiled(dynamo):
    """As one program for all rows of one shape, however they are divided; also where blocks are recomputed."""
    model = exact("modern")
    model.set_recompute("blocks")
    compiled = Compiled(lambda ids, targets, documents: model(ids, targets=targets, documents=documents), "on", "cpu")
    for rows in (ROWS, ROWS[::-1]):
        ids, targets, documents = packed(rows)
        expected = gradients(model, alone(model, rows, ids, targets))
        loss = compiled(ids, targets, documents)
        require_alike(gradients(model, loss), expected)
    assert dynamo() == 1


def test_dropout_of_attention_drops_among_documents_too():
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, dropout=0.5)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ids, _, documents = packed(ROWS)
    assert not torch.equal(model(ids, documents=documents), model(ids, documents=documents))
    assert torch.equal(model.eval()(ids, documents=documents), model(ids, documents=documents))


def test_a_mask_says_what_is_seen():
    """By hand: documents of 2, 1 and 3 tokens, and the same in a window of 2."""
    documents = torch.tensor([[4, 4, 0, 4, 4, 4]])
    mask = DocumentMask(documents, [None, 2, None], torch.float32)
    assert mask.positions(6).tolist() == [[0, 1, 0, 0, 1, 2]]
    assert mask.ids_before(2).tolist() == [[-1, -1]]
    assert mask.masks.keys() == {None, 2}
    seen = {
        window: [row.eq(0).nonzero().flatten().tolist() for row in of_window[0, 0]]
        for window, of_window in mask.masks.items()
    }
    assert seen == {
        None: [[0], [0, 1], [2], [3], [3, 4], [3, 4, 5]],
        2: [[0], [0, 1], [2], [3], [3, 4], [4, 5]],
    }
    assert all(of_window.eq(0).logical_or(of_window.isneginf()).all() for of_window in mask.masks.values())


def test_attention_of_documents_is_one_product(monkeypatch):
    """However many there are: nothing goes through them one by one."""
    calls = []
    honest = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or honest(*a, **k))
    ids, _, documents = packed(ROWS)
    exact("modern")(ids, documents=documents)
    assert len(calls) == SHAPE.n_layer


def test_documents_that_are_not_those_of_the_ids_are_refused():
    model, (ids, _, documents) = exact("gpt2"), packed(ROWS)
    for wrong in (documents[:, :-1], documents[:1], documents[0]):
        with pytest.raises(InputError, match=r"`documents` has the shape .* each of the ids, \(5, 48\)"):
            model(ids, documents=wrong)
    with pytest.raises(InputError, match="49 positions do not fit"):
        model(torch.zeros(1, 49, dtype=torch.int64), documents=torch.arange(49)[None])
    with pytest.raises(AssertionError):
        model(ids[:1], KVCache(KVBlock(model.config, dtype=model.dtype)), documents=documents[:1])
