"""PreTraining: connects a method to the training loop, with its optimizer and learning rate."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import normalize
from msbreg.run import distributed
from msbreg.run.host_to_device import to_device
from msbreg.train.loop import Loss, Trainable
from msbreg.train.optimizers import LARS, warmup_cosine
from pretrain.losses import added_terms
from pretrain.methods.method import Method, Moment, Outputs, step_noise
from pretrain.recipe import Config
from pretrain.view_batches import ViewBatch


class PreTraining(Trainable):
    """Computes the loss of a batch of views, one view at a time if the method allows it.

    The forward pass always processes one view at a time, so BatchNorm statistics are per view, as in BYOL.
    """

    exchanges = True  # embeddings are gathered
    advice = "Try a smaller --optimizer.base_lr or a longer --optimizer.warmup_epochs, in a new --output."
    memory = (
        "out of memory while pre-training.\n"
        "--precision bf16 needs about half the memory, and more processes (torchrun) split --batch_size. A "
        "smaller\n--batch_size or --augment.size changes the recipe and needs a new --output."
    )

    def __init__(
        self, method: Method, config: Config, device: torch.device, *, steps: int, epoch: int
    ) -> None:
        """``steps`` is the total number of steps, ``epoch`` the number of steps per epoch."""
        self.method, self.config, self.device = method, config, device
        self.steps, self.epoch = steps, epoch
        self.model = method.trained
        self.views = config.views + config.augment.local_views
        self.parts = len(method.online_views(self.views)) if method.view_by_view else 1
        self.groups = parameter_groups(method, config)
        self.optimizer = build_optimizer(self.groups, config)
        self.step = 0

    def learning_rates(self, step: int) -> list[float]:
        options = self.config.optimizer
        peak = peak_learning_rate(self.config)
        rate = warmup_cosine(
            step,
            self.steps,
            peak=peak,
            warmup=round(options.warmup_epochs * self.epoch),
            start=options.warmup_start,
            final=options.final_lr,
        )
        return [(peak if g["fixed"] else rate) * g["factor"] for g in self.groups]

    def losses(self, forward: nn.Module, batch: ViewBatch, step: int) -> Iterator[Loss]:
        method, config, gather = self.method, self.config, distributed.gather
        self.step = step
        online = [batch.views[view] for view in method.online_views(self.views)]
        first = self.views if config.target.views == "independent" else 0
        seen = [batch.views[first + view] for view in method.target_views(self.views)]
        with self._autocast():
            # One view at a time, so that memory does not grow with K.
            targets = method.targets((normalize(view, self.device) for view in seen), gather)
        if not method.view_by_view:
            outputs = [self._outputs(forward, view) for view in online]
            yield self._loss(outputs, targets, self._moment(batch, step, 0))
            return
        for number, view in zip(method.online_views(self.views), online, strict=True):
            moment = self._moment(batch, step, number)
            loss = self._loss([self._outputs(forward, view)], targets, moment)
            terms = {name: value.detach() / self.parts for name, value in loss.terms.items()}
            yield Loss(loss.total / self.parts, terms)

    def forces(
        self,
        views: Tensor,  # (K, N, 3, S, S) uint8
    ) -> dict[str, Tensor]:  # each (M, D): M outputs of the trained network, K N or fewer
        """The gradient of each weighted term of the loss with respect to each output, times M.

        The weight of a term is the derivative of the total with respect to it, so the forces add up to the
        gradient of the loss. The factor M makes them independent of the number of images and views: a loss
        is a mean over its outputs. Of several outputs, the last one counts; local views are left out.

        Empty if the loss has fewer than two terms, or if it writes into the memory of the method. Networks
        run in their present mode; call this in eval mode, which leaves BatchNorm's statistics alone. Nothing
        else changes either.
        """
        if self.method.writes_memory:
            return {}
        with _unchanged(self.method):
            groups = [self._forces(*group) for group in self._losses_of_outputs(views)]
        names = groups[0] if len(groups[0]) > 1 else ()
        return {name: torch.cat([group[name] for group in groups]) for name in names}

    def _losses_of_outputs(self, views: Tensor) -> Iterator[tuple[list[Tensor], Loss]]:
        """The parts of the loss, each with the outputs it depends on as leaves of the graph."""
        method, count = self.method, len(views)

        def gather(rows: Tensor) -> Tensor:
            return rows

        with torch.no_grad(), self._autocast():
            seen = [normalize(views[view], self.device) for view in method.target_views(count)]
            targets = method.targets(seen, gather)
        with torch.no_grad():
            outputs = [self._outputs(self.model, views[v]) for v in method.online_views(count)]
        leaves = [output[-1].detach().requires_grad_() for output in outputs]
        outputs = [(*rest, leaf) for (*rest, _), leaf in zip(outputs, leaves, strict=True)]
        images = torch.arange(views.shape[1])
        if not method.view_by_view:
            at = Moment(self.step, self.epoch, images, gather)
            yield leaves, self._loss(outputs, targets, at)
            return
        for view, output, leaf in zip(method.online_views(count), outputs, leaves, strict=True):
            at = Moment(self.step, self.epoch, images, gather, view)
            yield [leaf], self._loss([output], targets, at)

    @staticmethod
    def _forces(leaves: list[Tensor], loss: Loss) -> dict[str, Tensor]:  # each (M, D)
        rows = sum(len(leaf) for leaf in leaves)
        terms = {n: t for n, t in loss.terms.items() if n != "total" and t.requires_grad}
        if len(terms) < 2:
            return {}
        weights = torch.autograd.grad(
            loss.total, list(terms.values()), retain_graph=True, allow_unused=True
        )
        forces = {}
        for (name, term), weight in zip(terms.items(), weights, strict=True):
            if weight is not None:  # otherwise the term is only logged
                gradients = torch.autograd.grad(
                    term, leaves, weight, retain_graph=True, materialize_grads=True
                )
                forces[name] = torch.cat(gradients) * rows
        return forces

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def _outputs(self, forward: nn.Module, view: Tensor) -> Outputs:
        with self._autocast():
            outputs = forward(normalize(view, self.device))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output.float() for output in outputs)

    def _moment(self, batch: ViewBatch, step: int, view: int) -> Moment:
        return Moment(step, self.epoch, batch.images, distributed.gather, view)

    def _loss(self, outputs: list[Outputs], targets: Any, at: Moment) -> Loss:
        """The loss of the method, and the terms added to it.

        If the method has no terms of its own, its loss becomes one, with the name of the method.
        """
        loss, config = self.method.loss(outputs, targets, at), self.config
        if not config.add:
            return loss
        own = {name: term for name, term in loss.terms.items() if name != "total"}
        if not any(term.requires_grad for term in own.values()):
            own = {config.method: loss.total} | own
        local = torch.stack([output[-1] for output in outputs])  # (K, B, D)
        embeddings = torch.stack([at.gather(view) for view in local])  # (K, N, D)
        noise = None
        if "brownian" in config.add:
            _, images, dimensions = embeddings.shape
            noise = step_noise(
                config.seed, at.step, images, dimensions, share=config.loss.noise_share
            )
            noise = to_device(noise, embeddings.device)
        terms = added_terms(
            embeddings,
            noise,
            config.add,
            singular_input=config.loss.singular_input,
            singular_of=embeddings if config.loss.singular_sync else local,
            normalize_noise=config.loss.normalize_noise,
        )
        weights = {
            "singular_value": config.lambda_s,
            "brownian": config.lambda_b,
            "uniformity": config.lambda_u,
        }
        total = loss.total + sum(weights[name] * term for name, term in terms.items())
        return Loss(total, {"total": total, **own, **terms})

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        if "uniformity" in means:  # the monitor's metric has that name
            means = {("uniformity_loss" if k == "uniformity" else k): v for k, v in means.items()}
        return (
            {"epoch": step // self.epoch, "step": step}
            | means
            | {"learning_rate": self.learning_rates(step - 1)[0]}
            | self.method.metrics()
        )

    def train_mode(self) -> None:
        self.method.train_mode()

    def before_update(self) -> None:
        self.method.before_update(self.step, self.epoch)

    def after_step(self, step: int) -> None:
        self.method.after_step(step, self.steps)

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.method.load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])


@contextlib.contextmanager
def _unchanged(method: Method) -> Iterator[None]:
    """Restore the attributes that ``targets`` and ``loss`` set, such as the keys for MoCo's queue."""
    attributes, memory = dict(vars(method)), dict(method.memory)
    try:
        yield
    finally:
        vars(method).clear()
        vars(method).update(attributes, memory=memory)


