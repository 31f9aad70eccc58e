"""Any model of the timm library by its name, with randomly initialized weights. Nothing is downloaded."""

from typing import Any

import timm
from torch import Tensor, nn

from msbreg.backbones.backbone_interface import TOKENS, Backbone
from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.backbones.vit_architectures import TIMM
from msbreg.run.errors import UserError


class TimmModel(Backbone):
    """A model of timm without its classifier.

    Attributes:
        model: the network.
        representations: ``pooled``, the input of timm's classifier: pooling and norm as the model defines
            them (``forward_head`` with ``pre_logits``).
    """

    representations = ("pooled",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.model: nn.Module = timm.create_model(_timm_name(name), pretrained=False, num_classes=0)

    @property
    def config(self) -> dict[str, Any]:
        """timm's description of the model: input_size, mean, std, interpolation, classifier, ..."""
        found: dict[str, Any] = self.model.pretrained_cfg  # type: ignore[assignment]
        return found

    def width(self, representation: str) -> int:
        model = self.model
        width = model.num_features if representation == TOKENS else model.head_hidden_size
        return int(width)  # type: ignore[arg-type]

    def represent(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
        representation: str,
    ) -> Tensor:  # (B, D)
        tokens = self.model.forward_features(images)  # type: ignore[operator]
        features: Tensor = self.model.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return features

    def tokens(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> Tensor:  # (B, T, C)
        """Patch tokens, or the cells of the last map, whatever the order of its dimensions is."""
        found: Tensor = self.model.forward_features(images)  # type: ignore[operator]
        if found.ndim == 3:
            return found[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if found.ndim == 4 and found.shape[1] == self.width(TOKENS):
            return found.flatten(2).transpose(1, 2)
        if found.ndim == 4:
            return found.flatten(1, 2)
        raise UserError(
            f"{self.name} gives features of shape {tuple(found.shape)}; attentive probes expect one vector "
            "per place. Use --head linear"
        )

    def adaptation(self, side: int) -> str:
        expected = self.config["input_size"][-1]
        if self.config.get("fixed_input_size") and side != expected:
            raise UserError(
                f"the images have {side} x {side} pixels; {self.name} expects {expected} x {expected}. Use "
                f"--transform.resize {expected} --transform.crop {expected}"
            )
        return ""


def timm_spec(name: str) -> BackboneSpec:
    """The spec that timm states for ``timm/NAME``: normalization, image size and interpolation.

    Raises:
        UserError: timm has no such model.
    """
    config = timm.get_pretrained_cfg(_timm_name(name))
    if config is None:
        return BackboneSpec(name)
    return BackboneSpec(
        name,
        Normalization(tuple(config.mean), tuple(config.std)),  # type: ignore[arg-type]
        image_size=config.input_size[-1],
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
    )


def _timm_name(name: str) -> str:
    found = name.removeprefix(TIMM)
    base = found.partition(".")[0]
    if not timm.is_model(base):
        near = timm.list_models(f"{base[:6]}*")[:8]
        known = f", such as {', '.join(near)}" if near else ""
        raise UserError(f"arch is {name!r}; timm {timm.__version__} has no model {base!r}{known}")
    return found
