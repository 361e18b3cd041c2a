"""A mixture of operations, of which a search keeps one.

Liu et al., 2019, "DARTS: Differentiable Architecture Search", https://arxiv.org/abs/1806.09055: each operation's output
is normalized without scale and bias, so that none weighs more for its size, and all are averaged with the softmax of
trained numbers. Drawing one operation a step in training, in place of that average, is the one-shot search of Bender et
al., 2018, https://proceedings.mlr.press/v80/bender18a.html, and of Guo et al., 2020, https://arxiv.org/abs/1904.00420.
Han et al., 2022, https://arxiv.org/abs/2202.02777, search the spatial operations of bottlenecks; their code of the
search is not published. How the numbers are trained and read: methods/nas/mixed.py.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.spatial import Spatial
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import NoNorm


class Mixed(Spatial):
    """``sum_k softmax(alpha)_k norm_k(op_k(x))``, with batch normalization without scale and bias.

    The operations are made without a norm and an activation of their own: `norm` and `act` are unused. All are computed
    whether they weigh anything or not.

    Attributes:
        ops: factories of `Spatial`s, at least one.
        random: whether training draws one operation a step in place of the average; `alpha` is then not trained.
    """

    ops: Sequence[Callable[..., nn.Module]] = ()
    random: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns the mixture.

        Raises:
            ValueError: there are no operations.
        """
        if not self.ops:
            raise ValueError('Mixed.ops is empty: give the operations to choose from, such as spatial.MaxPool.')
        weights = self._weights(train)
        y = jnp.zeros((), self.dtype)
        for index, op in enumerate(self.ops):
            made = op(self.features, self.stride, NoNorm, lambda x: x, self.dtype, name=f'op{index}')
            norm = BatchNorm(affine=False, dtype=self.dtype, name=f'norm{index}')
            y = y + weights[index].astype(self.dtype) * norm(made(x, train=train), train=train)
        return y

    def _weights(self, train: bool) -> Float[Array, ' k']:
        alpha = self.param('alpha', jax.nn.initializers.zeros, (len(self.ops),))
        if not (self.random and train):
            return jax.nn.softmax(alpha)
        # This stream has the same key for all microbatches of a step (methods/forward.py).
        drawn = jax.random.randint(self.make_rng('drop_path'), (), 0, len(self.ops))
        return jax.nn.one_hot(drawn, len(self.ops))
