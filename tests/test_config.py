import json
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest

from gpt.config import EvaluationConfig, OptimizerConfig, TrainConfig, nearest_multiple
from gpt.config_io import overlay, to_dict, whole_number
from gpt.errors import InputError
from gpt.generation.sampling import SamplingConfig
from gpt.model.config import ModelConfig


def test_default_model_is_gpt2_small():
    config = ModelConfig()
    assert (config.n_layer, config.n_head, config.n_embd, config.context_length, config.vocab_size) == (
        12,
        12,
        768,
        1024,
        50257,
    )
    assert config.head_dim == 64


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ModelConfig(n_embd=100, n_head=12), "model.n_head"),
        (lambda: ModelConfig(n_layer=0), "model.n_layer"),
        (lambda: ModelConfig(dropout=1.0), "model.dropout"),
        (lambda: OptimizerConfig(learning_rate=0), "optimizer.learning_rate"),
        (lambda: OptimizerConfig(head_lr_scale=0.0), "optimizer.head_lr_scale"),
        (lambda: OptimizerConfig(newton_schulz_iterations=0), "optimizer.newton_schulz_iterations"),
        (lambda: OptimizerConfig(beta2=1.0), "optimizer.beta2"),
        (lambda: OptimizerConfig(learning_rate=float("nan")), "optimizer.learning_rate"),
        (lambda: ModelConfig(n_kv_head=5), "model.n_kv_head"),
        (lambda: ModelConfig(sliding_window=0), "model.sliding_window"),
        (lambda: ModelConfig(window_pattern="SX"), "model.window_pattern"),
        (lambda: ModelConfig(window_pattern=""), "model.window_pattern"),
        (lambda: ModelConfig(logit_softcap=-1.0), "model.logit_softcap"),
        (lambda: ModelConfig(ngram=0), "model.ngram"),
        (lambda: ModelConfig(ngram_buckets=0), "model.ngram_buckets"),
        (lambda: ModelConfig(n_embd=36, n_head=12, positions="rope"), "12 heads of an even width each"),
        (lambda: OptimizerConfig(muon_learning_rate=0), "optimizer.muon_learning_rate"),
        (lambda: OptimizerConfig(muon_momentum=1.0), "optimizer.muon_momentum"),
        (lambda: OptimizerConfig(decay_ratio=1.5), "optimizer.decay_ratio"),
        (lambda: EvaluationConfig(sample_tokens=-1), "evaluation.sample_tokens"),
        (lambda: TrainConfig(early_stopping_patience=0), "early_stopping_patience"),
        (
            lambda: TrainConfig(early_stopping_patience=2, evaluation=EvaluationConfig(every=0)),
            "give `evaluation.every`",
        ),
        (lambda: SamplingConfig(temperature=-1), "temperature"),
        (lambda: SamplingConfig(temperature=float("inf")), "temperature"),
        (lambda: SamplingConfig(top_k=0), "top_k"),
        (lambda: SamplingConfig(max_tokens=0), "max_tokens"),
        (lambda: TrainConfig(steps=0), "steps"),
        (lambda: TrainConfig(seed=-1), "seed"),
    ],
)
def test_bad_values_are_refused_by_name(make, named):
    with pytest.raises(InputError, match=named):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(learning_rate=-1.0), "`optimizer.learning_rate` is -1.0; it must be above 0"),
        (lambda: OptimizerConfig(weight_decay=math.inf), "`optimizer.weight_decay` is inf; it must be at least 0"),
        (lambda: OptimizerConfig(beta1=1.0), "`optimizer.beta1` is 1.0; it must be at least 0 and below 1"),
        (lambda: OptimizerConfig(min_lr_ratio=math.nan), "`optimizer.min_lr_ratio` is nan; it must be from 0 to 1"),
        (lambda: TrainConfig(micro_batch_size=0), "`micro_batch_size` is 0; it must be at least 1 (or auto)"),
        (lambda: TrainConfig(seed=2**63), f"`seed` is {2**63}; it must be from 0 to 2^63 - 1"),
        (lambda: ModelConfig(n_layer=2**31), f"`model.n_layer` is {2**31}; it must be from 1 to 2^31 - 1"),
        (lambda: ModelConfig(n_kv_head=5), "`model.n_kv_head` is 5; it must be a divisor of `model.n_head` (12)"),
        (lambda: SamplingConfig(top_p=0.0), "`top_p` is 0.0; it must be above 0 and at most 1 (1 means all)"),
        (lambda: SamplingConfig(overflow="x"), "`overflow` is x; it must be error or slide or keep-prefix"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(make, message):
    with pytest.raises(InputError, match=re.escape(message) + "$"):
        make()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_is_not_rounded_where_nothing_is_float32(dtype):
    with pytest.raises(InputError, match=f"`float32_matmul_precision` medium: is for .* and that is {dtype}: give one"):
        TrainConfig(dtype=dtype, float32_matmul_precision="medium")
    with pytest.raises(InputError, match="`float32_matmul_precision` medium: would round attention, too, where it is"):
        TrainConfig(compile="on", float32_matmul_precision="medium")
    for fitting in ("auto", "float32"):
        TrainConfig(dtype=fitting, float32_matmul_precision="medium")


def test_words_and_absence_have_no_limits():
    TrainConfig(micro_batch_size="auto", stop_at=None)
    SamplingConfig(seed=None)


def test_batch_must_be_whole_sequences_and_the_error_says_which_would_do():
    with pytest.raises(InputError, match="`batch_tokens` 5120"):
        TrainConfig(batch_tokens=5000, model=ModelConfig(context_length=256, vocab_size=10))
    assert TrainConfig(batch_tokens=5120, model=ModelConfig(context_length=256)).batch_sequences == 20


@pytest.mark.parametrize(("number", "of", "nearest"), [(5000, 256, 5120), (1, 256, 256), (8192, 1024, 8192)])
def test_nearest_multiple(number, of, nearest):
    assert nearest_multiple(number, of) == nearest


def test_a_config_survives_json(tiny_config):
    assert overlay(TrainConfig(), json.loads(json.dumps(to_dict(tiny_config))), "config.json") == tiny_config


def test_overlay_keeps_what_is_not_named():
    config = overlay(TrainConfig(), {"steps": 7, "model": {"n_layer": 3}, "run_dir": "runs/x"}, "file.toml")
    assert config.steps == 7
    assert config.model == ModelConfig(n_layer=3)
    assert str(config.run_dir) == "runs/x"
    assert config.optimizer == OptimizerConfig()


def test_an_integer_passes_for_a_float():
    assert overlay(TrainConfig(), {"optimizer": {"gradient_clip": 2}}, "f").optimizer.gradient_clip == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"n_leyer": 3}}, r"f\.toml: unknown key 'model.n_leyer'; did you mean 'model.n_layer'"),
        ({"stepps": 3}, "did you mean 'steps'"),
        ({"optimizer": {"learning_rate": 10**400}}, "'optimizer.learning_rate' is 1000.*; it must be a number"),
        ({"timeout": 10**400}, "'timeout' is 1000.*; it must be a whole number"),
        ({"steps": "many"}, "'steps' is 'many'; it must be a whole number"),
        ({"steps": True}, "'steps' is True"),
        ({"steps": 1.5}, "'steps' is 1.5"),
        ({"model": 3}, "must be a table"),
        ({"device": "tpu"}, "'auto' or 'cpu' or 'cuda' or 'mps'"),
        ({"model": {"n_embd": 7}}, r"f\.toml: `model.n_embd` is 7; it must be a multiple of `model.n_head` \(12\)"),
    ],
)
def test_overlay_refuses_and_names_file_and_key(values, message):
    with pytest.raises(InputError, match=message):
        overlay(TrainConfig(), values, "f.toml")


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("-3", -3), ("1_000", 1000), ("1e3", 1000), ("2.5E1", 25)])
def test_whole_numbers_are_read_however_they_are_written(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e-1", "many", "", "nan", "inf", "1e999999999"])
def test_what_is_no_whole_number_is_called_so(text):
    with pytest.raises(ValueError, match=f"^'{text}' is no whole number$"):
        whole_number(text)


# ---- one dataset, or several with weights ----


def test_one_dataset_is_a_path_and_several_have_weights_after_the_last_equals_sign():
    assert TrainConfig(data=Path("a=b/c")).datasets == {Path("a=b/c"): 1}
    several = TrainConfig(data=("data/code=0.7", "data/lr=3e-4=3e-1"))
    assert several.datasets == {Path("data/code"): Fraction(7, 10), Path("data/lr=3e-4"): Fraction(3, 10)}
    assert overlay(TrainConfig(), json.loads(json.dumps(to_dict(several))), "config.json") == several


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("a=0.7",), "holds ['a=0.7']: name one dataset as a path without a list, or several"),
        ((), "holds []: name"),
        (
            ("a", "b=0.3"),
            "`data` a: has no weight beside others; write a=0.5, or another (a preset is named first)",
        ),
        (("a=0.7", "b"), "`data` b: has no weight"),
        (("a=0.7", "=0.3"), "`data` =0.3: has no weight"),
        (("a=0", "b=1"), "`data` a=0: its weight is '0'; it must be a number above 0 (or leave the dataset out)"),
        (("a=0", "b=0"), "its weight is '0'"),
        (("a=1e-999", "b=1"), "its weight is '1e-999'"),
        (("a=1", "b=-0.3"), "its weight is '-0.3'"),
        (("a=nan", "b=1"), "its weight is 'nan'"),
        (("a=1", "b=inf"), "its weight is 'inf'"),
        (("a=1", "b=many"), "its weight is 'many'"),
        (("a=1", "b="), "its weight is ''"),
        (("a=1", "b=1/2"), "its weight is '1/2'"),
        (("a=1", "b=1", "a=2"), "a is named twice; name it once, with the sum of the weights"),
    ],
)
def test_what_is_no_mixture_is_refused(entries, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TrainConfig(data=entries)


@pytest.mark.parametrize("value", [3, ["a=1", 2], {"a": 1}, True])
def test_data_of_a_file_is_a_path_or_a_list_of_texts(value):
    with pytest.raises(InputError, match="it must be a path or a list of texts"):
        overlay(TrainConfig(), {"data": value}, "f.toml")
