import pytest
import torch

from gpt.training.muon import COEFFICIENTS, Muon, newton_schulz, orthogonalize_


def by_formula(matrix, iterations=5):
    """Jordan's iteration, matrix by matrix in float64, on the wider side."""
    a, b, c = COEFFICIENTS
    x = matrix.double() if matrix.size(0) <= matrix.size(1) else matrix.double().T
    x = x / x.norm()
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.size(0) <= matrix.size(1) else x.T


def test_singular_values_come_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(newton_schulz(torch.randn(3, 24, 40)))
    assert 0.6 < values.min() < values.max() < 1.3


def test_directions_are_those_of_the_singular_value_decomposition():
    torch.manual_seed(0)
    matrix = torch.randn(24, 40)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    result = newton_schulz(matrix.unsqueeze(0))[0]
    assert torch.nn.functional.cosine_similarity(result.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_matrices_of_all_shapes_go_through_at_once():
    torch.manual_seed(0)
    matrices = [torch.randn(*shape) for shape in ((8, 8), (32, 8), (8, 32), (8, 8), (32, 8), (5, 7))]
    expected = [by_formula(matrix) * max(1, matrix.size(0) / matrix.size(1)) ** 0.5 for matrix in matrices]
    orthogonalize_(matrices)
    for ours, reference in zip(matrices, expected, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_iterations_are_as_many_as_asked_for(iterations):
    torch.manual_seed(0)
    matrices = [torch.randn(6, 9), torch.randn(9, 6)]
    expected = [by_formula(m, iterations) * max(1, m.size(0) / m.size(1)) ** 0.5 for m in matrices]
    orthogonalize_(matrices, iterations)
    for ours, reference in zip(matrices, expected, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-3, atol=1e-4)


def step(muon):
    for parameter in muon.parameters:
        muon.state.setdefault(parameter, {"momentum": torch.zeros_like(parameter)})
    muon.move(muon.updates())


@pytest.mark.parametrize("rows", [[12], [4, 4, 4], [8, 2, 2]])
def test_steps_are_jordans(rows):
    """Momentum, Nesterov's look ahead, orthogonalization of each matrix in the parameter, decay; three times."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(12, 6))
    optimizer = Muon({parameter: rows}, lr=0.1, momentum=0.9, weight_decay=0.2)
    weight, momentum = parameter.detach().double().clone(), torch.zeros(12, 6, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(12, 6)
        parameter.grad = gradient.clone()
        step(optimizer)
        momentum = 0.9 * momentum + 0.1 * gradient.double()
        ahead = 0.9 * momentum + 0.1 * gradient.double()
        parts = [by_formula(part) * max(1, len(part) / 6) ** 0.5 for part in ahead.split(rows)]
        weight = weight * (1 - 0.1 * 0.2) - 0.1 * torch.cat(parts)
    torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-3, atol=1e-3)


def test_a_cautious_decay_is_of_weights_that_the_step_brings_nearer_to_zero():
    """Chen et al. 2025, algorithm 1, weight by weight."""
    torch.manual_seed(0)
    weight, gradient = torch.randn(6, 4), torch.randn(6, 4)
    moved = []
    for decay, cautious in ((0.0, False), (0.0, True), (0.2, True), (0.2, False)):
        parameter = torch.nn.Parameter(weight.clone())
        parameter.grad = gradient.clone()
        step(Muon({parameter: [6]}, lr=0.1, momentum=0.9, weight_decay=decay, cautious=cautious))
        moved.append(parameter.detach())
    plain, without, cautious, all_of_it = moved
    assert torch.equal(plain, without)
    towards_zero = (weight - plain).sign() == weight.sign()
    assert 0 < towards_zero.sum() < weight.numel()
    torch.testing.assert_close(cautious, plain - torch.where(towards_zero, 0.1 * 0.2 * weight, 0.0))
    torch.testing.assert_close(all_of_it, plain - 0.1 * 0.2 * weight)


def test_a_gradient_of_zeros_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    step(Muon({parameter: [4]}, lr=0.1, momentum=0.9, weight_decay=0.0))
    assert torch.equal(parameter.detach(), torch.ones(4, 4))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_steps_are_torchs_up_to_its_bfloat16():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(16, 24)) for _ in range(2))
    one = Muon({ours: [16]}, lr=0.1, momentum=0.95, weight_decay=0.0)
    two = torch.optim.Muon([theirs], lr=0.1, momentum=0.95, weight_decay=0.0, nesterov=True)
    for _ in range(3):
        ours.grad = torch.randn(16, 24)
        theirs.grad = ours.grad.clone()
        step(one), two.step()
    difference = (ours - theirs).norm() / theirs.norm()
    assert difference < 0.05
