"""A backbone as a list of maps, for what is built on top of it elsewhere."""

from flax import linen as nn
from jaxtyping import Array, Float, Num

from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier
from longview.modelzoo.published import refuse_pixels
from longview.modelzoo.weights import Pretrained


class Stages(nn.Module):
    """The output of each stage of a pyramid, as timm's ``features_only``; parameters are ``{'backbone': ...}``.

    Attributes:
        backbone: a `PyramidBackbone`.
        file: published weights that the module's ``init`` returns; None for random ones.
    """

    backbone: ft.PyramidBackbone
    file: str | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per output pixel of each stage; output sizes that do not divide are rounded up."""
        return self.backbone.strides

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return self.backbone.channels

    def setup(self) -> None:
        if self.file is not None and self.is_initializing():
            raise ValueError(
                'Stages with published weights stands inside another module, which would start it from random values: '
                'take its init by itself, and put the variables in their place.'
            )

    def __call__(self, image: Num[Array, 'b h w c'], *, train: bool = False) -> list[Float[Array, 'b _ _ _']]:
        """Returns the stages' outputs, the largest first.

        Raises:
            ValueError: the images are integers, and the weights published ones.
        """
        if self.file is not None:
            refuse_pixels(image)
        features = self.backbone(image, train=train)
        return [features[ft.stage(index)] for index in range(len(self.channels))]

    @nn.nowrap
    def init(self, rngs: object, image: Array, *, train: bool = False) -> dict:
        """Returns the variables: those of the file, or random ones."""
        network = Classifier(self.backbone, None)
        if self.file is not None:
            network = Pretrained(self.backbone, None, self.file, new_head=True)
        return network.init(rngs, image, train=train)
