import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers import Training
from out_of_memory import REPORTS
from processes import world

from gpt import GPT, InputError
from gpt.config import OptimizerConfig
from gpt.distributed import launch, parallel
from gpt.distributed.launch import join_world
from gpt.distributed.world import World
from gpt.errors import ProcessLost
from gpt.model.lora import LoRAConfig
from gpt.runs.checkpoint import load_newest
from gpt.runs.directory import open_run, read_config
from gpt.tracking.jsonl import read_metrics
from gpt.training import samples

pytestmark = pytest.mark.process

MODES = ("ddp", "fsdp", "hsdp")
ALONE = "step 1: process 1, while the others wait for what it sends: "


@pytest.fixture(scope="module")
def worlds(dataset, mixture, tiny_shape, modern_shape, tmp_path_factory):
    """One process trains `whole`, `modern`, `mixed` and a part of `single`; three then do what world_program.py says.

    Three, as two add their numbers alike in any order; with shares of the batch that have a smaller micro-batch at
    their end. Returns (directory, results).
    """
    out = tmp_path_factory.mktemp("worlds")
    config = replace(
        tiny_shape,
        model=replace(tiny_shape.model, n_layer=2, dropout=0.0),
        batch_tokens=12 * 32,
        micro_batch_size=3,
        steps=3,
        evaluation=replace(tiny_shape.evaluation, train_split=True),
    )
    modern = replace(config, model=replace(modern_shape.model, dropout=0.0), optimizer=modern_shape.optimizer)
    small = replace(config, model=replace(config.model, n_layer=1), steps=2)
    mixed = replace(small, data=tuple(f"{s.dataset.path}={float(s.weight)}" for s in mixture.sources))
    for name, chosen in (
        ("whole", config),
        ("single", replace(config, stop_at=1)),
        ("modern", modern),
        ("mixed", mixed),
    ):
        named = replace(chosen, run_dir=out / name)
        # The likeliest tokens, here and in the program: to a young model all that it has not met are equally likely,
        # and which of them is drawn hangs on rounding.
        with (
            mock.patch.object(samples, "SAMPLE_TEMPERATURE", 0),
            open_run(named, dataset.tokenizer, resume=False) as run,
        ):
            torch.manual_seed(config.seed)
            Training(named, mixture if name == "mixed" else dataset, run).fit()
    train_adapters(replace(small, init_from=str(out / "mixed")), dataset, out / "adapters")
    return out, together("all", 3, dataset, out)


def train_adapters(config, dataset, path):
    """Train adapters without dropout, whose numbers depend on the process, beside frozen weights."""
    lora, optimizer = LoRAConfig(rank=4, dropout=0.0), OptimizerConfig(learning_rate=1e-2, warmup_steps=1)
    config = replace(config, lora=lora, optimizer=optimizer, run_dir=path)
    with open_run(config, dataset.tokenizer, resume=False) as run:
        Training(config, dataset, run).fit()


PROGRAM = Path(__file__).with_name("world_program.py")


