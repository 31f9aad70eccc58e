"""Newton's method finds the minimizers that LIBLINEAR approaches, and bounds its own error."""

import numpy as np
import pytest
import torch

from tests.reference.svm import converged_machine, dual_objective, objective_and_gradient
from transfer.frozen import svm_newton
from transfer.frozen.svm_newton import TOLERANCE, Rows, line_search, minimize

COSTS = (0.01, 1.0, 100.0)


def problems(images=60, width=8, count=4, seed=0):
    """Features, targets and class weights; the last problem excludes a fifth of the images."""
    draw = np.random.default_rng(seed)
    features = np.maximum(draw.standard_normal((images, width)), 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-5
    noise = draw.standard_normal((count, images))
    targets = np.where(features[:, :count].T + 0.3 * noise > 0.6, 1.0, -1.0)
    weights = np.where(targets > 0, 2.0, 1.0)
    weights[-1, ::5] = 0
    return features, targets, weights


def solve(features, targets, costs):
    rows = Rows.of(torch.from_numpy(features))
    start = torch.zeros(len(targets), features.shape[1] + 1, dtype=torch.float64)
    single = [torch.from_numpy(array).float() for array in (targets, costs)]
    return minimize(rows, *single, start)


def with_constant(features):
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def test_objective_and_gradient_equal_those_of_a_sum_over_images():
    features, targets, weights = problems()
    rows = with_constant(features)
    at = np.random.default_rng(1).standard_normal((4, 9))
    arrays = [torch.from_numpy(array) for array in (rows, at, targets, 3 * weights)]
    objectives, gradients = svm_newton.objective_and_gradient(*arrays)
    for problem in range(4):
        objective, gradient = objective_and_gradient(
            rows, at[problem], targets[problem], 3 * weights[problem]
        )
        assert objectives[problem].item() == pytest.approx(objective, rel=1e-12)
        np.testing.assert_allclose(gradients[problem], gradient, rtol=1e-10)


@pytest.mark.parametrize("cost", COSTS)
def test_weights_and_decisions_equal_those_of_a_converged_linear_svc(cost):
    features, targets, weights = problems()
    solution = solve(features, targets, cost * weights)
    assert solution.converged.all()
    for problem, (labels, used) in enumerate(zip(targets, weights > 0, strict=True)):
        machine = converged_machine(features[used], labels[used], cost)
        expected = np.append(machine.coef_[0], machine.intercept_)
        # The tolerance guarantees 1e-4 of the length, and decisions on rows of length sqrt(2).
        scale = np.linalg.norm(expected)
        np.testing.assert_allclose(solution.weights[problem], expected, atol=1e-4 * scale)
        decisions = machine.decision_function(features)  # also of the excluded images
        np.testing.assert_allclose(solution.decisions[problem], decisions, atol=1.5e-4 * scale)


@pytest.mark.parametrize("route", ["by rows", "by weights", "by conjugate gradients"])
def test_every_way_to_a_newton_direction_solves_the_same_system(route):
    features, _, weights = problems()
    rows = Rows.of(torch.from_numpy(features))
    curvature = torch.from_numpy(2 * weights).float()
    gradient = torch.from_numpy(np.random.default_rng(2).standard_normal((4, 9)))
    if route == "by rows":
        found = svm_newton._solve_in_rows(rows, curvature, gradient)
    elif route == "by weights":
        pairs = zip(curvature, gradient, strict=True)
        found = torch.stack([svm_newton._solve_in_weights(rows, *pair) for pair in pairs])
    else:
        found, slow = svm_newton._conjugate_gradients(
            rows, curvature, gradient, torch.full((4,), 50), 1e-6
        )
        assert not slow.any()
    for problem in range(4):
        hessian = np.eye(9)
        for row, curve in zip(with_constant(features), curvature[problem].numpy(), strict=True):
            hessian += curve * np.outer(row, row)
        expected = np.linalg.solve(hessian, -gradient[problem].numpy())
        # Float32 in the products; the condition of the Hessian is about 100.
        np.testing.assert_allclose(found[problem], expected, atol=1e-5 * np.abs(expected).max())


def test_rotated_rows_are_the_rows_in_an_orthonormal_basis_of_uncorrelated_axes():
    rows = Rows.of(torch.from_numpy(problems()[0]))
    rotated = rows.rotated
    # Float32; the largest product is about 100.
    np.testing.assert_allclose(rotated.basis.T @ rotated.basis, np.eye(9), atol=1e-5)
    np.testing.assert_allclose(rotated.rows @ rotated.basis.T, rows.single, atol=1e-5)
    products = rotated.rows.T @ rotated.rows
    np.testing.assert_allclose(products, products.diagonal().diag(), atol=1e-4)
    assert torch.equal(rotated.columns, rotated.rows.T)


def test_one_iteration_along_the_principal_axes_solves_a_system_of_equal_curvatures():
    # Its Hessian I + c X'X is diagonal there, however ill-conditioned it is.
    features, _, _ = problems()
    curvature = torch.full((1, 60), 200.0)
    gradient = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 9)))
    _, slow = svm_newton._conjugate_gradients(
        Rows.of(torch.from_numpy(features)), curvature, gradient, torch.ones(1), 1e-3
    )
    assert not slow.any()


