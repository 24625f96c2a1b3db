"""Whether a row, and a sample, has the same bits in any company; test_exactness.py runs it as several processors.

exactness_program.py few|all: `few` leaves out the largest layers and model, and GPT-2's second layer. Prints for which
processor oneDNN computes, and one JSON object: torch's processor, what was tried, what differed, and where the program
itself promises nothing.
"""

import gc
import itertools
import json
import sys
import warnings
from collections import defaultdict
from dataclasses import replace

import torch

from gpt import GPT, Engine, ModelConfig, SamplingConfig
from gpt.model.prepack import Float16Linear, Int8Linear, PrepackedActivation, PrepackedLinear, keeps_bits, prepack
from gpt.presets import modern

FEW = sys.argv[1] == "few"
SHAPES = [(33, 7), (768, 2304), (3072, 768), (768, 50257), (1600, 1600)]  # inputs and outputs
SHAPES = SHAPES[:3] if FEW else SHAPES
ROWS = [1, 2, 3, 7, 16, 17]
MANY = [130] if FEW else [130, 400]  # tried where they are quickly multiplied
WIDTHS = [36, 3072] if FEW else [36, 3072, 6400]  # of an MLP
MODELS = {
    "GPT-2": ModelConfig(n_layer=2, n_head=12, n_embd=768, context_length=64, vocab_size=257),
    "XL": ModelConfig(n_layer=1, n_head=25, n_embd=1600, context_length=64, vocab_size=257),
    "nano": modern(
        ModelConfig(n_layer=1, n_head=4, n_embd=128, context_length=64, vocab_size=257), ngram=3, ngram_buckets=512
    ),
}
if FEW:  # one layer has all that two have
    del MODELS["XL"]
    MODELS["GPT-2"] = replace(MODELS["GPT-2"], n_layer=1)
THREADS = [1, 2] if FEW else [1, 2, 3]
report = {"processor": torch.backends.cpu.get_cpu_capability(), "tried": 0, "differs": [], "unpromised": []}


def check(name, promised, same):
    report["tried"] += 1
    if not promised:
        report["unpromised"].append(name)
    elif not same():
        report["differs"].append(name)


def places(x, rows):
    """The same rows at the end, at an odd address, and with a gap between them."""
    N, width = x.shape
    odd = torch.empty(rows * width + 1)[1:].view(rows, width).copy_(x[:rows])
    apart = torch.empty(rows, width + 5)[:, :width].copy_(x[:rows])
    return [(x[N - rows :], N - rows), (odd, 0), (apart, 0)]


def same_rows(layer, x, sizes):
    together = layer(x)
    return all(layer(some).equal(together[at:][: len(some)]) for rows in sizes for some, at in places(x, rows))


def layers():
    for inputs, outputs in SHAPES:
        weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
        rows = ROWS + MANY * (inputs * outputs == 768 * 2304)
        x = torch.randn(max(rows), inputs)
        for kind in (PrepackedLinear, Float16Linear, Int8Linear):
            layer = kind(weight, bias)
            for threads in THREADS if outputs != 50257 else [2]:
                torch.set_num_threads(threads)
                name = f"{kind.__name__} {inputs}→{outputs}, {threads} threads"
                check(name, layer.keeps_bits, lambda layer=layer, x=x, rows=rows: same_rows(layer, x, rows))
    for F, threads in itertools.product(WIDTHS, [1, 2, 3, 7]):
        torch.set_num_threads(threads)
        activation, x = PrepackedActivation("gelu", F), torch.randn(130, F)
        name = f"GELU of {F}, {threads} threads"
        check(name, activation.keeps_bits, lambda activation=activation, x=x: same_rows(activation, x, [*ROWS, 130]))


def draw(model, requests, late=0):
    """Ids and log-probabilities of requests (prompt, sample), the last `late` of which come some steps later."""
    engine = Engine(model, max_batch=16)
    sampling = SamplingConfig(max_tokens=4, seed=3, top_k=200)
    on_time = len(requests) - late
    submitted = [engine.submit(*one, top_logprobs=1) for one in _arguments(requests[:on_time], sampling)]
    found = defaultdict(list)
    for _ in range(3 if late else 0):
        for token in engine.step():
            found[token.request].append(token)
    submitted += [engine.submit(*one, top_logprobs=1) for one in _arguments(requests[on_time:], sampling)]
    for token in engine.run():
        found[token.request].append(token)
    return [[(token.id, token.logprob) for token in found[request]] for request in submitted]


def _arguments(requests, sampling):
    return [(prompt, sampling, sample) for prompt, sample in requests]


def samples_are_alike(model):
    lengths = [1, 4, 4, 9, 12 if FEW else 30, 2, 17]
    requests = [(torch.randint(257, (T,)).tolist(), i) for i, T in enumerate(lengths)]
    alone = [draw(model, [request])[0] for request in requests[:4]]
    beside = draw(model, requests, late=2)
    more = requests + [(prompt[::-1], 7 + i) for i, (prompt, _) in enumerate([*requests, *requests[:2]])]
    return beside[:4] == alone and draw(model, more[::-1], late=5)[::-1][:7] == beside


def models():
    for (name, shape), dtype in itertools.product(MODELS.items(), (torch.float32, torch.float16, torch.int8)):
        model = GPT(shape).eval()
        prepack(model, dtype)
        model.requires_grad_(False)
        for threads in THREADS[:2]:
            torch.set_num_threads(threads)
            where = f"{name} in {dtype}, {threads} threads"
            check(where, keeps_bits(model), lambda model=model: samples_are_alike(model))


if __name__ == "__main__":
    gc.freeze()  # its end need not look through what was imported
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")
    with torch.inference_mode():
        torch.backends.quantized.engine = "fbgemm"
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            PrepackedLinear(torch.ones(1, 1), None)(torch.ones(1, 1))
        layers()
    models()
    print(json.dumps(report))