def peak_learning_rate(config: Config) -> float:
    """``base_lr * batch_size / 256``, times the number of views if ``scale_by_views`` (MSBReg §7.1).

    >>> peak_learning_rate(Config())  # 6.0 * 32 / 256 * 4
    3.0
    """
    scale = config.views if config.optimizer.scale_by_views else 1
    return config.optimizer.base_lr * config.batch_size / 256 * scale


def parameter_groups(method: Method, config: Config) -> list[dict[str, Any]]:
    """Groups of trained parameters: weights; and biases and norm parameters, with at most one dimension.

    The second group has neither weight decay nor LARS's adaptation (BYOL, appendix J; MSBReg §7.1), unless
    ``decay_norms``. A part of the network with a fixed learning rate has two groups of its own.

    Entries besides PyTorch's: ``factor`` on the learning rate, and ``fixed``, whether it stays at the peak.
    """
    options = config.optimizer
    part = method.fixed_rate()
    apart = set() if part is None else set(part.parameters())
    trained = [p for p in method.trained.parameters() if p.requires_grad]
    groups = []
    for fixed in (False, True):
        members = [p for p in trained if (p in apart) == fixed]
        weights = {
            "params": [p for p in members if p.ndim > 1],
            "weight_decay": options.weight_decay,
            "factor": 1.0,
        }
        others = {
            "params": [p for p in members if p.ndim <= 1],
            "weight_decay": options.weight_decay if options.decay_norms else 0.0,
            "factor": options.bias_rate,
        }
        if members:
            groups += [group | {"fixed": fixed} for group in (weights, others)]
    return groups


def build_optimizer(groups: list[dict[str, Any]], config: Config) -> torch.optim.Optimizer:
    """The optimizer that the settings name; the learning rate is set at every step."""
    options = config.optimizer
    plain = [{k: g[k] for k in ("params", "weight_decay")} for g in groups]
    if options.name == "lars":
        adapted = [group | {"adapt": number % 2 == 0} for number, group in enumerate(plain)]
        return LARS(adapted, lr=0.0, momentum=options.momentum, trust=options.trust)
    if options.name == "sgd":
        return torch.optim.SGD(plain, lr=0.0, momentum=options.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
    return kind(plain, lr=0.0)
