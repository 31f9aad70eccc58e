"""Logistic regression on fixed features by L-BFGS, along a path of L2 regularizations.

Two forms have the same solver: one softmax over all classes (``multinomial``), and one independent binary
regression per class (``binary``), for images with several labels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from msbreg.run.errors import UserError

Form = Literal["multinomial", "binary"]

TOLERANCE = 1e-6
"""Largest entry of the gradient at which a fit has converged; see ``Fit.gradient``."""
ITERATIONS = 5000


@dataclass(frozen=True)
class Fit:
    """A classifier of D features and C classes.

    Attributes:
        weight: (D, C) float64.
        bias: (C,) float64.
        regularization: the factor lambda of the penalty.
        gradient: largest absolute entry of the gradient of the objective per image, for features that are
            centered and divided by their root mean square; 0 at the minimum. It does not depend on the scale
            of the features.
        iterations: of L-BFGS.
    """

    weight: np.ndarray
    bias: np.ndarray
    regularization: float
    gradient: float
    iterations: int

    @property
    def converged(self) -> bool:
        return self.gradient <= TOLERANCE

    def decision(
        self,
        x: np.ndarray,  # (N, D)
        *,
        rows_at_once: int = 8192,
    ) -> np.ndarray:  # (N, C) float64
        """The logit of each class."""
        starts = range(0, len(x), rows_at_once)
        parts = [np.asarray(x[i : i + rows_at_once], np.float64) @ self.weight for i in starts]
        return np.concatenate(parts) + self.bias


def published_regularizations() -> tuple[float, ...]:
    """45 logarithmically spaced values from 1e-6 to 1e5, as in SimCLR (B.8.1) and BYOL (D.2).

    >>> values = published_regularizations()
    >>> len(values), values[0], values[24], values[-1]
    (45, 1e-06, 1.0, 100000.0)
    """
    return tuple(float(f"{value:.12g}") for value in np.logspace(-6, 5, 45))


def fit_path(
    x: np.ndarray,  # (N, D)
    labels: np.ndarray,  # (N,) class indices, or (N, C): 1 = present, others = absent
    regularizations: Sequence[float],
    *,
    classes: int,
    start: Fit | None = None,
    device: str | torch.device = "cpu",
    iterations: int = ITERATIONS,
) -> Iterator[Fit]:
    """Fit one classifier per regularization, from the strongest to the weakest.

    Minimizes the sum of the images' cross-entropies plus lambda / 2 times the squared norm of the weights;
    the bias is not penalized. lambda is 1 / C of scikit-learn's LogisticRegression (for two classes with one
    label per image, 2 / C: scikit-learn then fits a single vector of weights). Each fit starts from the one
    before it. All computations are in float64. If the classes can be separated, the objective is flat under a
    weak penalty: such fits stop where the one before them ended.

    Args:
        start: where the first fit starts; by default, at zero.
        iterations: largest number of iterations per fit. A fit that stops early has ``converged`` false.

    Raises:
        UserError: a regularization is not above 0, or a feature is not finite.
    """
    if not regularizations or min(regularizations) <= 0:
        raise UserError(
            f"regularizations is {list(regularizations)}; expected one or more numbers above 0"
        )
    problem = _Problem(x, labels, classes, torch.device(device))
    point = problem.point_of(start)
    # SciPy's own algebra is small. After each call, the threads of its BLAS would wait in a loop for the next
    # one, and take the cores from PyTorch's threads, which compute the objective.
    blas = ThreadpoolController().select(user_api="blas")
    for regularization in sorted(regularizations, reverse=True):
        with blas.limit(limits=1):
            found = scipy.optimize.minimize(
                problem.value_and_gradient,
                point,
                args=(regularization,),
                jac=True,
                method="L-BFGS-B",
                options={
                    "maxiter": iterations,
                    "maxfun": 10 * iterations,
                    "gtol": TOLERANCE,
                    "ftol": 0.0,  # only the gradient says whether a flat objective is at its minimum
                    "maxcor": 20,
                },
            )
        point = found.x
        largest = float(np.abs(found.jac).max())
        yield problem.fit_of(point, regularization, largest, int(found.nit))


class _Problem:
    """The objective per image, for features that are centered and divided by their root mean square.

    Both changes of the features are exact changes of variables, because the bias is not penalized and lambda
    is divided by the squared scale. They make L-BFGS faster: features after a ReLU have a large mean.
    """

    def __init__(
        self,
        x: np.ndarray,  # (N, D)
        labels: np.ndarray,  # (N,) or (N, C)
        classes: int,
        device: torch.device,
    ) -> None:
        features = torch.from_numpy(np.array(x, dtype=np.float64))
        if not features.isfinite().all():
            raise UserError("some features are not finite; check the weights of the network")
        self.mean = features.mean(0)
        features -= self.mean
        self.scale = float(features.square().mean().sqrt()) or 1.0
        self.x = features.div_(self.scale).to(device)
        self.form: Form = "multinomial" if labels.ndim == 1 else "binary"
        if self.form == "multinomial":
            wanted = torch.nn.functional.one_hot(torch.from_numpy(labels), classes)
        else:
            wanted = torch.from_numpy(labels == 1)
        self.targets = wanted.to(device, torch.float64)  # (N, C)
        self.shape = x.shape[1] + 1, classes  # the last row is the bias

    def value_and_gradient(
        self, point: np.ndarray, regularization: float
    ) -> tuple[float, np.ndarray]:
        """The objective per image and its gradient at a flat point ((D + 1) C,)."""
        penalty = regularization / self.scale**2
        parameters = torch.from_numpy(point).to(self.x.device).view(self.shape)
        weight, bias = parameters[:-1], parameters[-1]
        logits = torch.addmm(bias, self.x, weight)  # (N, C)
        own = (logits * self.targets).sum()
        if self.form == "multinomial":
            loss = torch.logsumexp(logits, 1).sum() - own
            slope = logits.softmax(1) - self.targets
        else:
            loss = torch.nn.functional.softplus(logits).sum() - own
            slope = logits.sigmoid() - self.targets
        value = (loss + penalty / 2 * weight.square().sum()) / len(self.x)
        gradient = torch.cat([self.x.T @ slope + penalty * weight, slope.sum(0, keepdim=True)])
        return float(value), (gradient / len(self.x)).flatten().cpu().numpy()

    def point_of(self, fit: Fit | None) -> np.ndarray:
        """The flat parameters of a classifier of the original features."""
        if fit is None:
            return np.zeros(self.shape[0] * self.shape[1])
        bias = fit.bias + self.mean.numpy() @ fit.weight
        return np.concatenate([fit.weight * self.scale, bias[None]]).ravel()

    def fit_of(
        self, point: np.ndarray, regularization: float, gradient: float, iterations: int
    ) -> Fit:
        """The inverse of ``point_of``."""
        parameters: Tensor = torch.from_numpy(point).view(self.shape)
        weight = parameters[:-1].numpy() / self.scale
        bias = parameters[-1].numpy() - self.mean.numpy() @ weight
        return Fit(weight, bias, regularization, gradient, iterations)


# ---- The choice of the regularization


def choose_regularization(
    x: np.ndarray,  # (N, D)
    labels: np.ndarray,  # (N,) or (N, C)
    regularizations: Sequence[float],
    measure: Callable[[Fit], float],
    *,
    classes: int,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> tuple[Fit, dict[float, float], int]:
    """The fit with the highest measure; the strongest regularization wins ties.

    Also returns the measure of each regularization, and the number of fits that did not converge.

    Args:
        measure: quality of a fit on images that it was not fitted on; higher is better.
        progress: called with the number of completed fits.
    """
    measures: dict[float, float] = {}
    best, unconverged = None, 0
    for fit in fit_path(x, labels, regularizations, classes=classes, device=device):
        unconverged += not fit.converged
        measures[fit.regularization] = measure(fit)
        if best is None or measures[fit.regularization] > measures[best.regularization]:
            best = fit
        if progress is not None:
            progress(len(measures))
    assert best is not None
    return best, measures, unconverged
