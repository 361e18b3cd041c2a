"""Training a network whose stream has no mean over its channels, so that RMSNorm normalizes it as LayerNorm would.

Jiang et al., 2023, "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers",
https://arxiv.org/abs/2305.14858. Reference: https://github.com/ZixuanJiang/pre-rmsnorm-transformer (MIT) at 025d43a,
torch/customized_layer.py LinearZeroMeanOutput, read for facts: as there, the mean over the outputs is taken away from a
matrix and its bias each time that they are used, and from positions and learned tokens.

The loss is, as a function of the parameters, that of the network with `LayerNorm` in the place of each
``RMSNorm(use_bias=True)``: so are its gradients, and a run takes the same course but for rounding. What the run leaves
behind is centered, and needs this wrapper no longer.
"""

import dataclasses

from jaxtyping import Array, Key

from longview.methods.reparam import Reparam, on_selected, select
from longview.methods.task import Batch, Given, Variables
from longview.modelzoo.layers.norms.zero_mean import WRITES, centered


@dataclasses.dataclass(frozen=True)
class ZeroMean(Reparam):
    """Trains `inner` with what writes to the stream centered over the channels.

    The network's `norm` should be `RMSNorm`, it has no norm before its blocks (`first_norm`), and positions that are
    not learned (`fixed_positions`) have no mean already.

    Attributes:
        pattern: regular expression of the paths of what writes to the stream; by default those of a ViT and of the
            sequence trunk.
    """

    pattern: str = WRITES

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        select(v.params, self.pattern, 'ZeroMean')
        return Variables(v.params, {'inner': v.state}, {'inner': v.fixed})

    def view(self, v: Variables) -> Variables:
        paths = select(v.params, self.pattern, 'ZeroMean')
        params = on_selected(lambda path, w: centered(w), paths, v.params)
        return Variables(params, v.state['inner'], v.fixed['inner'])
