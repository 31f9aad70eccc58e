"""Many linear SVMs on the same features at once, by Newton's method.

Each of P problems is an L2-regularized squared-hinge SVM, as LIBLINEAR's with its bias:

    minimize  f(w) = 1/2 |w|^2 + sum_i c_i max(0, 1 - y_i w.x_i)^2,    x_i ends with a constant 1,

where c_i is the cost of image i, times its class weight, or 0 if the problem excludes the image. f is
piecewise quadratic, so Newton's method with an exact line search ends after a few steps (Keerthi and
DeCoste, JMLR 2005; Chapelle, Neural Computation 2007). The problems share every product with the features,
which is where the time goes. Products are float32, save where large terms cancel; sums over steps are
float64.

A Newton direction comes from conjugate gradients while many images are active (have y_i w.x_i < 1), and
from a Cholesky factor of the size of the active images, or of the features, where that is cheaper: large
costs leave few images active, and make conjugate gradients slow.

Certificate: at the dual point alpha_i = 2 c_i max(0, 1 - y_i w.x_i), the duality gap equals 1/2 |g|^2 with
g = grad f(w). As f is 1-strongly convex, |w - w*| <= |g|. A problem is done when its gap, computed in
float64, is at most ``TOLERANCE`` of 1/2 |w|^2, so that |w - w*| <= sqrt(TOLERANCE) |w|. The gap is not
compared with f, which is almost independent of w for small costs.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from msbreg.float32_product import product

TOLERANCE = 1e-8
"""Largest duality gap of a solved problem, as a share of 1/2 |w|^2."""
MAX_STEPS = 100
"""Newton steps before a problem counts as unconverged; typical are 2 to 6."""
_KERNEL_ROWS = 16_384  # up to here the products of all pairs of rows are kept: 1 GB in float32
_RESIDUAL = 0.03  # of conjugate gradients, relative to the gradient
_FEW_ITERATIONS = 8  # conjugate gradients take more: a direct solve that costs less comes first


@dataclass(frozen=True)
class Rows:
    """N rows of features with the constant 1 of the bias, W = D + 1 numbers each."""

    exact: Tensor  # (N, W) float64
    single: Tensor  # (N, W) float32

    @classmethod
    def of(
        cls,
        features: Tensor,  # (N, D) float64
    ) -> "Rows":
        """Append the constant."""
        exact = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        return cls(exact, exact.float())

    # ---- Computed at the first use, which may never come.

    @functools.cached_property
    def kernel(self) -> Tensor | None:  # (N, N) float32
        """The products of all pairs of rows; None if they are too many."""
        return product(self.single, self.single) if len(self.single) <= _KERNEL_ROWS else None

    @functools.cached_property
    def rotated(self) -> "RotatedRows":
        """The rows in the basis of their principal axes."""
        _, basis = torch.linalg.eigh(self.single.T @ self.single)
        rows = self.single @ basis
        return RotatedRows(basis, rows, rows.T.contiguous(), rows.square())


@dataclass(frozen=True)
class RotatedRows:
    """Rows in an orthonormal basis in which X'X is diagonal.

    X' diag(c) X then is nearly diagonal for most weights c, so that its diagonal is a good preconditioner.
    """

    basis: Tensor  # (W, W) float32, an axis in each column
    rows: Tensor  # (N, W) float32
    columns: Tensor  # (W, N) float32, a copy of the same: the fast layout for products over images
    squares: Tensor  # (N, W) float32, for the diagonal of the Hessian


@dataclass(frozen=True)
class Solution:
    """Minimizers of P problems; W = D + 1, the last weight is the bias."""

    weights: Tensor  # (P, W) float64
    decisions: Tensor  # (P, N) float64, of all rows, also those that a problem excludes
    gaps: Tensor  # (P,) float64, duality gap as a share of 1/2 |w|^2

    @property
    def converged(self) -> Tensor:  # (P,) bool
        return self.gaps <= TOLERANCE


def objective_and_gradient(
    rows: Tensor,  # (N, W)
    weights: Tensor,  # (P, W)
    targets: Tensor,  # (P, N), in {1, -1}
    costs: Tensor,  # (P, N), at least 0
) -> tuple[Tensor, Tensor]:  # (P,), (P, W)
    """f(w) and its gradient, for each problem."""
    shortfall = _shortfall(weights @ rows.T, targets)
    objective = weights.square().sum(1) / 2 + (costs * shortfall.square()).sum(1)
    return objective, weights - (2 * costs * shortfall * targets) @ rows


def minimize(
    rows: Rows,
    targets: Tensor,  # (P, N) float32, in {1, -1}
    costs: Tensor,  # (P, N) float32, at least 0
    start: Tensor,  # (P, W) float64
) -> Solution:
    """Solve P problems from ``start``; a problem that is solved leaves the batch.

    Gradients are float32 until a problem seems to be done or hardly improves, then float64. Every gap that
    is reported was computed in float64.
    """
    weights, gaps = start.clone(), torch.full_like(start[:, 0], torch.inf)
    decisions = start @ rows.exact.T
    index = torch.arange(len(start), device=start.device)
    state = _State(targets, costs, weights[index], decisions[index])
    for step in range(MAX_STEPS + 1):
        state.evaluate(rows, last=step == MAX_STEPS)
        done = state.exact & (state.gaps <= TOLERANCE)
        leaving = done if step < MAX_STEPS else torch.ones_like(done)
        gone = index[leaving]
        weights[gone], decisions[gone] = state.weights[leaving], state.decisions[leaving]
        gaps[gone] = state.gaps[leaving]
        if leaving.all():
            break
        if leaving.any():
            index = index[~leaving]
            state.keep(~leaving)
        state.step(rows)
    return Solution(weights, decisions, gaps)


class _State:
    """The unsolved problems of a batch, R of them."""

    def __init__(self, targets: Tensor, costs: Tensor, weights: Tensor, decisions: Tensor) -> None:
        self.targets, self.costs = targets, costs  # (R, N) float32
        self.weights, self.decisions = weights, decisions  # (R, W), (R, N) float64
        self.exact = torch.zeros_like(weights[:, 0], dtype=torch.bool)  # float64 from now on
        self.stiff = torch.zeros_like(
            self.exact
        )  # conjugate gradients were too slow or too inexact
        self.gradient = torch.empty_like(weights)
        self.shortfall = torch.empty_like(decisions)
        self.gaps = torch.full_like(weights[:, 0], torch.inf)
        self.gaps_before = self.gaps.clone()

    def keep(self, chosen: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[chosen])

    def evaluate(self, rows: Rows, *, last: bool) -> None:
        """Gradient and gap; again in float64 for the problems that seem to be done, or hardly improve."""
        self._evaluate(rows, torch.ones_like(self.exact))
        stalled = self.gaps > self.gaps_before / 4
        self.stiff |= self.exact & stalled
        again = ~self.exact & (stalled | (self.gaps <= TOLERANCE) | last)
        if again.any():
            self.exact |= again
            self._evaluate(rows, again)

    def _evaluate(self, rows: Rows, chosen: Tensor) -> None:
        single, exact = chosen & ~self.exact, chosen & self.exact
        if exact.any():
            self.decisions[exact] = self.weights[exact] @ rows.exact.T
        self.shortfall = _shortfall(self.decisions, self.targets)
        dual = 2 * self.costs * self.targets * self.shortfall
        if single.any():
            product = dual[single].float() @ rows.single
            self.gradient[single] = self.weights[single] - product
        if exact.any():
            self.gradient[exact] = self.weights[exact] - dual[exact] @ rows.exact
        # Zero weights with a zero gradient solve a problem without images.
        size = self.weights.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)
        self.gaps = self.gradient.square().sum(1) / size

    def step(self, rows: Rows) -> None:
        """One Newton step with an exact line search."""
        self.gaps_before = self.gaps
        direction = self._direction(rows)
        change = direction.float() @ rows.single.T
        length = line_search(
            (self.gradient * direction).sum(1),
            direction.square().sum(1),
            (1 - self.targets * self.decisions).float(),
            self.targets * change,
            self.costs,
        )[:, None]
        self.weights = self.weights + length * direction
        self.decisions = self.decisions + length * change

    def _direction(self, rows: Rows) -> Tensor:  # (R, W) float64
        """The solution of H d = -gradient, with H = I + sum over active i of 2 c_i x_i x_i'."""
        curvature = 2 * self.costs * (self.shortfall > 0)  # (R, N)
        active = (curvature > 0).sum(1).double()
        count, width = rows.single.shape
        # Costs in multiplications. Float64 counts twice; gathering an entry takes as long as 500.
        in_rows = active**3 + 500 * active**2
        if count > _KERNEL_ROWS:
            in_rows = in_rows + 2 * width * active**2
        in_weights = 4 * active * width**2 + width**3
        worth = torch.minimum(in_rows, in_weights) / (4 * count * width)  # in iterations
        direct = self.stiff | (worth < _FEW_ITERATIONS)
        gradient = self.gradient
        direction = torch.empty_like(gradient)
        by_rows = direct & (in_rows <= in_weights)
        if by_rows.any():
            direction[by_rows] = _solve_in_rows(rows, curvature[by_rows], gradient[by_rows])
        for problem in (direct & ~by_rows).nonzero()[:, 0].tolist():
            direction[problem] = _solve_in_weights(rows, curvature[problem], gradient[problem])
        if not direct.all():
            rest = ~direct
            direction[rest], slow = _conjugate_gradients(
                rows, curvature[rest], gradient[rest], worth[rest], _RESIDUAL
            )
            self.stiff[rest] = slow
        return direction


