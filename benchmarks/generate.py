"""Tokens per second of GPT-2 124M with random weights, ours beside transformers, CTranslate2 and nanoGPT.

Each library is a process that keeps its model; they take turns at the same work, prompts of random tokens and new ones
by top-k 200. The time for one new token is the time to the first; what 64 more take gives the decode rate (16 more of
nanoGPT, which reads everything again for each; 16 prompts of 512 tokens are too much for it). In each run one sequence
is measured three times. The limit is the speed at which this machine reads memory as a run begins, divided by the bytes
of weights that a token needs.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import ROOT, finish, matrix_speed, ratio, rounded, show
from benchmarks.table import generation_table
from gpt import InputError, Tokenizer
from gpt.device import synchronize

TOP_K, NEW, NEW_OF_NANOGPT = 200, 64, 16
VOCABULARY, CONTEXT = 50_257, 1024
TRIES = 5  # at the rate at late positions
ALONE = 3  # times in each run that one sequence is measured: that takes seconds, in which a shared machine swings
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
Generate = Callable[[list[list[int]], int], None]  # prompts, and how many new tokens each gets


# ---- the libraries, each in a process of its own ----


def gpt(path: Path, dtype: Any, device: str) -> Generate:
    from gpt import Engine, SamplingConfig, load_run

    run = load_run(path, device, dtype=dtype, prepacked=True)
    engines: dict[int, Engine] = {}

    def generate(prompts: list[list[int]], new: int) -> None:
        if len(prompts) not in engines:
            engines[len(prompts)] = Engine(run.model, len(prompts), compiled=device == "cuda")
        engine = engines[len(prompts)]
        for i, prompt in enumerate(prompts):
            engine.submit(prompt, SamplingConfig(max_tokens=new, temperature=1.0, top_k=TOP_K), i)
        assert sum(1 for _ in engine.run()) == new * len(prompts)

    return generate


def transformers(path: Path, dtype: str, device: str) -> Generate:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(device).eval()
    model.generation_config.eos_token_id = None
    options = {"cache_implementation": "static"} if device == "cuda" else {}  # which it then compiles

    def generate(prompts: list[list[int]], new: int) -> None:
        ids = torch.tensor(prompts, device=device)
        made = model.generate(ids, do_sample=True, top_k=TOP_K, max_new_tokens=new, pad_token_id=0, **options)
        assert made.shape == (len(prompts), len(prompts[0]) + new)

    return generate


def ctranslate2(path: Path, dtype: str, device: str) -> Generate:
    import ctranslate2

    converted = path.parent / f"ctranslate2-{dtype}"
    converter = ctranslate2.converters.TransformersConverter(str(path))
    converter.convert(str(converted), quantization=dtype, force=True)
    generator = ctranslate2.Generator(
        str(converted), device=device, compute_type=dtype, inter_threads=1, intra_threads=torch.get_num_threads()
    )
    vocabulary = json.loads((converted / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(prompts: list[list[int]], new: int) -> None:
        made = generator.generate_batch(
            [[vocabulary[i] for i in prompt] for prompt in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=TOP_K,
            include_prompt_in_result=False,
            end_token=[],
        )
        assert all(len(result.sequences_ids[0]) == new for result in made)

    return generate


def nanogpt(path: Path, dtype: str, device: str) -> Generate:
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT, GPTConfig  # ty: ignore[import-not-found]

    model = GPT(GPTConfig()).to(device, getattr(torch, dtype)).eval()

    def generate(prompts: list[list[int]], new: int) -> None:
        with torch.no_grad():
            model.generate(torch.tensor(prompts, device=device), new, top_k=TOP_K)

    return generate


LIBRARIES: dict[str, Callable[[Path, str, str], Generate]] = {
    "gpt": gpt,
    "transformers": transformers,
    "ctranslate2": ctranslate2,
    "nanogpt": nanogpt,
}


def serve(library: str, path: Path, dtype: str, device: str) -> None:
    """Work that comes as JSON lines, and the seconds each took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints is no answer
    generate = LIBRARIES[library](path, dtype, device)
    random = torch.Generator().manual_seed(0)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        batch, length, new = json.loads(line)
        prompts = torch.randint(VOCABULARY - 1, (batch, length), generator=random).tolist()
        start = time.perf_counter()
        generate(prompts, new)
        synchronize(device)
        print(time.perf_counter() - start, file=answers, flush=True)


