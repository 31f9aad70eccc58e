"""The pixels of a scene as Detectron2 reads them: Pillow, EXIF rotation, RGB."""

from PIL import Image

from msbreg.datasets.folder import UnreadableImage
from transfer.scenes.checks import check_size, orientation, why_unreadable
from transfer.scenes.types import Scene

_TURNS = {  # EXIF's orientation -> what makes the image upright (detectron2/data/detection_utils.py)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_upright(scene: Scene) -> Image.Image:  # mode RGB
    """The whole image, turned as its EXIF data say.

    Raises:
        UserError: the file is missing, cannot be decoded to its end, or has another size than stated.
    """
    try:
        with Image.open(scene.file) as file:
            turn = _TURNS.get(orientation(file))
            image = (file if turn is None else file.transpose(turn)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(
            f"{scene.file} cannot be decoded: {why_unreadable(scene.file, error)}"
        ) from error
    check_size(scene, (image.height, image.width), "its annotation")
    return image