def line_search(
    slope: Tensor,  # (P,) float64, grad f(w).d, below 0
    quadratic: Tensor,  # (P,) float64, |d|^2
    margin: Tensor,  # (P, N) float32, 1 - y_i w.x_i
    change: Tensor,  # (P, N) float32, y_i d.x_i
    costs: Tensor,  # (P, N) float32
) -> Tensor:  # (P,) float64
    """The step t that minimizes f(w + t d) along a descent direction d.

    The slope along d is piecewise linear and increases, so Newton's method in t finds its zero; outside the
    bracket, bisection replaces it. Only the change of the slope is summed: the slope itself is a small
    difference of large sums, which float32 would lose.
    """
    weighted = 2 * costs * change
    squared = weighted * change
    above, below = margin.clamp(min=0), margin.clamp(max=0)
    low = torch.zeros_like(slope)
    high = torch.full_like(slope, torch.inf)
    step = torch.ones_like(slope)
    for _ in range(50):
        moved = step.float()[:, None] * change
        # max(0, m) - max(0, m - s), without a difference of nearly equal numbers
        drop = torch.minimum(moved - below, above)
        here = slope + step * quadratic + (weighted * drop).sum(1)
        if bool((here.abs() <= 1e-5 * slope.abs()).all()):  # float32 has about 1e-6
            break
        low = torch.where(here < 0, step, low)
        high = torch.where(here < 0, high, step)
        newton = step - here / (quadratic + (squared * (margin > moved)).sum(1))
        outside = (newton <= low) | (newton >= high)
        step = torch.where(outside & high.isfinite(), (low + high) / 2, newton)
    return step


