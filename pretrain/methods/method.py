"""The interface of a pre-training method, and two bases: one network, or a network and its moving average."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import ResNet, embed
from msbreg.checkpoints.load import load_exactly
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.train.loop import Loss
from msbreg.train.optimizers import target_decay
from pretrain.methods.encoders import Target, build_networks, projected, update_target
from pretrain.recipe import Config
from pretrain.view_batches import ViewBatch

Gather = Callable[[Tensor], Tensor]  # (N / world, ...) -> (N, ...), with gradient
Outputs = tuple[Tensor, ...]
"""What the trained network returns for one view; each (B, ...), float32. The last one is regularized."""


@dataclass(frozen=True)
class Moment:
    """When and for what a loss is computed.

    Attributes:
        step: number of the step, from 0.
        per_epoch: steps per epoch.
        images: (B,) positions of this process's images in the data set.
        gather: (B, ...) -> (N, ...), rows of all processes, with gradient.
        view: index of the view, if views are processed one at a time.
    """

    step: int
    per_epoch: int
    images: Tensor
    gather: Gather
    view: int = 0

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return self.step // self.per_epoch


class Method(abc.ABC):
    """A self-supervised method: its networks, its loss, and its update after each step.

    A loss sees the whole batch of N images: ``at.gather`` collects the rows of all processes.

    Attributes:
        trained: the network that the optimizer updates: images (B, 3, H, W) -> embeddings (B, D), or a tuple
            of such tensors.
        view_by_view: whether the loss, given the targets, is a mean over views. Views are then processed
            one at a time, and memory holds the activations of a single view.
        evaluated: the entry of the checkpoint with the network that the authors evaluate.
        writes_memory: whether ``loss`` writes into ``memory``. The monitor then does not call it.
        memory: what the method remembers besides its networks, such as a queue; part of the checkpoint.
    """

    trained: nn.Module
    view_by_view: ClassVar[bool] = False
    evaluated: ClassVar[str] = "online"
    writes_memory: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self.memory: dict[str, Tensor] = {}

    # ---- What a method defines

    @abc.abstractmethod
    def loss(self, outputs: Sequence[Outputs], targets: Any, at: Moment) -> Loss:
        """The loss of a step, from the outputs of all online views; of one of them if ``view_by_view``.

        If ``total`` is computed from several of the ``terms``, the monitor reports the force of each.
        """

    def targets(
        self,
        views: Iterable[Tensor],  # of (B, 3, H, W), normalized, this process's images
        gather: Gather,
    ) -> Any:
        """The targets for the outputs, without gradient; None if the method has no targets."""
        return None

    def online_views(self, views: int) -> range:
        """Which of the views (K and the local ones) the trained network sees."""
        return range(views)

    def target_views(self, views: int) -> range:
        """Which of the views (K and the local ones) the targets are computed from."""
        return range(views)

    @abc.abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in the checkpoint; ``online`` is the trained one.

        Each has its backbone under ``backbone``, where ``load_backbone`` expects it.
        """

    @abc.abstractmethod
    def project(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> Tensor:  # (B, D)
        """The embeddings in which a collapse shows."""

    def predict(
        self,
        embeddings: Tensor,  # (B, D), of ``project``
    ) -> Tensor:  # (B, D)
        """The embeddings that the loss regularizes: the predictions if there is a predictor."""
        predictor = dict(self.trained.named_children()).get("predictor")
        return embeddings if predictor is None else predictor(embeddings)

    def allocate(self, images: int) -> None:  # noqa: B027 - optional
        """Called once with the number of images, for a memory that has a row for each.

        Raises:
            UserError: there are too few images.
        """

    def prepare(self, batches: Iterable[ViewBatch], gather: Gather) -> None:  # noqa: B027 - optional
        """Called once before the first step, with the batches of the first epoch."""

    def before_update(self, step: int, per_epoch: int) -> None:  # noqa: B027 - optional
        """Called between the backward pass and the update, for example to freeze a layer."""

    def after_step(self, step: int, steps: int) -> None:  # noqa: B027 - optional
        """Update what the optimizer does not; ``step`` counts from 0."""

    def fixed_rate(self) -> nn.Module | None:
        """The part of the trained network whose learning rate does not decay, if any."""
        return None

    def metrics(self) -> dict[str, float]:
        """Further values to log in the curve, such as the decay of the target network."""
        return {}

    # ---- What all methods share

    def backbone(self) -> ResNet:
        """The backbone of the network that is evaluated."""
        backbone = self.networks()[self.evaluated].get_submodule("backbone")
        assert isinstance(backbone, ResNet)
        return backbone

    def to(self, device: torch.device, *, synchronize: bool) -> None:
        """Move everything to the device; ``synchronize`` BatchNorm between processes."""
        for network in self.networks().values():
            if synchronize:
                distributed.synchronize_batch_norm(network, device)
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.memory = {name: value.to(device) for name, value in self.memory.items()}

    def train_mode(self) -> None:
        """Switch all networks to training mode."""
        for network in self.networks().values():
            network.train()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes, for the checkpoint."""
        state: dict[str, Any] = {name: net.state_dict() for name, net in self.networks().items()}
        return state | ({"memory": dict(self.memory)} if self.memory else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            UserError: the state does not match; the message lists the differences.
        """
        for name, network in self.networks().items():
            load_exactly(network, state[name], name)
        stored = state.get("memory", {})
        if _shapes(stored) != _shapes(self.memory):
            raise UserError(
                f"memory: the checkpoint has {_shapes(stored)}; expected {_shapes(self.memory)}"
            )
        self.memory = {name: stored[name].to(value.device) for name, value in self.memory.items()}


def _shapes(memory: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in memory.items()}


def gathered(
    outputs: Sequence[Outputs],  # of K views, each (B, D)
    gather: Gather,
) -> Tensor:  # (K, N, D)
    """The outputs for the whole batch, of networks with one output."""
    return torch.stack([gather(output) for (output,) in outputs])


class OneNetwork(Method):
    """Base of methods that train one network and compare its own outputs.

    By default, the network is a backbone with a projector.
    """

    def __init__(self, config: Config, online: Target | None = None) -> None:
        super().__init__(config)
        self.online = self.trained = online or projected(config)

    def networks(self) -> dict[str, nn.Module]:
        return {"online": self.online}

    def project(self, images: Tensor) -> Tensor:
        return self.online.projector(embed(self.online.backbone, images))


class WithTarget(Method):
    """Base of methods with a trained online network and a target network that is its moving average.

    By default, the networks of BYOL: both have a projector, the online one also a predictor.
    """

    view_by_view = True

    def __init__(self, config: Config, networks: tuple[Target, Target] | None = None) -> None:
        super().__init__(config)
        self.online, self.target = networks or build_networks(config)
        self.trained = self.online
        self.decay = 1.0
        self.decay_product = 1.0  # product of all decays so far, for Adam's bias correction

    def networks(self) -> dict[str, nn.Module]:
        return {"online": self.online, "target": self.target}

    @torch.no_grad()
    def targets(self, views: Iterable[Tensor], gather: Gather) -> Any:
        """Projections of the target network, (K, N, D)."""
        return torch.stack([gather(z.float()) for z in [self.target(view) for view in views]])

    def target_views(self, views: int) -> range:
        return range(views if self.config.loss.local_targets else self.config.views)

    def project(self, images: Tensor) -> Tensor:
        return self.online.projector(embed(self.online.backbone, images))

    def after_step(self, step: int, steps: int) -> None:
        """Update the target network; the decay rises to 1 during training (MSBReg §3.1, BYOL §3.3)."""
        self.decay = base_decay(self.config)
        if self.config.target.schedule == "cosine":
            self.decay = target_decay(step, steps, base=self.decay)
        if self.config.target.bias_correction == "adam":
            self.decay_product *= self.decay
            self.decay = 1 - (1 - self.decay) / (1 - self.decay_product)
        update_target(self.target, self.online, self.decay)

    def metrics(self) -> dict[str, float]:
        return {"target_decay": self.decay}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"decay_product": self.decay_product}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.decay_product = state["decay_product"]


def base_decay(config: Config) -> float:
    """Initial decay of the target; with ``scale_with_batch``, scaled from batch 4096 (BYOL, appendix G)."""
    if config.target.scale_with_batch:
        return 1 - (1 - config.target.base_decay) * config.batch_size / 4096
    return config.target.base_decay


# ---- Random numbers of a step: equal in all processes, and not part of any global generator


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator for the random choices of one step, on the CPU."""
    entropy = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> 1))


def step_noise(
    seed: int, step: int, images: int, dimensions: int, *, share: str
) -> Tensor:  # (N, D)
    """The Brownian noise of one step for the global batch, equal in all processes (MSBReg Eq. 4).

    Args:
        share: ``image`` draws one direction per image, ``batch`` one for all images.
    """
    generator = step_generator(seed, step)
    if share == "batch":
        return torch.randn(1, dimensions, generator=generator).expand(images, -1)
    return torch.randn(images, dimensions, generator=generator)
