"""Training a network to skip blocks: the loss on the labels plus the cost of the blocks that run.

Wang et al., 2017, "SkipNet: Learning Dynamic Routing in Convolutional Networks", https://arxiv.org/abs/1711.09485.
Reference: https://github.com/ucbdrive/skipnet at 4825e53 (no licence stated), cifar/train_sp.py and train_rl.py, read
for facts. With g_i the gates of an example, N of them, and L its cross-entropy, the supervised stage minimises

    L + alpha / N sum_i g_i,

through gates that have a gradient (`hard` or `soft` in modelzoo/vision/skipnet.py). The reference has alpha = 0 there.
The hybrid stage goes on from it with gates that are drawn (`sampled`), and adds to L, which trains all but the gates,
REINFORCE (Williams, 1992, https://doi.org/10.1007/BF00992696):

    - weight sum_i R_i log p(g_i),    R_i = alpha / N (1 - g_i) + discount R_{i+1},    R_{N+1} = -L,

no gradient passing through R. Here that is the mean over the examples, in the reference their sum: its weight of 0.01
for batches of 128 is 1.28. The two stages are two runs, the second one's task inside `methods.start`.

A network that says what the paths cost which an example takes (``cost``) may be given a budget instead, as dynamic
routing is (Li et al., 2020, https://arxiv.org/abs/2003.10401; reference: Megvii-BaseDetection/DynamicRouting at
e401a19, facts only): L + weight warm (cost - budget)^2, where warm rises from 0 to 1 after a first share of the steps.
Both there and here the square is of one image's cost.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NetworkObjective
from longview.methods.supervised import cross_entropy
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.modelzoo import features as ft


@dataclasses.dataclass(frozen=True)
class Skip(NetworkObjective):
    """Trains ``head(backbone(image))`` and the backbone's gates.

    Attributes:
        backbone, head, network: image -> features, ``gates`` and ``gate_logits`` among them, and features -> logits;
            see `NetworkObjective`.
        alpha: what it costs to run all blocks that can be skipped; a unit of cross-entropy is 1.
        reinforce: weight of REINFORCE, for a backbone that draws its gates; 0 for the supervised stage.
        discount: of the later gates' rewards; for REINFORCE.
        budget: the cost to come to, as a share of that of all paths; None for none.
        budget_weight: of the squared distance to it.
        budget_from, budget_warmup: the step after which it counts, and the steps in which its weight then rises.
    """

    alpha: float = 0.0
    reinforce: float = 0.0
    discount: float = 1.0
    budget: float | None = None
    budget_weight: float = 0.8
    budget_from: int = 0
    budget_warmup: int = 1

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        columns = forward.inputs(self.model, batch)
        params, state = forward.init(self.model, rng, *columns, weights=self._weights(batch, given))
        features = jax.eval_shape(lambda: forward.answer(self.model, params, state, *columns))
        if ft.GATES not in features:
            raise ValueError(
                f'Skip needs a backbone with gates, and {type(self.model.backbone).__name__} gives '
                f'{", ".join(features)}: use modelzoo.vision.skipnet.'
            )
        if self.budget is not None and ft.COST not in features:
            raise ValueError(
                f'Skip.budget is {self.budget}, and {type(self.model.backbone).__name__} does not say what its paths '
                'cost: leave it None and set alpha, or use modelzoo.vision.dit_routing.'
            )
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        columns = forward.inputs(self.model, batch)
        features, state = forward.learn(self.model, v.params, v.state, *columns, rng=rng, row=batch['row'])
        logits, gates = features['logits'], features[ft.GATES].astype(jnp.float32)
        losses = cross_entropy(logits, batch.get('target', jax.nn.one_hot(batch['label'], logits.shape[-1])))
        if self.reinforce:
            likely = log_probability(features[ft.GATE_LOGITS], gates)
            reward = jax.lax.stop_gradient(returns(gates, losses, self.alpha, self.discount))
            extra = -self.reinforce * jnp.sum(reward * likely, axis=1)
        else:
            extra = self.alpha * jnp.mean(gates, axis=1)
        if self.budget is not None:
            warm = (step - self.budget_from) / self.budget_warmup
            extra += over_budget(features[ft.COST], self.budget, self.budget_weight, warm)
        loss, metrics = forward.penalized(jnp.mean(losses + extra), features)
        return loss, (state, {**metrics, 'label': losses.mean(), 'executed': executed(gates).mean()})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.model, v.params, v.state, *forward.inputs(self.model, batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns the loss, the accuracy, the share of the blocks that were run, and the costs where they are known."""
        features, label = self.predict(v, batch), batch['label']
        logits = features['logits']
        right = (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)
        costs = {name: features[name] for name in (ft.COST, ft.HARD_COST) if name in features}
        return {
            **costs,
            'loss': cross_entropy(logits, jax.nn.one_hot(label, logits.shape[-1])),
            'accuracy': right,
            'executed': executed(features[ft.GATES].astype(jnp.float32)),
        }


def over_budget(cost: Float[Array, ' b'], budget: float, weight: float, warm: Float[Array, '']) -> Float[Array, ' b']:
    """Returns ``weight warm (cost - budget)^2`` of each example, with ``warm`` between 0 and 1."""
    return weight * jnp.clip(warm, 0, 1) * jnp.square(cost - budget)


def executed(gates: Float[Array, 'b g']) -> Float[Array, ' b']:
    """Returns the share of the blocks that are run, the one that always is included ("computation percentage")."""
    return (1 + gates.sum(axis=1)) / (1 + gates.shape[1])


def log_probability(logits: Float[Array, 'b g'], gates: Float[Array, 'b g']) -> Float[Array, 'b g']:
    """Returns the logarithm of how likely each gate was to be as it is, open (1) or closed (0)."""
    return jax.nn.log_sigmoid(jnp.where(gates > 0.5, logits, -logits).astype(jnp.float32))


def returns(
    gates: Float[Array, 'b g'], losses: Float[Array, ' b'], alpha: float, discount: float
) -> Float[Array, 'b g']:
    """Returns R above: what each gate and those after it earned, and the example's loss."""

    def earlier(later: Array, reward: Array) -> tuple[Array, Array]:
        total = reward + discount * later
        return total, total

    rewards = alpha / gates.shape[1] * (1 - gates)
    return jax.lax.scan(earlier, -losses, rewards.T, reverse=True)[1].T
