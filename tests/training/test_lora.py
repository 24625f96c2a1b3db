"""Runs that train adapters: what moves, what is saved, resuming, and the base that they name."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import require_equal, run_gpt, same, weights, without_clock
from safetensors.torch import load_file, save_file

from gpt import GPT, InputError, load_run
from gpt.config import OptimizerConfig
from gpt.model.lora import LoRAConfig, LoRALinear, merged_weights
from gpt.runs import checkpoint
from gpt.runs.adapters import load_adapter
from gpt.runs.checkpoint import list_checkpoints, load_newest
from gpt.runs.directory import read_config
from gpt.runs.integrity import weights_sha256
from gpt.runs.load import read_source
from gpt.tracking.jsonl import read_metrics
from gpt.training.start import initial_weights, new_model

LORA = LoRAConfig(rank=4, dropout=0.2)


@pytest.fixture
def config(tiny_config, finished):
    """A short run of adapters on a finished run, in a place of the test's own."""
    return replace(
        tiny_config,
        steps=8,
        init_from=str(finished(tiny_config, "base")),
        lora=LORA,
        model=replace(tiny_config.model, dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        evaluation=replace(tiny_config.evaluation, every=4),
        checkpoint=replace(tiny_config.checkpoint, every=3),
    )


def adapters(training):
    return {name: tensor for name, tensor in weights(training).items() if "lora_" in name}


def test_adapters_alone_move_and_are_saved_and_the_run_is_loaded_with_its_base(make_training, config):
    base = read_source(config.init_from)
    training = make_training(config)
    assert same({n: t for n, t in weights(training).items() if "lora_" not in n}, base.weights)
    before = adapters(training)
    training.fit()
    after = weights(training)
    assert same({n: t for n, t in after.items() if "lora_" not in n}, base.weights)
    assert all(not torch.equal(after[name], tensor) for name, tensor in before.items())

    kept = read_config(training.run)
    assert (kept.lora, kept.init_from, kept.init_sha256) == (LORA, config.init_from, weights_sha256(base.weights))
    newest = list_checkpoints(training.run)[-1]
    saved = load_file(newest / "model.safetensors")
    assert same(saved, adapters(training))
    moments = load_file(newest / "optimizer.safetensors")
    assert {entry.rpartition("/")[0] for entry in moments} == saved.keys()
    assert sum(tensor.nbytes for tensor in saved.values()) * 4 < sum(t.nbytes for t in base.weights.values())

    loaded = load_run(training.run, checkpoint="last").model
    assert same(dict(loaded.state_dict()), after)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == saved.keys()
    ids = torch.arange(32).unsqueeze(0)
    merged = load_run(training.run, checkpoint="last", prepacked=True).model
    torch.testing.assert_close(merged(ids), loaded(ids), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, LoRALinear) for module in merged.modules())


def test_adapters_learn_on_a_base_that_knows_little(make_training, config, finished, tiny_config):
    early = finished(replace(tiny_config, steps=2), "early")
    training = make_training(replace(config, init_from=str(early)))
    training.fit()
    losses = [record["val_loss"] for record in read_metrics(training.run) if "val_loss" in record]
    assert losses[-1] < losses[0] < load_run(early).state["best_validation_loss"] - 0.03