def _shortfall(decisions: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - y_i w.x_i)."""
    return (1 - targets * decisions).clamp_(min=0)


def _solve_in_rows(
    rows: Rows,
    curvature: Tensor,  # (P, N) float32
    gradient: Tensor,  # (P, W) float64
) -> Tensor:  # (P, W) float64
    """H d = -g through a system of the size of the active rows A (Woodbury's identity).

    d = X_A' (K_AA + diag(1 / curvature))^-1 X_A g - g. Almost all of g cancels where H is large, so these
    products are float64.
    """
    products = gradient @ rows.exact.T
    combination = torch.zeros_like(products)
    for problem in range(len(gradient)):
        active = curvature[problem].nonzero()[:, 0]
        if rows.kernel is None:
            chosen = rows.single[active]
            kernel = chosen @ chosen.T
        else:
            kernel = rows.kernel.take(active[:, None] * rows.kernel.shape[1] + active)
        kernel = kernel.double()
        kernel.diagonal().add_(1 / curvature[problem, active].double())
        right = products[problem, active][:, None]
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(kernel))
        combination[problem, active] = solved[:, 0]
    return combination @ rows.exact - gradient


def _solve_in_weights(
    rows: Rows,
    curvature: Tensor,  # (N,) float32
    gradient: Tensor,  # (W,) float64
) -> Tensor:  # (W,) float64
    """H d = -g of one problem, by the Cholesky factor of H."""
    active = curvature > 0
    chosen = rows.exact[active]
    hessian = chosen.T @ (curvature[active].double()[:, None] * chosen)
    hessian.diagonal().add_(1)
    factor = torch.linalg.cholesky(hessian)
    return -torch.cholesky_solve(gradient[:, None], factor)[:, 0]


def _conjugate_gradients(
    rows: Rows,
    curvature: Tensor,  # (P, N) float32
    gradient: Tensor,  # (P, W) float64
    limit: Tensor,  # (P,), iterations that a direct solve would cost
    tolerance: float,  # of the residual relative to the gradient
) -> tuple[Tensor, Tensor]:  # (P, W) float64, (P,) bool
    """H d = -g approximately, preconditioned by the diagonal of H along the principal axes of the rows; and
    whether the limit was hit.

    Also a direction that ends at the limit is a descent direction.
    """
    rotated = rows.rotated
    gradient = gradient.float() @ rotated.basis
    solution, slow = torch.zeros_like(gradient), torch.zeros_like(limit, dtype=torch.bool)
    index = torch.arange(len(gradient), device=gradient.device)
    diagonal = 1 + curvature @ rotated.squares
    d, residual = torch.zeros_like(gradient), -gradient
    scaled = residual / diagonal
    search, size = scaled, (residual * scaled).sum(1)
    goal = tolerance**2 * size
    iteration = 0
    while len(index):
        iteration += 1
        weighted = curvature * product(search, rotated.rows)
        image = search + product(weighted, rotated.columns)
        step = (size / (search * image).sum(1))[:, None]
        d, residual = d + step * search, residual - step * image
        scaled = residual / diagonal
        before, size = size, (residual * scaled).sum(1)
        reached = size <= goal
        leaving = reached | (iteration >= limit)
        if leaving.any():
            solution[index[leaving]], slow[index[leaving]] = d[leaving], ~reached[leaving]
            stay = ~leaving
            index, curvature, diagonal, d, residual, scaled, search, size, before, goal, limit = (
                value[stay]
                for value in (
                    *(index, curvature, diagonal, d, residual, scaled),
                    *(search, size, before, goal, limit),
                )
            )
        search = scaled + (size / before)[:, None] * search
    return (solution @ rotated.basis.T).double(), slow
