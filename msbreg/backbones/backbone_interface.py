"""``Backbone``: what every network offers to the protocols on frozen features."""

import abc

from torch import Tensor, nn

TOKENS = "tokens"
"""Stands for ``Backbone.tokens`` where a representation is named."""


class Backbone(nn.Module, abc.ABC):
    """A network whose features can be evaluated.

    Attributes:
        representations: names of the features that it offers, the default first.
    """

    representations: tuple[str, ...]

    @abc.abstractmethod
    def width(self, representation: str) -> int:
        """Dimension D of a feature."""

    @abc.abstractmethod
    def represent(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
        representation: str,
    ) -> Tensor:  # (B, D)
        """A feature of each image, by its name in ``representations``."""

    @abc.abstractmethod
    def tokens(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> Tensor:  # (B, T, C)
        """One vector for each place of the image, for attentive probes; C is ``width(TOKENS)``."""

    def adaptation(self, side: int) -> str:
        """What the network adapts to square images of this side in pixels, as a sentence for records.

        Empty if it takes them as they are, as convolutional networks do.

        Raises:
            UserError: the network does not take images of this size; the message says which it takes.
        """
        return ""