@pytest.mark.parametrize(
    ("recompute", "base_dtype"), [("none", "float32"), ("blocks", "float32"), ("activations", "bfloat16")]
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(make_training, config, recompute, base_dtype):
    config = replace(config, recompute=recompute, lora=replace(LORA, base_dtype=base_dtype))
    whole = make_training(config)
    whole.fit()
    make_training(replace(config, stop_at=5), "parts").fit()
    parts = make_training(read_config(whole.run.with_name("parts")), "parts", resume=True)
    parts.config = parts.trainer.config = replace(parts.trainer.config, stop_at=None)
    parts.fit()
    require_equal(weights(parts), weights(whole))
    require_equal(parts.trainer.optimizer.state_dict(), whole.trainer.optimizer.state_dict())
    assert without_clock(read_metrics(parts.run)) == without_clock(read_metrics(whole.run))
    held = {p.dtype for n, p in whole.model.named_parameters() if n.endswith("mlp.fc_in.weight")}
    assert held == {torch.bfloat16 if base_dtype == "bfloat16" else torch.float32}


def test_a_batch_that_is_no_number_moves_nothing(make_training, config):
    training = make_training(config)
    training.step()
    before, honest = weights(training), training.trainer.loss
    training.trainer.loss = lambda *tensors: honest(*tensors) * math.nan
    assert "skipped" in training.step()
    require_equal(weights(training), before)
    training.trainer.loss = honest
    assert "skipped" not in training.step()
    assert not same(weights(training), before)


def test_where_memory_runs_out_half_as_many_sequences_give_the_same(make_training, config):
    """But for dropout, whose numbers are drawn for each micro-batch."""
    config = replace(config, lora=replace(LORA, dropout=0.0))
    training, reference = make_training(config), make_training(config, "reference")
    honest = training.trainer.loss

    def loss(inputs, *rest):
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(inputs, *rest)

    training.trainer.loss = loss
    for each in (training, reference):
        each.step()
    assert training.trainer.micro_batch.size == 2
    for name, tensor in weights(reference).items():
        torch.testing.assert_close(weights(training)[name], tensor, rtol=1e-4, atol=1e-5)


# ---- the base ----


def trained_adapters(make_training, config):
    training = make_training(replace(config, steps=2))
    training.fit()
    return training.run


def test_a_base_that_has_gone_is_told_with_its_hash_and_what_to_do(make_training, config, tmp_path):
    run = trained_adapters(make_training, config)
    wanted = read_config(run).init_sha256
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{run}: holds adapters alone.*base with the SHA-256 {wanted}.*put it back"):
        load_run(run)
    content = json.loads((run / "config.json").read_text())
    content["config"]["init_from"] = str(tmp_path / "elsewhere")
    (run / "config.json").write_text(json.dumps(content))
    load_run(run)


def test_an_adapter_is_put_on_its_base_by_hand(make_training, config, tmp_path):
    run = trained_adapters(make_training, config)
    own = load_run(run).model.state_dict()
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    loaded = load_adapter(run, tmp_path / "elsewhere")
    require_equal(loaded.model.state_dict(), own)
    assert loaded.path == run
    options = ("--prompt", "x = ", "--max-tokens", 5, "--device", "cpu", "--seed", 1)
    by_hand = run_gpt(tmp_path, "sample", "--run", "elsewhere", "--adapter", run, *options)
    (tmp_path / "elsewhere").rename(tmp_path / "base")
    assert by_hand == run_gpt(tmp_path, "sample", "--run", run, *options)
    assert by_hand == run_gpt(tmp_path, "sample", "--adapter", run, *options)
    with pytest.raises(InputError, match="`adapter` .*base: holds whole weights, and no adapter"):
        load_adapter(tmp_path / "base")
    change_best(tmp_path / "base", 1.01)
    for path in list_checkpoints(tmp_path / "base")[:-1]:
        shutil.rmtree(path)
    with pytest.raises(InputError, match="others now"):
        load_adapter(run, tmp_path / "base")


def change_best(run, scale):
    """Write the best checkpoint of a run with other weights, as if they had been trained so."""
    best = checkpoint.load_best(run)
    moments = checkpoint.load(best.path, optimizer=True).optimizer
    checkpoint.save(run, {n: scale * t for n, t in best.model.items()}, moments, best.state)
    return best.path


def test_a_base_that_has_changed_is_refused_by_loading_and_resuming(make_training, config, tmp_path):
    run = trained_adapters(make_training, config)
    wanted = read_config(run).init_sha256
    for path in list_checkpoints(tmp_path / "base")[:-1]:
        shutil.rmtree(path)
    change_best(tmp_path / "base", 1.01)
    now = weights_sha256(read_source(tmp_path / "base").weights)
    message = f"{run}: is for the weights of .*base with the SHA-256 {wanted}, and .*base has others now, with {now}"
    with pytest.raises(InputError, match=message):
        load_run(run)
    with pytest.raises(InputError, match=message):
        make_training(read_config(run), resume=True)
    assert wanted in run_gpt(tmp_path, "sample", "--run", run, "--prompt", "x", "--device", "cpu", code=2)


def test_the_checkpoint_that_adapters_are_for_is_found_beside_a_better_one(make_training, config, tmp_path):
    run = trained_adapters(make_training, config)
    before = load_run(run).model.state_dict()
    best = checkpoint.load_best(tmp_path / "base")
    better = best.state | {"step": 99, "evaluation": best.state["evaluation"] | {"loss": 0.1}}
    checkpoint.save(tmp_path / "base", {n: 1.01 * t for n, t in best.model.items()}, {}, better)
    assert load_run(tmp_path / "base").state["step"] == 99
    require_equal(load_run(run).model.state_dict(), before)


def test_a_base_of_another_shape_is_refused(make_training, config, tmp_path):
    run = trained_adapters(make_training, config)
    file = tmp_path / "base" / "config.json"
    content = json.loads(file.read_text())
    content["config"]["model"]["n_layer"] = 2
    file.write_text(json.dumps(content))
    for path in list_checkpoints(tmp_path / "base"):
        found = checkpoint.load(path, optimizer=True)
        more = {name.replace("blocks.0.", "blocks.1."): tensor.clone() for name, tensor in found.model.items()}
        checkpoint.save(tmp_path / "base", found.model | more, {}, found.state)
    with pytest.raises(InputError, match="has others now"):
        load_run(run)


def test_damaged_adapters_are_told(make_training, config):
    run = trained_adapters(make_training, config)
    newest = load_newest(run)
    damaged = {name: tensor for name, tensor in newest.model.items() if not name.endswith("qkv.lora_B")}
    checkpoint.save(run, damaged, newest.optimizer, newest.state)
    with pytest.raises(InputError, match="its adapters do not fit its base.*has lora_A for blocks.0.attention.qkv"):
        load_run(run, checkpoint="last")


def test_other_weights_than_the_hash_that_was_asked_for_are_refused(config):
    _, digest = initial_weights(config)
    initial_weights(replace(config, init_sha256=digest))
    with pytest.raises(
        InputError, match=f"`init_sha256`: is for the weights of .* {'0' * 64}, .*others now, with {digest}"
    ):
        initial_weights(replace(config, init_sha256="0" * 64))


def test_adapters_upon_adapters_are_refused_and_their_merged_weights_can_be_trained(make_training, config):
    run = trained_adapters(make_training, config)
    with pytest.raises(InputError, match=r"holds adapters itself: fold them into its weights by gpt merge"):
        initial_weights(replace(config, init_from=str(run)))
    found, _ = initial_weights(replace(config, init_from=str(run), lora=LoRAConfig()))
    require_equal(found, merged_weights(load_run(run).model))


def test_a_context_that_is_cropped_stays_so(make_training, config):
    short = replace(config, model=replace(config.model, context_length=16), batch_tokens=6 * 16)
    run = trained_adapters(make_training, short)
    assert load_run(run).model.position_embedding.weight.shape == (16, 32)


def test_hashes_are_of_values_and_not_of_files(tmp_path):
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5), "c": torch.tensor(1.0)}
    digest = weights_sha256(weights)
    assert digest == weights_sha256(dict(reversed(weights.items())))
    assert digest == weights_sha256({n: t.double() for n, t in weights.items()})
    assert digest == weights_sha256(weights | {"a": weights["a"].t().contiguous().t()})
    save_file(weights, tmp_path / "x.safetensors")
    assert digest == weights_sha256(load_file(tmp_path / "x.safetensors"))
    for other in (weights | {"a": weights["a"].reshape(4, 3)}, weights | {"b": -weights["b"]}):
        assert weights_sha256(other) != digest
    assert weights_sha256({"z": weights["a"]}) != weights_sha256({"a": weights["a"]})


