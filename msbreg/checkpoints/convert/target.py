"""What one toolbox wants: names, settings in its own words, files, and how to read them back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from msbreg.checkpoints.convert.consumer_settings import Settings
from msbreg.checkpoints.convert.executor import Layout
from msbreg.checkpoints.layouts.names import Dialect
from msbreg.run.errors import UserError

Words = dict[str, Any]
"""Settings under a consumer's own names."""


@dataclass(frozen=True)
class Content:
    """All that goes into a file.

    Attributes:
        state: tensors, in the consumer's names.
        words: settings, in the consumer's words.
        settings: the same in ours.
        provenance: of the source, in plain types.
        certificate: what was found when the file was read back; None until then.
    """

    state: dict[str, Tensor]
    words: Words
    settings: Settings
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reading:
    """A written file as a consumer read it.

    Attributes:
        reader: library and version, or what stands in for it.
        loaded: tensors as they sit in the consumer's network, in the names of the file.
        features: stem and res2 to res5 for each batch of images.
        problems: what the library could not place or did not find.
        passed_over: ending of tensors that its network has no place for, by design.
    """

    reader: str
    loaded: dict[str, Tensor]
    features: list[dict[str, Tensor]]
    problems: tuple[str, ...] = ()
    passed_over: str = ""


Reader = Callable[[Path, Words, list[Tensor]], list[Reading]]
"""File, stored settings, batches of images (B, 3, H, W) uint8 RGB -> one reading per kind of network."""


@dataclass(frozen=True)
class Target:
    """One toolbox.

    Attributes:
        name: what ``--to`` takes.
        ending: of the default output: CKPT's stem and this.
        suffixes: that an output may have; none for a folder.
        names: dialect of the tensors.
        layout: where the consumer's network looks for them, stated on its own.
        refusal: why a network cannot be expressed for this consumer; empty where it can.
        express: settings in the consumer's words.
        understand: settings from the words that the file holds; the inverse, for the certificate.
        encode: content and suffix -> name of a file in the folder (empty: the file itself) -> bytes.
        decode: path -> tensors and stored words; None where the format has no place for words.
        fragment: words and path -> what a user pastes into the consumer's configuration or script.
        readers: of libraries that this package may import.
        has_card: a model card lies beside the file.
    """

    name: str
    ending: str
    suffixes: tuple[str, ...]
    names: Dialect
    layout: Layout
    refusal: Callable[[Settings], str]
    express: Callable[[Settings], Words]
    understand: Callable[[Words], Settings]
    encode: Callable[[Content, str], dict[str, bytes]]
    decode: Callable[[Path], tuple[dict[str, Tensor], Words | None]]
    fragment: Callable[[Words, Path], str]
    readers: tuple[Reader, ...] = ()
    has_card: bool = False

    def check(self, settings: Settings) -> None:
        """Whether the consumer has words for the network at all.

        Raises:
            UserError: it has none; the message says why.
        """
        reason = self.refusal(settings)
        if reason:
            raise UserError(
                f"{self.name} cannot express this backbone: {reason}.\n"
                "`--to safetensors` writes every backbone of this suite, for its own scripts."
            )


def no_small_stem(settings: Settings) -> str:
    """The refusal that all toolboxes share."""
    if settings.stem == "imagenet":
        return ""
    return (
        f"its stem is the one for small images ({settings.stem}: a 3x3 convolution, no max-pool), and "
        "it builds the published 7x7 stride-2 convolution with max-pool only"
    )
