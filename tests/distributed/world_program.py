"""What the ranks of a world do in test_world.py: each writes what it saw as JSON.

world_program.py TASK DATA OUT: DATA is a dataset, OUT a directory in which one process has begun the run `single`, and
trained `modern`; TASK is `all`, `hsdp`, or `on` or `off`, with the compiler or without,
`slow-start`, or what fails: `memory`, `compiler`, `sample`, `optimizer`, or `optimizer-ddp`.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from helpers import Training, same

from gpt import GPT, InputError, TrainConfig
from gpt.compiler import CompilerFailed
from gpt.dataset.dataset import Dataset, open_dataset
from gpt.dataset.mixture import open_weighted
from gpt.distributed.launch import join_world
from gpt.distributed.parallel import gather, parallelize
from gpt.distributed.world import World
from gpt.log import log
from gpt.products import rounds
from gpt.runs.checkpoint import list_checkpoints, load_newest, step_of
from gpt.runs.directory import open_run, read_config
from gpt.tracking.jsonl import read_metrics
from gpt.training import muon, optimizer, samples, utilization
from gpt.training.checkpointing import save
from gpt.training.forecast import measure_timings
from gpt.training.samples import sample_text

Result = dict[str, Any]
MODES = ("ddp", "fsdp", "hsdp")


def begun(config: TrainConfig, dataset: Dataset, run: Path, world: World, resumes: bool = False) -> Training:
    torch.manual_seed(config.seed)
    config = replace(config, run_dir=run)
    if world.is_main and not resumes:
        with open_run(config, dataset.tokenizer, resume=False):
            pass
    world.barrier()
    result = Training(config, dataset, run, world, resumes)
    assert not resumes or result.state.step
    return result


def whole(trained: Training) -> dict[str, torch.Tensor]:
    return {
        name: tensor.clone()
        for name, tensor in gather(dict(trained.model.named_parameters()), trained.trainer.world).items()
    }


def timeless(run: Path) -> list[Result]:
    clocked = ("elapsed_s", "tokens_per_s", "mfu", "recompilations")  # what tells of a process
    return [{k: v for k, v in r.items() if k not in clocked} for r in read_metrics(run)]


def exact(config: TrainConfig, dataset: Dataset, out: Path, world: World, name: str, stop_at: int = 1) -> str:
    """What differs between a run of that name, made here unless it is there, and one that stops and is resumed."""
    undisturbed, parts = out / name, out / f"{name}-parts"
    if not world.broadcast(undisturbed.exists()):
        begun(config, dataset, undisturbed, world).fit()
    begun(replace(config, stop_at=stop_at), dataset, parts, world).fit()
    begun(config, dataset, parts, world, resumes=True).fit()
    return world.from_main(lambda: difference(undisturbed, parts))


def difference(one: Path, two: Path) -> str:
    """In words, of the newest checkpoints and all records of two runs."""
    a, b = (load_newest(run) for run in (one, two))
    found = [part for part in ("model", "optimizer") if not same(getattr(a, part), getattr(b, part))]
    found += ["step"] * (a.state["step"] != b.state["step"])
    return ", ".join(found + ["metrics"] * (timeless(one) != timeless(two)))


def skip(config: TrainConfig, dataset: Dataset, out: Path, world: World) -> Result:
    """The loss is not a number on rank 1 alone, in the second step."""
    trained = begun(config, dataset, out / f"{config.parallel}-skip", world)
    honest = trained.trainer.loss

    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return honest(x, y) * (math.nan if (trained.state.step, world.rank) == (1, 1) else 1.0)

    trained.trainer.loss = forward
    records, unmoved = [], []
    before = whole(trained)
    for _ in range(3):
        records.append(trained.step())
        after = whole(trained)
        unmoved.append(same(before, after))
        before = after
    return {"skipped": ["skipped" in record for record in records], "weights as before": unmoved}


def run_out(config: TrainConfig, dataset: Dataset, out: Path, world: World) -> Result:
    """Rank 1 alone runs out of memory in two steps; as shards, all do. Beside it, the same with memory enough.

    In the second step in the forward pass of its second micro-batch, in the third in the backward pass of its first.
    """
    config = replace(config, batch_tokens=2 * config.batch_tokens, micro_batch_size=4, steps=3)
    enough = begun(config, dataset, out / f"{config.parallel}-enough", world)
    trained = begun(config, dataset, out / f"{config.parallel}-out", world)
    fails = world.rank == 1 or config.parallel != "ddp"
    trained.model.register_forward_pre_hook(exhausted(trained, 1, 2 if fails else 0))
    trained.model.blocks[0].mlp.register_full_backward_hook(exhausted(trained, 2, 1 if fails else 0))
    results: Result = {"enough": [enough.step()["gradient_norm"] for _ in range(3)], "norms": [], "micro-batches": []}
    for _ in range(3):
        results["norms"].append(trained.step()["gradient_norm"])
        results["micro-batches"].append(trained.trainer.micro_batch.size)
    return results


def exhausted(trained: Training, step: int, call: int) -> Callable[..., None]:
    """Make a hook for which no memory is left in one of its calls after so many steps, counted from 1."""
    seen = []

    def fail(*_: object) -> None:
        seen.append(trained.state.step)
        if seen[-1] == step and seen.count(step) == call:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return fail


def resume_after_halving(config: TrainConfig, dataset: Dataset, out: Path, world: World) -> bool:
    """Memory runs out in the second step; after it the run is saved, and resumed beside itself."""
    config = replace(config, micro_batch_size=4, steps=4)
    trained = begun(config, dataset, out / f"{config.parallel}-halved", world)
    trained.model.register_forward_pre_hook(exhausted(trained, 1, 1))
    for _ in range(2):
        trained.step()
    save(trained.run, trained.trainer, trained.state)
    resumed = begun(config, dataset, trained.run, world, resumes=True)
    for each in (trained, resumed):
        each.step()
    assert trained.trainer.micro_batch.size == resumed.trainer.micro_batch.size == 2
    return same(whole(trained), whole(resumed))


def stop(config: TrainConfig, dataset: Dataset, out: Path, world: World) -> list[object]:
    """Rank 1 alone gets a signal, in the second step: whether the training ended, its step, and what was saved."""
    trained = begun(config, dataset, out / "stopped", world)

    def step(do: Callable[[], Result]) -> Result:
        if (trained.state.step, world.rank) == (1, 1):
            signal.raise_signal(signal.SIGTERM)
        return do()

    trained.around_steps(step)
    ended = trained.fit()
    return [ended, trained.state.step, [step_of(path) for path in list_checkpoints(trained.run)]]


def draw(config: TrainConfig, dataset: Dataset, world: World) -> list[str]:
    """Samples of models that differ from rank to rank, and of one that is not finite on rank 0 alone."""
    samples = []
    for fault in (0.0, math.nan if world.is_main else 0.0):
        model = GPT(config.model)
        with torch.no_grad():
            model.token_embedding.weight += (0.1 * world.rank) * torch.randn_like(model.token_embedding.weight) + fault
        model = model if config.parallel == "ddp" else parallelize(model, config.parallel, world)
        if config.parallel != "ddp":  # they share one model: let its logits differ
            model.register_forward_hook(lambda module, _, logits: logits.roll(world.rank, -1) + fault)  # noqa: B023
        samples.append(sample_text(model, dataset, 12, world))
    return samples


def timed(config: TrainConfig, world: World) -> float:
    """Try how long a step takes, where one rank does more of them in that time than the others."""
    honest = optimizer.Optimizer.step

    def step(own: optimizer.Optimizer) -> None:
        time.sleep(0.004 * world.rank)
        honest(own)

    with mock.patch.object(optimizer.Optimizer, "step", step):
        return measure_timings(config, world, torch.float32, 2, 0.2).step


def all_of_it(data: Path, out: Path, world: World) -> dict[str, object]:
    dataset = open_dataset(data)
    results: dict[str, object] = {}
    config = read_config(out / "single")
    continued = begun(replace(config, stop_at=None), dataset, out / "single", world, resumes=True)
    results["continued"] = [continued.step()["train_loss"] for _ in range(2)]
    config = replace(config, stop_at=None, init_from="scratch")
    results["stopped"] = stop(config, dataset, out, world)
    results["step seconds"] = timed(read_config(out / "modern"), world)
    for parallel in ("ddp", "fsdp"):
        results[parallel] = in_mode(parallel, dataset, out, world)
    return results | agreements(world)


def in_mode(parallel: str, dataset: Dataset, out: Path, world: World) -> Result:
    config = replace(read_config(out / "single"), stop_at=None, init_from="scratch", parallel=parallel)
    modern = replace(read_config(out / "modern"), parallel=parallel)
    begun(config, dataset, out / parallel, world).fit()
    orthogonalized, newton_schulz = list[int](), muon.newton_schulz

    def counted(matrices: torch.Tensor, iterations: int) -> torch.Tensor:
        orthogonalized.append(len(matrices))
        return newton_schulz(matrices, iterations)

    with (
        mock.patch.object(samples, "SAMPLE_TEMPERATURE", 0),  # as test_world.py does, which says why
        mock.patch.object(muon, "newton_schulz", counted),
    ):
        begun(modern, dataset, out / f"{parallel}-modern", world).fit()
    mixed = replace(read_config(out / "mixed"), parallel=parallel)
    begun(mixed, open_weighted(mixed.datasets), out / f"{parallel}-mixed", world).fit()
    dropping = replace(modern, model=replace(modern.model, dropout=0.1), recompute="blocks", steps=2)
    one_layer = replace(config, model=replace(config.model, n_layer=1))
    narrow = replace(one_layer, dtype="bfloat16", recompute="activations", micro_batch_size=2, steps=2)
    rounded = replace(one_layer, float32_matmul_precision="medium", micro_batch_size=2, steps=2)
    results: Result = {
        "rounded products": exact(rounded, dataset, out, world, f"{parallel}-rounded") if rounds() else "skipped",
        "dropout, blocks": exact(dropping, dataset, out, world, f"{parallel}-dropout"),
        "bfloat16, activations": exact(narrow, dataset, out, world, f"{parallel}-narrow"),
        "at work": [
            weights_at_work(replace(narrow, recompute=recomputed), dataset, out / f"{parallel}-{recomputed}", world)
            for recomputed in ("none", "blocks")
        ],
        "after halving": resume_after_halving(dropping, dataset, out, world),
        "samples": draw(modern, dataset, world),
        "orthogonalized": sum(orthogonalized),
    }
    results["adapters"] = with_adapters(parallel, dataset, out, world)
    return results | skip(one_layer, dataset, out, world) | run_out(one_layer, dataset, out, world)


def weights_at_work(config: TrainConfig, dataset: Dataset, run: Path, world: World) -> list[str]:
    """The types that a block's weights have in a step while they are multiplied, and while they are not."""
    trained, found = begun(config, dataset, run, world), set[str]()
    weights = trained.model.blocks[0].attention.qkv
    weights.register_forward_pre_hook(lambda module, _: found.add(str(module.weight.dtype)))
    trained.step()
    return [*found, str(weights.weight.dtype)]


