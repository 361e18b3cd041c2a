"""NormFormer: norms and learned scales where the branches of a pre-norm transformer end, so that layers learn alike.

Shleifer et al., 2021, "NormFormer: Improved Transformer Pretraining with Extra Normalization",
https://arxiv.org/abs/2110.09456. Reference: https://github.com/facebookresearch/fairseq (MIT) at 3d262bb,
fairseq/modules/transformer_layer.py, read for facts. A ViT and the sequence trunk take each part by a field:

- ``mixer={'head_scale': 'heads'}``: a learned number for each head of attention, 1 at first. The published code has it
  behind the last matrix, whose output it cuts into as many pieces: ``'out'``.
- ``mixer={'out_norm': LayerNorm}``: a norm of what attention writes to the stream.
- ``mlp={'hidden_norm': LayerNorm}``: a norm in the feed-forward layer, behind the activation.
- ``residual=ResScale``: a learned scale of the stream where the feed-forward layer writes; for small networks only.

A larger rate belongs to it: 3e-3 in the place of 1e-3 for the published network of 125 M parameters.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Single


class ResScale(Single):
    """``scale * s + y`` with one scale per channel, 1 at first; ``s + y`` for the first branch of a block."""

    @nn.compact
    def write(self, s: Array, y: Float[Array, 'b *n']) -> Array:
        """Returns the stream after the branch with output `y`."""
        if self.branch == 0:
            return s + y
        scale = self.param('scale', jax.nn.initializers.ones, (s.shape[-1],)).astype(s.dtype)
        return s * scale.reshape((1,) * (s.ndim - 1) + (-1,)) + y
