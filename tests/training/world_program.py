"""What the ranks of a world do in test_world.py: started by torchrun, each writes what it saw as JSON.

world_program.py DATA OUT: DATA is a dataset, OUT a directory in which one process has begun the run `single`, and
trained `modern`.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from helpers import fit

from gpt import GPT, Config, InputError
from gpt.checkpoint import load_newest
from gpt.run import open_run, read_config
from gpt.tokens.dataset import Dataset, open_dataset
from gpt.training.metrics import read_metrics
from gpt.training.progress import ProgressDisplay
from gpt.training.state import resume
from gpt.training.trainer import Trainer
from gpt.training.world import World, join_world

Result = dict[str, object]


def trainer(config: Config, dataset: Dataset, run: Path, world: World, resumes: bool = False) -> Trainer:
    torch.manual_seed(config.seed)
    config = replace(config, run=run)
    if world.is_main and not resumes:
        with open_run(config, dataset.tokenizer, resume=False):
            pass
    world.wait()
    result = Trainer(config, GPT(config.model), dataset, run, world)
    if resumes:
        assert resume(result)
    return result


def whole(trained: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: tensor.clone() for name, tensor in trained.world.gather(dict(trained.model.named_parameters())).items()
    }


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def timeless(run: Path) -> list[Result]:
    clocked = ("elapsed_s", "tokens_per_s", "flops_utilization")
    return [{k: v for k, v in r.items() if k not in clocked} for r in read_metrics(run)]


def train(config: Config, dataset: Dataset, out: Path, world: World, quiet: ProgressDisplay) -> Result:
    """Undisturbed, and stopped and resumed; with dropout, so that its randomness is resumed as well."""
    undisturbed = trainer(config, dataset, out / f"{config.parallel}-whole", world)
    fit(undisturbed, quiet)
    fit(trainer(replace(config, stop_at=5), dataset, out / f"{config.parallel}-parts", world), quiet)
    resumed = trainer(config, dataset, out / f"{config.parallel}-parts", world, resumes=True)
    fit(resumed, quiet)
    exact = equal(whole(undisturbed), whole(resumed)) and resumed.step == config.steps
    if world.is_main:
        one, two = (load_newest(t.run, print) for t in (undisturbed, resumed))
        exact = exact and equal(one.optimizer, two.optimizer) and timeless(undisturbed.run) == timeless(resumed.run)
    return {"resume is exact": exact}


def skip(config: Config, dataset: Dataset, out: Path, world: World) -> Result:
    """The loss is not a number on rank 1 alone, in the third step."""
    trained = trainer(config, dataset, out / f"{config.parallel}-skip", world)
    honest = trained.forward

    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return honest(x, y) * (math.nan if (trained.step, world.rank) == (2, 1) else 1.0)

    trained.forward = forward
    records, same = [], []
    for _ in range(4):
        before = whole(trained)
        records.append(trained.train_step())
        same.append(equal(before, whole(trained)))
    return {"skipped": ["skipped" in record for record in records], "weights as before": same}


def run_out(config: Config, dataset: Dataset, out: Path, world: World, where: str) -> Result:
    """In the second step rank 1 alone cannot hold more than two sequences; as shards, none.

    In the forward pass of the second micro-batch, or in the backward pass of the first; beside it, the same without.
    """
    config = replace(config, batch_tokens=2 * config.batch_tokens, micro_batch=4)
    trained = trainer(config, dataset, out / f"{config.parallel}-{where}", world)
    reference = trainer(config, dataset, out / f"{config.parallel}-{where}-enough", world)
    seen = []

    def fail(*_: object) -> None:
        seen.append(trained.step)
        if seen.count(1) == (2 if where == "forward" else 1) and (world.rank == 1 or config.parallel != "ddp"):
            raise torch.OutOfMemoryError("CUDA out of memory")

    if where == "forward":
        trained.model.register_forward_pre_hook(fail)
    else:
        trained.model.blocks[0].mlp.register_full_backward_hook(fail)
    norms = [[t.train_step()["gradient_norm"] for _ in range(4)] for t in (trained, reference)]
    return {f"norms {where}": norms[0], f"enough {where}": norms[1], f"micro-batch {where}": trained.micro_batch.size}


def main(data: Path, out: Path) -> None:
    with join_world("cpu", timeout=60) as world:
        dataset, quiet, results = open_dataset(data), ProgressDisplay(1, quiet=True), {}
        config = read_config(out / "single")
        continued = trainer(replace(config, stop_at=None), dataset, out / "single", world, resumes=True)
        results["continued"] = [continued.train_step()["train_loss"] for _ in range(4)]
        config = replace(config, stop_at=None, init="scratch")
        recipe = read_config(out / "modern")
        for parallel in ("ddp", "fsdp", "hsdp"):
            chosen = replace(config, parallel=parallel)
            modern = replace(recipe, parallel=parallel)
            fit(trainer(modern, dataset, out / f"{parallel}-modern", world), quiet)
            dropping = replace(modern, model=replace(modern.model, dropout=0.1))
            plain = trainer(chosen, dataset, out / parallel, world)
            fit(plain, quiet)
            results[parallel] = train(dropping, dataset, out, world, quiet) | skip(chosen, dataset, out, world)
            for where in ("forward", "backward"):
                results[parallel] |= run_out(chosen, dataset, out, world, where)
        results["sum"] = world.sum(world.rank + 0.5, 1)
        results["decisions"] = [world.any(world.rank == 1), world.any(False), world.min(7 - world.rank)]
        results["broadcast"] = world.broadcast({"from": world.rank})
        try:
            world.require_same("--data", world.rank)
        except InputError as error:
            results["different"] = str(error)
        (out / f"rank-{world.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