def with_adapters(parallel: str, dataset: Dataset, out: Path, world: World) -> str:
    """Train as the run `adapters` did; what differs when one with dropout, on a base in bfloat16, is resumed."""
    config = replace(read_config(out / "adapters"), parallel=parallel)
    begun(config, dataset, out / f"{parallel}-adapters", world).fit()
    lora = replace(config.lora, dropout=0.2, base_dtype="bfloat16")
    config = replace(config, lora=lora, recompute="blocks", steps=2)
    return exact(config, dataset, out, world, f"{parallel}-adapters-exact")


def agreements(world: World) -> dict[str, object]:
    results = {
        "sum": world.sum(world.rank + 0.5, 1),
        "decisions": [world.any(world.rank == 1), world.any(False), world.min(7 - world.rank)],
        "broadcast": world.broadcast({"from": world.rank}),
        "nodes": [world.nodes, world.even],
        "from main": world.from_main(lambda: world.rank),
    }
    for name, fault in (("different", lambda: world.require_same("--data", world.rank)), ("bad", lambda: bad(world))):
        try:
            fault()
        except InputError as error:
            results[name] = [type(error).__name__, str(error)]
    return results


def bad(world: World) -> None:
    def fail() -> None:
        raise InputError("no such weights")

    world.from_main(fail)


