from dataclasses import replace

import pytest
import torch

from gpt import GPT, InputError
from gpt.config import OptimizerConfig
from gpt.model.lora import LoRAConfig, add_adapter, new_adapter
from gpt.training.optimizer import Optimizer

CONFIG = OptimizerConfig(learning_rate=0.01, weight_decay=0.3, beta1=0.8, beta2=0.9)
MUON = replace(CONFIG, name="muon")


def step(model, optimizer, times=1):
    for i in range(times):
        torch.manual_seed(i)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def test_a_step_is_adamw_by_its_formula_with_decay_on_matrices_only(model):
    """Loshchilov and Hutter 2019, algorithm 2, in float64."""
    expected = {}
    for name, parameter in model.named_parameters():
        theta, m, v = parameter.detach().double().clone(), 0.0, 0.0
        expected[name] = [theta, m, v]
    optimizer = Optimizer(model, CONFIG)
    for t in range(1, 4):
        torch.manual_seed(t)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for name, parameter in model.named_parameters():
            theta, m, v = expected[name]
            gradient = parameter.grad.double()
            m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
            decay = 0.3 if parameter.dim() >= 2 else 0.0
            theta = theta - 0.01 * decay * theta
            theta = theta - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
            expected[name] = [theta, m, v]
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name][0], rtol=1e-5, atol=1e-6)


def test_norms_and_biases_do_not_decay(model):
    (((decay, scale), decaying), _) = Optimizer(model, CONFIG).adamw.groups.items()
    assert (decay, scale) == (CONFIG.weight_decay, 1.0)
    names = {name for name, p in model.named_parameters() if any(p is other for other in decaying)}
    assert names == {name for name, _ in model.named_parameters() if "norm" not in name and "bias" not in name}


SCALED = {
    "token_embedding.weight": 2.0,
    "position_embedding.weight": 2.0,
    "ngram_embedding.table.weight": 3.0,
    "value_embedding.table.weight": 2.0,
    "lm_head.weight": 0.25,
    "final_norm.weight": 0.5,
    "blocks.0.mlp.fc_in.bias": 0.5,
    "blocks.0.mlp.fc_in.weight": 1.0,
}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_each_kind_of_weights_moves_at_its_own_rate(tiny_config, name):
    """By as many times as far as without scales, decay included, and the rest to the same bit."""
    model = GPT(replace(tiny_config.model, ngram=2, ngram_buckets=64, tie_embeddings=False, value_embeddings=True))
    plain = replace(CONFIG, name=name)
    scales = {"embedding_lr_scale": 2.0, "ngram_lr_scale": 3.0, "head_lr_scale": 0.25, "vector_lr_scale": 0.5}
    before, after = {n: p.detach().clone() for n, p in model.named_parameters()}, []
    for config in (plain, replace(plain, **scales)):
        model.load_state_dict(before)
        step(model, Optimizer(model, config))
        after.append({n: p.detach().clone() for n, p in model.named_parameters()})
    for entry, scale in SCALED.items():
        one, other = (moved[entry] - before[entry] for moved in after)
        torch.testing.assert_close(other, scale * one, rtol=1e-3, atol=1e-6, msg=entry)
        assert (scale == 1) == torch.equal(*(moved[entry] for moved in after))


def test_a_tied_head_moves_as_the_embedding_that_it_is(model):
    groups = Optimizer(model, replace(CONFIG, embedding_lr_scale=2.0, head_lr_scale=5.0)).adamw.groups
    assert {scale for _, scale in groups} == {1.0, 2.0}
    assert any(p is model.head_weight for p in groups[0.3, 2.0])


def test_adapters_move_at_the_rate_itself(tiny_config):
    """They are of no kind that has another one."""
    model = GPT(tiny_config.model)
    add_adapter(model, new_adapter(model, LoRAConfig(rank=2)))
    scales = {"embedding_lr_scale": 2.0, "ngram_lr_scale": 3.0, "head_lr_scale": 0.25, "vector_lr_scale": 0.5}
    assert {scale for _, scale in Optimizer(model, replace(CONFIG, **scales)).adamw.groups} == {1.0}


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_its_state_survives_and_training_goes_on_alike(model, config):
    twin = type(model)(model.config)
    optimizer = Optimizer(model, config)
    step(model, optimizer, 3)
    twin.load_state_dict(model.state_dict())
    twin_optimizer = Optimizer(twin, config)
    state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    twin_optimizer.load_state_dict(state)
    step(model, optimizer, 2)
    step(twin, twin_optimizer, 2)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_state_is_named_by_parameter(model):
    optimizer = Optimizer(model, CONFIG)
    assert optimizer.state_dict() == {}
    step(model, optimizer)
    assert "blocks.0.mlp.fc_in.weight/exp_avg_sq" in optimizer.state_dict()


def test_muon_moves_the_matrices_of_blocks_and_adamw_the_rest(model):
    optimizer = Optimizer(model, MUON)
    step(model, optimizer)
    by_muon = {entry.removesuffix("/momentum") for entry in optimizer.state_dict() if entry.endswith("/momentum")}
    inside = {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    assert by_muon == inside
    assert len(by_muon) == 4 * model.config.n_layer
    for name, _ in model.named_parameters():
        assert (f"{name}/exp_avg" in optimizer.state_dict()) == (name not in inside)


def test_muon_is_given_its_settings(model):
    config = replace(MUON, newton_schulz_iterations=3, muon_cautious_decay=True, muon_momentum=0.7)
    (muon,) = Optimizer(model, config).muons
    assert (muon.iterations, muon.cautious, muon.momentum, muon.weight_decay) == (3, True, 0.7, 0.3)


def test_a_rate_is_a_fraction_of_each_methods_peak(model):
    optimizer = Optimizer(model, replace(MUON, learning_rate=0.01, muon_learning_rate=0.5))
    optimizer.set_lr_factor(0.2)
    optimizer.set_lr_factor(0.1)  # not of the rate before
    assert [method.lr for method in optimizer.optimizers] == pytest.approx([0.001, 0.05])


def test_the_state_of_another_method_is_refused(model):
    optimizer = Optimizer(model, CONFIG)
    step(model, optimizer)
    shapes = {name: (list(tensor.shape), tensor.dtype) for name, tensor in optimizer.state_dict().items()}
    with pytest.raises(InputError, match="another `optimizer.name`"):
        Optimizer(model, MUON).empty_state(shapes)


def test_the_state_of_another_model_is_refused(model):
    optimizer = Optimizer(model, CONFIG)
    with pytest.raises(InputError, match="another model"):
        optimizer.empty_state({"other.weight/step": ([], torch.float32)})


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_places_for_the_state_are_like_the_parameters(model, config):
    optimizer = Optimizer(model, config)
    step(model, optimizer)
    state = optimizer.state_dict()
    places = optimizer.empty_state({name: (list(tensor.shape), tensor.dtype) for name, tensor in state.items()})
    assert {name: (p.shape, p.dtype) for name, p in places.items()} == {n: (t.shape, t.dtype) for n, t in state.items()}
