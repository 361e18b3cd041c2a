"""A network with what it needs to answer for a picture; engine/loading.py makes it of weights or of a run."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from longview.data.decoding import decode, from_pillow
from longview.data.geometry import Geometry, Size
from longview.data.images import Crop
from longview.modelzoo.features import IMAGE

# A picture of Pillow, an array uint8 (H, W, C), or an image file.
Picture = Image.Image | np.ndarray | str | os.PathLike
_PILLOW_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


@dataclasses.dataclass(frozen=True)
class SquashCrop(Crop):
    """Resizes both sides to int(size / fraction), then crops the center; timm's ``squash``.

    Attributes:
        fraction: of the resized image's sides that the crop keeps, at most 1.
        interpolation: see `Crop`.
    """

    fraction: float = 1.0
    interpolation: str = 'bicubic'

    def geometry(self, source: Size, size: Size, draws: np.ndarray) -> Geometry:
        """See `Crop`."""
        resized = int(size[0] / self.fraction), int(size[1] / self.fraction)
        offset = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
        return Geometry(source, (0, 0, *source), resized, size, offset)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network that answers for pictures.

    Attributes:
        module: the network, without what it was loaded from.
        variables: its own, on the default device.
        crop: how a picture becomes pixels of `size`.
        size: (height, width) that the network reads.
        channels: of the pixels: 1, 3 or 4.
        transform: batch transforms, which normalize the pixels.
        classes: what the classes are called, by number; None where nobody says it.
        single: whether an image has one class, and not several or numbers.
    """

    module: nn.Module
    variables: Any
    crop: Crop
    size: Size
    channels: int
    transform: Callable[[dict[str, jax.Array], jax.Array], dict[str, jax.Array]]
    classes: Sequence[str] | None = None
    single: bool = True

    def preprocess(self, picture: Picture) -> np.ndarray:
        """Returns what the network reads of a picture, (height, width, channels).

        Raises:
            ValueError, OSError: it is none; a file is named.
        """
        pixels = self.crop.read(_pixels(picture, self.channels), self.size, self.channels, np.zeros(0))
        return np.asarray(self._transform(pixels[None])[0])

    def classify(self, pictures: Picture | Sequence[Picture]) -> list:
        """Returns the classes of a picture with their probabilities, likeliest first; for a sequence, a list of these.

        A class is its name or, where nobody says it, its number. Probabilities are the softmax of the logits.

        Raises:
            ValueError, OSError: something is no picture, or the network has no classifier.
        """
        if not self.single:
            raise ValueError(
                'the network was trained on several labels an image, or on numbers, whose logits are no probabilities '
                "of one class: use features(picture)['logits']."
            )
        answers = self._answers(pictures)
        if not isinstance(answers, Mapping) or 'logits' not in answers:
            raise ValueError(f'{type(self.module).__name__} has no classifier: use features, or load a whole network.')
        if answers['logits'].ndim != 2:
            raise ValueError(
                f'the network makes logits of shape {answers["logits"].shape} and no classes: use features.'
            )
        probabilities = np.asarray(jax.nn.softmax(answers['logits'].astype(jnp.float32)))
        found = [self._ranked(each) for each in probabilities]
        return found if _several(pictures) else found[0]

    def features(self, pictures: Picture | Sequence[Picture]) -> Any:
        """Returns what the network answers: arrays by name or, with ``features_only``, the list of the stages' maps.

        The arrays of a sequence of pictures have an axis for it in front.

        Raises:
            ValueError, OSError: something is no picture.
        """
        answers = jax.tree.map(np.asarray, self._answers(pictures))
        return answers if _several(pictures) else jax.tree.map(lambda array: array[0], answers)

    def _answers(self, pictures: Picture | Sequence[Picture]) -> Any:
        batch = [self.preprocess(picture) for picture in (pictures if _several(pictures) else [pictures])]
        return self._apply(self.variables, np.stack(batch))

    @functools.cached_property
    def _transform(self) -> Callable[[np.ndarray], jax.Array]:
        # Compiled, so that what makes other columns, such as the views of SimCLR, costs nothing. What draws by example
        # does it as for the first one.
        first = {'index': np.zeros(1, np.int32)}
        return jax.jit(lambda image: self.transform({IMAGE: image, **first}, jax.random.key(0))[IMAGE])

    @functools.cached_property
    def _apply(self) -> Callable[..., Any]:
        return jax.jit(self.module.apply)

    def _ranked(self, probabilities: np.ndarray) -> list[tuple[str | int, float]]:
        order = np.argsort(-probabilities, kind='stable')
        names = range(len(probabilities)) if self.classes is None else self.classes
        return [(names[number], float(probabilities[number])) for number in order]


def _several(pictures: Picture | Sequence[Picture]) -> bool:
    return isinstance(pictures, Sequence) and not isinstance(pictures, str)


def _pixels(picture: Picture, channels: int) -> np.ndarray:
    """Returns a picture as uint8 (H, W, channels); what a camera notes of its orientation is not applied."""
    if isinstance(picture, Image.Image):
        return from_pillow(picture.convert(_PILLOW_MODES[channels]))
    if isinstance(picture, (str, os.PathLike)):
        try:
            return decode(pathlib.Path(picture).expanduser().read_bytes(), channels)
        except (ValueError, OSError) as error:
            raise ValueError(
                f'{os.fspath(picture)} is no image that can be read ({error}): give an image file.'
            ) from error
    if picture.dtype != np.uint8 or picture.ndim != 3:
        raise ValueError(
            f'a picture is {picture.dtype} of the shape {picture.shape}: give uint8 (height, width, {channels}), an '
            'image of Pillow, or a file.'
        )
    return picture