# ---- what it costs ----


def test_a_new_model_with_adapters_is_the_same_each_time(config):
    one, two = (new_model(config, "cpu") for _ in range(2))
    require_equal(one.state_dict(), two.state_dict())
    assert same({n: t for n, t in one.state_dict().items() if "lora_" not in n}, _plain(config).state_dict())


def _plain(config):
    torch.manual_seed(config.seed)
    return GPT(config.model)


def test_training_says_how_much_it_trains(dataset, config, tmp_path):
    flags = ("--lora.rank", 4, "--steps", 2, "--device", "cpu", "--run-dir", "on-base", "--batch-tokens", 192)
    given = ("finetune", "--init-from", config.init_from, "--data", dataset.path, *flags)
    run_gpt(tmp_path, "train", *given)
    refused = run_gpt(tmp_path, "train", "--data", dataset.path, "--lora.rank", 4, "--device", "cpu", code=2)
    assert "--lora.rank 4: adapters are for trained weights: name a run or a model by --init-from" in refused
    assert "--lora-r: is called --lora.rank here" in run_gpt(tmp_path, "train", "--lora-r", 4, code=2)
    changed = run_gpt(tmp_path, "train", "--resume", "--run-dir", "on-base", "--lora.alpha", 8, code=2)
    assert "lora.alpha was 32.0 and cannot become 8.0 midway" in changed
    unknown = ("--lora.targets", "mlp.fc_inn", "--run-dir", "another", "--dry-run")
    assert "There are: attention.qkv" in run_gpt(tmp_path, "train", *given, *unknown, code=2)
    assert read_config(tmp_path / "on-base").init_from == str(tmp_path / "base")


def test_compiled_it_trains_adapters_alike(make_training, config, dynamo):
    config = replace(config, micro_batch_size=3, lora=replace(LORA, dropout=0.0))
    training, reference = make_training(replace(config, compile="on")), make_training(config, "reference")
    records = [[each.step() for _ in range(3)] for each in (training, reference)]
    assert all(record["compiled"] for record in records[0]) and dynamo() > 0
    for one, two in zip(*records, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-4)
    for name, tensor in weights(reference).items():
        torch.testing.assert_close(weights(training)[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
