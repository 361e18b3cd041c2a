"""Depth-muP: residual branches and their updates are divided by the root of the depth, so that rates transfer.

Yang et al., 2023, "Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks",
https://arxiv.org/abs/2310.02244, and Bordelon et al., 2023, "Depthwise Hyperparameter Transfer in Residual Networks:
Dynamics and Scaling Limit", https://arxiv.org/abs/2309.16620: with L blocks, ``x + (a / sqrt(L)) f(x)`` and, for
optimizers that normalize each gradient (Adam), a rate of ``eta / sqrt(L)`` inside blocks; for plain gradients the rate
stays. The first paper proves it for blocks of one layer, and finds limits for deeper ones, such as a transformer's.

Here L is counted from a depth at which the rate was found: `factor` is ``sqrt(base_depth / depth)``. `DepthMuP` divides
the branches, by their last matrices and biases; the rate inside blocks is the optimizer's: give it
``rate_rules=(('block', factor),)``. Scaling by the width (muP itself) is not here.
"""

import dataclasses
import math

from jaxtyping import Array, Key

from longview.methods.reparam import Reparam, on_selected, select
from longview.methods.task import Batch, Given, Variables


@dataclasses.dataclass(frozen=True)
class DepthMuP(Reparam):
    """Trains `inner` with residual branches that are multiplied by ``sqrt(base_depth / depth)``.

    Attributes:
        depth: blocks of the network.
        base_depth: blocks of the network whose rates are used.
        pattern: regular expression of the paths of each branch's last kernel and bias.
    """

    depth: int
    base_depth: int = 1
    pattern: str = r'.*block\d+/(mixer/out|mlp/down)/(kernel|bias)'

    def __post_init__(self) -> None:
        if min(self.depth, self.base_depth) < 1:
            raise ValueError(
                f'DepthMuP has depth {self.depth} and base_depth {self.base_depth}: both are numbers of '
                'blocks, at least 1.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        select(v.params, self.pattern, 'DepthMuP')
        return Variables(v.params, {'inner': v.state}, {'inner': v.fixed})

    def view(self, v: Variables) -> Variables:
        factor = math.sqrt(self.base_depth / self.depth)
        paths = select(v.params, self.pattern, 'DepthMuP')
        params = on_selected(lambda path, w: w * factor, paths, v.params)
        return Variables(params, v.state['inner'], v.fixed['inner'])