def together(task, processes, dataset, out):
    """What each of the processes reports of a task of world_program.py."""
    world(processes, PROGRAM, task, dataset.path, out, cwd=out)
    return [json.loads((out / f"{task}-{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module", params=["ddp", "fsdp", pytest.param("hsdp", marks=pytest.mark.slow)])
def seen(worlds, dataset, request):
    """The directory of the runs, a mode, and what each process saw in it."""
    out, results = worlds
    results = together("hsdp", 3, dataset, out) if request.param == "hsdp" else results
    return out, request.param, [result[request.param] for result in results]


def losses(run):
    return [record["train_loss"] for record in read_metrics(run)]


def test_several_processes_have_the_losses_of_one(seen):
    out, mode, _ = seen
    assert losses(out / mode) == pytest.approx(losses(out / "whole"), rel=1e-4)
    one, two = read_metrics(out / "whole"), read_metrics(out / mode)
    assert [r["batch_hash"] for r in one] == [r["batch_hash"] for r in two]
    assert [r["gradient_norm"] for r in one] == pytest.approx([r["gradient_norm"] for r in two], rel=1e-3)
    for name in ("val_loss", "train_split_loss"):
        assert one[-1][name] == pytest.approx(two[-1][name], rel=1e-5)


def test_several_processes_have_the_losses_of_one_on_each_source(seen):
    out, mode, _ = seen
    for name in ("python", "more"):
        one, two = ([r[f"train_loss/{name}"] for r in read_metrics(out / run)] for run in ("mixed", f"{mode}-mixed"))
        assert two == pytest.approx(one, rel=1e-5)
        assert len(one) == 2


def test_several_processes_train_adapters_as_one_does_and_resume_exactly(seen):
    out, mode, results = seen
    assert losses(out / f"{mode}-adapters") == pytest.approx(losses(out / "adapters"), rel=1e-4)
    one, two = (load_newest(out / name).model for name in ("adapters", f"{mode}-adapters"))
    assert one.keys() == two.keys() and all("lora_" in name for name in one)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert [result["adapters"] for result in results] == [""] * 3


def test_several_processes_with_muon_have_the_weights_of_one(seen):
    """Of the modern recipe with every option, within rounding, and the same samples at evaluations."""
    out, mode, _ = seen
    one, two = (load_newest(out / name) for name in ("modern", f"{mode}-modern"))
    assert losses(out / f"{mode}-modern") == pytest.approx(losses(out / "modern"), rel=1e-4)
    for name, tensor in one.model.items():
        torch.testing.assert_close(tensor, two.model[name], rtol=1e-2, atol=2e-4, msg=name)
    assert one.optimizer.keys() == two.optimizer.keys()
    assert "blocks.0.attention.qkv.weight/momentum" in two.optimizer
    drawn = [[r["sample"] for r in read_metrics(out / name) if "sample" in r] for name in ("modern", f"{mode}-modern")]
    assert drawn[0] == drawn[1] != []


def test_each_matrix_is_orthogonalized_by_one_process(seen):
    out, _, results = seen
    config = read_config(out / "modern")
    matrices = sum(len(rows) for _, rows in GPT(config.model).muon_parameters())
    counts = [result["orthogonalized"] for result in results]
    assert sum(counts) == config.steps * matrices
    assert min(counts) > 0


def test_a_trial_of_speed_waits_for_no_other_process(worlds):
    """Each makes as many steps as its time allows, with Muon, too."""
    _, results = worlds
    times = [result["step seconds"] for result in results]
    assert 0 < times[0] < 60
    assert times[2] > 0.008


def test_checkpoints_hold_whole_tensors_whatever_wrote_them(seen):
    out, mode, _ = seen
    one, two = (load_newest(out / name) for name in ("whole", mode))
    for ours, theirs in ((one.model, two.model), (one.optimizer, two.optimizer)):
        assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
    for name, tensor in one.model.items():
        torch.testing.assert_close(tensor, two.model[name], rtol=1e-3, atol=1e-5)


def test_resuming_with_as_many_processes_is_exact(seen):
    """Weights, optimizer state and records: nothing differs."""
    _, _, (first, *_) = seen
    assert first["dropout, blocks"] == ""


def test_in_bfloat16_a_shared_model_is_gathered_so_and_learns_the_same(seen):
    """But where blocks are recomputed, which would no longer be compiled."""
    out, mode, results = seen
    kept, gathered = "torch.float32", "torch.float32" if mode == "ddp" else "torch.bfloat16"
    assert [result["at work"] for result in results] == [[[gathered, kept], [kept, kept]]] * 3
    assert losses(out / f"{mode}-narrow") == pytest.approx(losses(out / "ddp-narrow"), rel=1e-5)


def test_resuming_in_bfloat16_is_exact(seen):
    _, _, results = seen
    assert results[0]["bfloat16, activations"] == ""


def test_resuming_with_rounded_products_is_exact(seen, rounds):
    _, _, results = seen
    assert results[0]["rounded products"] == ""


def test_resuming_after_the_micro_batch_was_halved_is_exact(seen):
    _, _, results = seen
    assert results[0]["after halving"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_resuming_with_other_numbers_of_processes_is_exact(worlds, dataset, processes):
    """Two, and two nodes of two."""
    first, *_ = together("off", processes, dataset, worlds[0])
    assert first == dict.fromkeys(MODES, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_resuming_compiled_is_exact(worlds, dataset):
    """On three nodes of one process each."""
    first, *_ = together("on", 3, dataset, worlds[0])
    assert first == dict.fromkeys(MODES, "")


def test_all_processes_read_the_sample_that_one_draws(seen):
    """Although their logits differ; and where those of the first are no numbers, none makes a sample."""
    _, _, results = seen
    one, *more = (result["samples"] for result in results)
    assert all(samples == one for samples in more)
    assert len(one[0]) > 4
    assert "(no sample: the model's logits are not finite" in one[1]


def test_the_first_step_may_take_longer_than_the_timeout(dataset, tmp_path):
    """One rank may compile what another finds in its cache; later ones may not."""
    output = world(2, PROGRAM, "slow-start", dataset.path, tmp_path, cwd=tmp_path, failing=True)
    assert "step 2 done" in output
    assert "step 3 done" not in output
    assert "did not answer for 1 s" in output


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("compiler", f"{ALONE}no such instruction; go on with `resume` `compile` off"),
        pytest.param("memory", f"{ALONE}out of memory with 3 sequences at a time: go on", marks=pytest.mark.slow),
        pytest.param("sample", "out of memory with 1 sequences at once", marks=pytest.mark.slow),
        pytest.param("optimizer", "step 1: out of memory in the optimizer", marks=pytest.mark.slow),
        pytest.param("optimizer-ddp", "step 1: out of memory in the optimizer", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_fails_alone_while_others_wait_for_it_says_why_and_they_end(
    worlds, dataset, tmp_path, what, said
):
    """Not after the half hour that a first step may take."""
    out, _ = worlds
    shutil.copytree(out / ("modern" if what.startswith("optimizer") else "single"), tmp_path / "single")
    output = world(2, PROGRAM, what, dataset.path, tmp_path, cwd=tmp_path, failing=True)
    assert said in output


def test_several_processes_continue_what_one_began(worlds):
    out, results = worlds
    for result in results:
        assert result["continued"] == pytest.approx(losses(out / "whole")[1:], rel=1e-4)


def test_one_process_continues_what_several_began(seen, dataset, modern_shape):
    """With the modern recipe, and dropout; ten steps more than were asked for, from where the rate began to fall."""
    out, mode, _ = seen
    config = replace(modern_shape, batch_tokens=12 * 32, micro_batch_size=4, steps=12, run_dir=out / f"{mode}-dropout")
    training = Training(config, dataset, config.run_dir, resumes=True)
    assert training.state.step == 1
    assert training.step()["train_loss"] < losses(out / "whole")[0]


def test_a_loss_that_is_no_number_on_one_rank_is_skipped_by_all(seen):
    _, _, results = seen
    for result in results:
        assert result["skipped"] == [False, True, False]
    assert results[0]["weights as before"] == [False, True, False]


def test_a_signal_to_one_process_stops_all_after_the_same_step(worlds):
    """And what was saved is theirs."""
    _, results = worlds
    assert [result["stopped"] for result in results] == [[False, 2, [2]]] * 3


def test_memory_that_runs_out_on_one_rank_halves_the_micro_batch_of_all(seen):
    """In a forward and in a backward pass; nothing of the gradients of the abandoned attempts is left."""
    _, _, results = seen
    for result in results:
        assert result["micro-batches"] == [4, 2, 1]
        assert result["norms"] == pytest.approx(result["enough"], rel=1e-3)


def test_ranks_agree(worlds):
    _, results = worlds
    for result in results:
        assert result["sum"] == [4.5, 3.0]
        assert result["decisions"] == [True, False, 5]
        assert result["broadcast"] == {"from": 0}
        assert result["nodes"] == [3, True]
        assert result["from main"] == 0
        assert result["bad"][1] == "no such weights"
    assert [result["bad"][0] for result in results] == ["InputError", "Reported", "Reported"]
    assert "different" not in results[0]
    assert results[1]["different"][1] == "--data: differs between process 0 and process 1; give all the same"


def test_a_batch_is_divided_without_a_rest():
    def share(rank, size, batch):
        return World.local_rows(SimpleNamespace(rank=rank, size=size), batch)

    assert [share(rank, 4, 8) for rank in range(4)] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    with pytest.raises(InputError, match="a step's 8 sequences cannot be divided equally between 3 processes"):
        share(0, 3, 8)


def test_nodes_with_different_numbers_of_processes_have_no_copies_of_shards():
    world = SimpleNamespace(size=4, nodes=2, even=False)
    with pytest.raises(InputError, match="`parallel` hsdp: needs equally many processes on each node"):
        parallel._mesh("hsdp", world)


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="4 processes on a machine with 2 CUDA devices"), join_world("cuda", 1):
        pass


def test_without_torchrun_the_world_is_this_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with join_world("cpu", 1) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.sum(1, 2.5) == [1, 2.5]
        assert world.any(True)
        assert world.broadcast("x") == "x"


def test_errors_of_our_own_are_not_taken_for_a_lost_process():
    with pytest.raises(RuntimeError, match="shapes"), join_world("cpu", 1):
        raise RuntimeError("shapes do not match")


def test_too_little_memory_for_a_library_of_communication_is_no_lost_process(monkeypatch):
    """NCCL says so in a text that names itself."""
    monkeypatch.setattr(launch.dist, "rendezvous", lambda *_, **__: iter([(None, 0, 1)]))
    monkeypatch.setattr(launch, "_fresh_store", lambda *_: None)
    for name in ("init_process_group", "all_gather_object", "new_group", "destroy_process_group"):
        monkeypatch.setattr(launch.dist, name, lambda *_, **__: None)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "World", lambda *_, **__: SimpleNamespace(hurries=True))
    sizes = mock.Mock(side_effect=lambda found, own: found.__setitem__(0, own))
    monkeypatch.setattr(launch.dist, "all_gather_object", sizes)
    for name in ("NCCL", "NCCL's malloc"):
        with pytest.raises(RuntimeError, match="NCCL|nccl") as caught, join_world("cpu", 1):
            raise REPORTS[name]
        assert caught.value is REPORTS[name]
    with pytest.raises(ProcessLost), join_world("cpu", 1):
        raise RuntimeError("NCCL error: remote process exited")