def others(data: Path, out: Path, world: World, compiles: str) -> dict[str, object]:
    """What takes longer, or other numbers of processes: exactness alone."""
    dataset, results = open_dataset(data), {}
    recipe = replace(read_config(out / "modern"), compile=compiles, steps=4)
    if compiles == "on":
        recipe = replace(recipe, model=replace(recipe.model, n_layer=1))
    for parallel in MODES:
        name = f"{parallel}-{world.size}-{compiles}"
        results[parallel] = exact(replace(recipe, parallel=parallel), dataset, out, world, name, stop_at=2)
        if compiles == "on":
            calls = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            results[parallel] += "" if calls else "nothing was compiled"
    return results


def slow_start(out: Path, world: World) -> dict[str, object]:
    """Rank 1 takes longer than the timeout in its first step, and then again in its third."""
    del out
    for step in range(3):
        if world.rank == 1 and step in (0, 2):
            time.sleep(1.5 if step == 0 else 2.5)
        world.sum(step)
        world.hurry()
        log.warning(f"step {step + 1} done")
    return {}


def fail_alone(data: Path, out: Path, world: World, what: str) -> dict[str, object]:
    """Rank 1 fails in the midst of a sharded forward pass, of a step or a sample, or of Muon; the other does not."""
    parallel = "ddp" if what == "optimizer-ddp" else "fsdp"
    config = replace(read_config(out / "single"), parallel=parallel, init_from="scratch", stop_at=None)
    trained = begun(config, open_dataset(data), out / "alone", world)

    def fail(*_: object) -> None:
        if world.rank == 1:
            raise (
                CompilerFailed("no such instruction") if what == "compiler" else torch.OutOfMemoryError("out of memory")
            )

    if what.startswith("optimizer"):
        muon.newton_schulz = fail if world.rank == 1 else muon.newton_schulz
    else:
        trained.model.blocks[1].register_forward_pre_hook(fail)
    if what == "sample":
        sample_text(trained.model, trained.dataset, 12, world)
        world.any(False)
    else:
        trained.step()
        trained.step()
    return {}


def main(task: str, data: Path, out: Path) -> None:
    utilization.measured_peak_flops = cache(utilization.measured_peak_flops)  # which takes longer than steps so small
    os.fsync = os.fstat  # no power fails, so no disk is waited for
    os.environ["LOCAL_WORLD_SIZE"] = "1" if os.environ["WORLD_SIZE"] == "3" else "2"  # three nodes of one, or of two
    failing = ("memory", "compiler", "sample", "optimizer", "optimizer-ddp")
    with join_world("cpu", timeout={"slow-start": 1, **dict.fromkeys(failing, 3)}.get(task, 60)) as world:
        if task == "all":
            results = all_of_it(data, out, world)
        elif task == "hsdp":
            results = {"hsdp": in_mode("hsdp", open_dataset(data), out, world)}
        elif task == "slow-start":
            results = slow_start(out, world)
        elif task in failing:
            results = fail_alone(data, out, world, task)
        else:
            results = others(data, out, world, task)
        (out / f"{task}-{world.size}-{world.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