class Worker:
    """A library's process."""

    def __init__(self, library: str, path: Path, dtype: str, device: str, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.generate", "--serve", library, str(path), dtype, device]
        self.name, self.dtype = library, dtype
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def seconds(self, batch: int, length: int, new: int) -> float:
        assert self.process.stdin
        print(json.dumps([batch, length, new]), file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit(f"{self.name} ({self.dtype}) ended with {self.process.wait()}")
        return line

    def close(self) -> None:
        self.process.communicate()


# ---- what they are measured by ----


def memory_speed(device: str) -> float:
    """Bytes per second at which half a gigabyte is added up: the median of several."""
    numbers, seconds = torch.ones(1 << 27, device=device), []
    for _ in range(9):
        start = time.perf_counter()
        numbers.sum().item()
        seconds.append(time.perf_counter() - start)
    return numbers.nbytes / median(seconds)


def weights_read(dtype: str) -> int:
    """Bytes of weights that a token needs: all but the embeddings of positions."""
    return (124_439_808 - CONTEXT * 768) * BYTES[dtype]


def measure(worker: Worker, batch: int, length: int) -> dict[str, float]:
    new = NEW_OF_NANOGPT if worker.name == "nanogpt" else NEW
    first = worker.seconds(batch, length, 1)
    return {"first_s": first, "tokens_per_s": new * batch / (worker.seconds(batch, length, 1 + new) - first)}


def can_do(worker: Worker, batch: int, length: int) -> bool:
    return worker.name != "nanogpt" or batch * length < 4096


def save_model(directory: Path) -> Path:
    """GPT-2 124M with random weights, as transformers reads it."""
    from gpt import GPT, ModelConfig
    from gpt.interop.huggingface_export import export

    torch.manual_seed(0)
    path = directory / "random-gpt2"
    export(GPT(ModelConfig()), Tokenizer.gpt2(), path)
    return path


def save_run(directory: Path, exported: Path) -> Path:
    """The same model as a run of ours."""
    from gpt.config import TrainConfig
    from gpt.runs import checkpoint
    from gpt.runs.directory import open_run
    from gpt.runs.load import load_run

    loaded = load_run(exported)
    with open_run(TrainConfig(run_dir=directory / "run", model=loaded.config), loaded.tokenizer, resume=False) as path:
        checkpoint.save(path, loaded.model.state_dict(), {}, {"step": 0, "evaluation": None})
    return path


def start_seconds(run: Path, device: str) -> tuple[float, float]:
    """From the command to the first token, and `import torch` alone."""
    command = [sys.executable, str(ROOT / "sample.py"), "--run", str(run), "--prompt", "def", "--max-tokens", "1"]
    seconds = []
    for line in ([*command, "--device", device], [sys.executable, "-c", "import torch"]):
        start = time.perf_counter()
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def prompt_flops(length: int) -> float:
    """Floating-point operations of reading a prompt, the head for the last position only."""
    from gpt import ModelConfig

    config = ModelConfig()
    blocks = 12 * config.n_layer * config.n_embd**2
    attention = 2 * config.n_layer * config.n_embd * length  # causal: half of all pairs, queries × keys and × values
    return length * (2 * blocks + attention) + 2 * config.n_embd * config.vocab_size


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nanogpt", type=Path, help="checkout of github.com/karpathy/nanoGPT; without one it is left out"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only-start", action="store_true", help="print the seconds to the first token, and stop")
    options = parser.parse_args()
    if options.nanogpt:
        options.nanogpt = options.nanogpt.resolve()  # the libraries' processes work elsewhere
        if not (options.nanogpt / "model.py").exists():
            parser.error(f"--nanogpt {options.nanogpt}: holds no model.py; it must be a checkout of nanoGPT")
    return options


def workers(path: Path, options: argparse.Namespace) -> list[Worker]:
    """All libraries, in all the precisions each has here."""
    environment = {"NANOGPT": str(options.nanogpt)}
    kinds = [("gpt", "float32"), ("gpt", "float16"), ("gpt", "int8"), ("transformers", "float32")]
    kinds += [("ctranslate2", "float32"), ("ctranslate2", "int8")]
    if options.device == "cuda":
        kinds = [("gpt", "bfloat16"), ("transformers", "bfloat16")]
    if options.nanogpt:
        kinds.append(("nanogpt", "float32" if options.device == "cpu" else "bfloat16"))
    return [Worker(library, path, dtype, options.device, environment) for library, dtype in kinds]


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
        return
    options = parse()
    try:
        Tokenizer.gpt2()
    except InputError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as directory:
        path = save_model(Path(directory))
        run = save_run(Path(directory), path)
        starts = [start_seconds(run, options.device) for _ in range(options.runs)]  # with the machine to itself
        result = {"start_s": [start for start, _ in starts], "import_torch_s": [torch for _, torch in starts]}
        if options.only_start:
            print(json.dumps(rounded(result)), flush=True)
            return
        running = workers(path, options)
        result |= alternate(running, options)
        for worker in running:
            worker.close()
    result |= ratios(result)
    show(generation_table(finish("generate", options.device, result)))


def alternate(running: list[Worker], options: argparse.Namespace) -> dict[str, Any]:
    """All figures, each library in turn, several times."""
    work = [(batch, length) for batch in (1, 16 if options.device == "cpu" else 256) for length in (8, 512)]
    for worker in running:  # compilation, and the first touch of everything
        for batch, length in work:
            if can_do(worker, batch, length):
                worker.seconds(batch, length, 1 + NEW if options.device == "cuda" else 2)
    speeds: dict[str, dict[str, Any]] = {f"batch {batch}, prompt {length}": {} for batch, length in work}
    result: dict[str, Any] = {"memory_gb_per_s": [], "matrix_tflops": []}
    result |= {"rate_at_1000_by_10": {}, "speeds": speeds, "slowest_prompt_s": slowest_prompt()}
    for turn in range(options.runs):
        result["memory_gb_per_s"].append(memory_speed(options.device) / 1e9)
        result["matrix_tflops"].append(matrix_speed(options.device) / 1e12)
        for batch, length in work:
            able = [worker for worker in running if can_do(worker, batch, length)]
            found: dict[Worker, list[dict[str, float]]] = defaultdict(list)
            for worker in able * (ALONE if batch == 1 else 1):
                found[worker].append(measure(worker, batch, length))
                show(f"run {turn + 1}: {batch} × {length}, {worker.name} {worker.dtype}: {found[worker][-1]}")
            for worker, figures in found.items():
                own = speeds[f"batch {batch}, prompt {length}"].setdefault(f"{worker.name} {worker.dtype}", {})
                for name in figures[0]:
                    own.setdefault(name, []).append(median(figure[name] for figure in figures))
        for worker in running:
            if worker.name == "gpt":
                result["rate_at_1000_by_10"].setdefault(worker.dtype, []).append(late_by_early(worker))
    return result


def slowest_prompt() -> dict[str, float]:
    """Seconds of tokenizing a million characters that are hard on byte-pair encoding, each by itself."""
    tokenizer, seconds = Tokenizer.gpt2(), {}
    for piece in ("a", ".", "_", "★", "—", "😀", "中", "\xa0", "\0", "\ud800", "a1.b2,Z9_"):
        text = piece * (1_000_000 // len(piece))
        start = time.perf_counter()
        tokenizer.encode(text)
        seconds[repr(piece)] = time.perf_counter() - start
    return seconds


def late_by_early(worker: Worker) -> float:
    """The decode rate at positions around 1,000 by that around 10."""
    seconds = defaultdict(list)
    for _ in range(TRIES):  # as what counts is the difference of two times, of which the prompt is most
        for length, new in itertools.product((1, 990), (1, 21)):  # positions 1 to 21, and 990 to 1,010
            seconds[length, new].append(worker.seconds(1, length, new))
    early, late = (median(seconds[length, 21]) - median(seconds[length, 1]) for length in (1, 990))
    return early / late


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Our medians by the peers', by the limit, and of several sequences by one."""
    speeds = result["speeds"]
    found: dict[str, Any] = {"ratios": {}}
    for work, sides in speeds.items():
        for side in sides:
            library, dtype = side.split()
            ours = sides.get(f"gpt {dtype}")
            if library != "gpt" and ours:
                key = f"{work}, {dtype}, by {library}"
                found["ratios"][key] = ratio(ours["tokens_per_s"], sides[side]["tokens_per_s"])
            if library == "ctranslate2" and "gpt float16" in sides:
                key = f"{work}, float16 against {dtype}, by {library}"
                found["ratios"][key] = ratio(sides["gpt float16"]["tokens_per_s"], sides[side]["tokens_per_s"])
    one = speeds["batch 1, prompt 8"]
    for side in one:
        library, dtype = side.split()
        if library == "gpt":
            limit = [1e9 * speed / weights_read(dtype) for speed in result["memory_gb_per_s"]]
            found["ratios"][f"{dtype}, by the limit of memory"] = ratio(one[side]["tokens_per_s"], limit)
            several = next(
                sides for work, sides in speeds.items() if "prompt 8" in work and work != "batch 1, prompt 8"
            )
            found["ratios"][f"{dtype}, several by one"] = ratio(
                several[side]["tokens_per_s"], one[side]["tokens_per_s"]
            )
    reading = speeds["batch 1, prompt 512"].get("gpt float32")
    if reading:
        tflops = [prompt_flops(512) / seconds / 1e12 for seconds in reading["first_s"]]
        found["ratios"]["prompt of 512, by the speed of matrix products"] = ratio(tflops, result["matrix_tflops"])
    return found


if __name__ == "__main__":
    main()