def test_a_direct_solve_keeps_the_small_directions_of_a_nearly_singular_system():
    # In float32 the large part of the gradient, which cancels, would drown the solution.
    features, _, _ = problems(images=40, width=60)
    rows = Rows.of(torch.from_numpy(features))
    curvature = torch.full((1, 40), 2000.0)
    wanted = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 61)))
    weighted = curvature.double()[:, :, None] * rows.exact
    hessian = torch.eye(61, dtype=torch.float64) + rows.exact.T @ weighted[0]
    found = svm_newton._solve_in_rows(rows, curvature, -wanted @ hessian)
    residual = (found - wanted) @ hessian
    # 2e-4 by the float32 kernel; with float32 products it would be 6e-3.
    assert residual.norm() <= 1e-3 * (wanted @ hessian).norm()


def test_problems_without_a_kernel_of_all_rows_have_the_same_solutions(monkeypatch):
    features, targets, weights = problems(images=40, width=60)  # few rows: solved by rows
    whole = solve(features, targets, 50 * weights)
    monkeypatch.setattr(svm_newton, "_KERNEL_ROWS", 10)
    blocks = solve(features, targets, 50 * weights)
    np.testing.assert_allclose(whole.weights, blocks.weights, atol=1e-5)


@pytest.mark.parametrize("cost", COSTS)
def test_the_reported_gap_is_the_duality_gap_and_bounds_the_error(cost, monkeypatch):
    features, targets, weights = problems()
    best = solve(features, targets, cost * weights)
    monkeypatch.setattr(svm_newton, "TOLERANCE", 1e-2)
    rough = solve(features, targets, cost * weights)
    rows = with_constant(features)
    for problem in range(4):
        w, used = rough.weights[problem].numpy(), weights[problem] > 0
        x, y, c = rows[used], targets[problem][used], cost * weights[problem][used]
        primal, _ = objective_and_gradient(x, w, y, c)
        alphas = 2 * c * np.maximum(0, 1 - y * (x @ w))
        gap = primal - dual_objective(x, alphas, y, c)
        reported = rough.gaps[problem].item() * (w @ w) / 2
        assert reported == pytest.approx(gap, rel=1e-6, abs=1e-9 * primal)
        minimum, _ = objective_and_gradient(x, best.weights[problem].numpy(), y, c)
        rounding = 1e-12 * primal  # of sums over images
        assert primal - minimum <= reported + rounding
        error = np.linalg.norm(w - best.weights[problem].numpy())
        assert error <= np.sqrt(2 * reported) + np.sqrt(TOLERANCE) * np.linalg.norm(w)


def test_a_start_at_the_solution_stays_there():
    features, targets, weights = problems()
    solution = solve(features, targets, weights)
    single = [torch.from_numpy(array).float() for array in (targets, weights)]
    again = minimize(Rows.of(torch.from_numpy(features)), *single, solution.weights)
    assert torch.equal(again.weights, solution.weights)


def test_solutions_do_not_depend_on_the_problems_solved_together():
    features, targets, weights = problems(count=6)
    together = solve(features, targets, 10 * weights)
    for problem in range(6):
        alone = solve(features, targets[[problem]], 10 * weights[[problem]])
        # Products of one row and of six may round differently.
        np.testing.assert_allclose(together.weights[[problem]], alone.weights, atol=1e-4)


def test_a_problem_that_runs_out_of_steps_reports_its_gap_and_is_not_converged(monkeypatch):
    monkeypatch.setattr(svm_newton, "MAX_STEPS", 1)
    features, targets, weights = problems()
    solution = solve(features, targets, 100 * weights)
    assert not solution.converged.any()
    rows = torch.from_numpy(with_constant(features))
    arrays = [torch.from_numpy(array) for array in (targets, 100 * weights)]
    _, gradient = svm_newton.objective_and_gradient(rows, solution.weights, *arrays)
    expected = gradient.square().sum(1) / solution.weights.square().sum(1)
    np.testing.assert_allclose(solution.gaps, expected, rtol=1e-9)


def test_noise_at_a_large_cost_converges():
    # More images than features and random labels: most images stay active, H is ill-conditioned.
    draw = np.random.default_rng(5)
    features, targets = draw.random((300, 30)), draw.choice([1.0, -1.0], (3, 300))
    assert solve(features, targets, np.full((3, 300), 1e4)).converged.all()


def test_the_line_search_finds_the_minimum_along_the_direction():
    features, targets, weights = problems()
    rows = with_constant(features)
    draw = np.random.default_rng(3)
    at = draw.standard_normal((4, 9))
    arrays = [torch.from_numpy(array) for array in (rows, at, targets, 20 * weights)]
    objective, gradient = svm_newton.objective_and_gradient(*arrays)
    direction = -gradient * torch.from_numpy(draw.random((4, 9)))
    step = line_search(
        (gradient * direction).sum(1),
        direction.square().sum(1),
        (1 - arrays[2] * (arrays[1] @ arrays[0].T)).float(),
        (arrays[2] * (direction @ arrays[0].T)).float(),
        arrays[3].float(),
    )
    best = arrays[1] + step[:, None] * direction
    value, slope = svm_newton.objective_and_gradient(arrays[0], best, *arrays[2:])
    assert (value < objective).all()
    along = (slope * direction).sum(1) / (gradient * direction).sum(1)
    np.testing.assert_allclose(along, 0, atol=1e-4)
