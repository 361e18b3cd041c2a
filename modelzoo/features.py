"""The contract between backbones and everything that uses them.

A backbone turns an image (or a sequence) into a dictionary of features and knows nothing of losses or classes.
Further capabilities are abstract classes that a backbone implements, not flags: a method asks for one with `require`
and refuses other backbones when it is built. XLA drops the features that nobody reads.

| key                  | shape          | meaning                                                              |
|----------------------|----------------|----------------------------------------------------------------------|
| ``stem``             | (B, h, w, D)   | after the embedding, before the first block; of a sequence (B, T, D) |
| ``stage0``, ``stage1``, ... | (B, h, w, C) | the output of each stage of a pyramid, before downsampling       |
| ``tokens``           | (B, N, D)      | the last tokens, normalized                                          |
| ``map``              | (B, h, w, D)   | the last tokens or the last stage of a pyramid as an image, normalized |
| ``pooled``           | (B, D)         | the vector that a classifier reads; float32 whatever the compute type |
| ``distilled``        | (B, D)         | what a second head reads that learns from a teacher; float32 as ``pooled`` |
| ``table``            | (V, D)         | the word embeddings, where the language model's head is tied to them |
| ``gates``            | (B, G)         | how much of each block that can be skipped was used, from 0 to 1     |
| ``gate_logits``      | (B, G)         | the logits of the probabilities that these blocks are used           |
| ``cost``, ``hard_cost`` | (B,)        | multiply-adds of the paths that an example takes over those of all, each |
|                      |                | weighted by its gate, or counted where its gate is open              |
| ``pixels``           | (B, H, W, C)   | an image that a decoder or a restoration network makes               |
| ``penalty``          | (B,)           | what a part of the network asks for besides the task, such as the    |
|                      |                | balance of its experts; objectives add its mean to their loss        |

What a network reads are columns of a batch, named by `Backbone.reads`. A column may be ragged, its rows filled up to
one length; then ``NAME_valid`` (B, N) is True where there is something.

| column                           | shape                     | meaning                                          |
|----------------------------------|---------------------------|--------------------------------------------------|
| ``image``, ``image_valid``       | (B, H, W, C), (B, H, W)   | pixels; invalid where an image is filled up      |
| ``words``, ``words_valid``       | (B, T), (B, T)            | numbers of words in a vocabulary                 |
| ``points``, ``points_valid``     | (B, N, D), (B, N)         | coordinates, and whatever else is known of each  |
| ``time``                         | (B,)                      | of a process that adds noise, in its own units   |
| ``condition``                    | (B, ...)                  | what an image is asked to be: a class, -1 for    |
|                                  |                           | none, or whatever the network says that it takes |
"""

import abc
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

STEM = 'stem'
TOKENS = 'tokens'
MAP = 'map'
POOLED = 'pooled'
DISTILLED = 'distilled'
TABLE = 'table'
GATES = 'gates'
GATE_LOGITS = 'gate_logits'
COST = 'cost'
HARD_COST = 'hard_cost'
PIXELS = 'pixels'
PENALTY = 'penalty'

IMAGE = 'image'
WORDS = 'words'
POINTS = 'points'
TIME = 'time'
CONDITION = 'condition'

Features = dict[str, Array]
# The input of a sequence network: words, vectors, or an image, whose pixels are read row by row.
Sequences = Int[Array, 'b t'] | Float[Array, 'b t c'] | Float[Array, 'b h w c']
# One element of such an input.
Element = Int[Array, ' b'] | Float[Array, 'b c']
Grid = tuple[int, int]


def stage(index: int) -> str:
    """Returns the key of a pyramid's stage."""
    return f'stage{index}'


class Published(NamedTuple):
    """The figures that a paper gives of a variant; None where it gives none.

    Attributes:
        paper: its link.
        image_size: height and width of the input that the figures are for; for a sequence (1, length).
        params: parameters in millions, the classifier's included.
        macs: multiply-adds in billions (1e9).
        top1: ImageNet-1k accuracy in percent.
    """

    paper: str
    image_size: Grid
    params: float | None = None
    macs: float | None = None
    top1: float | None = None


def valid(column: str) -> str:
    """Returns the name of a column's padding mask."""
    return f'{column}_valid'


def read_by(module: nn.Module) -> tuple[str, ...]:
    """Returns the columns of a batch that a module takes; one that does not say it takes an image."""
    return getattr(module, 'reads', (IMAGE,))


class Backbone(nn.Module, abc.ABC):
    """Columns of a batch -> features. Subclasses are abstract or final: none overrides an implementation.

    Attributes:
        reads: the columns, in the order of the arguments of ``__call__``; an image where a class says nothing else.
    """

    reads = (IMAGE,)

    @abc.abstractmethod
    def __call__(self, *columns: Array, train: bool = False) -> Features:
        """Returns features by the keys above; with `train`, random parts such as stochastic depth are active."""

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Parameter paths in groups from the input to the output: the stem, one group per block, the rest."""

    @property
    def num_layers(self) -> int:
        """The number of depths that `layer_of` tells apart; a head shares the last one."""
        return len(self.layers)

    def layer_of(self, path: str) -> int:
        """Returns the depth of a parameter, for layer-wise learning rates.

        Args:
            path: such as ``backbone/block03/mlp/down/kernel``; anything may come before ``backbone``.

        Returns:
            0 for the stem, i + 1 for block i, `num_layers` - 1 for everything else: the last norm, a head, and the
            blocks of a decoder, which are named like a backbone's but are not below ``backbone``.
        """
        _, found, below = f'/{path}/'.partition('/backbone/')
        for depth, group in enumerate(self.layers):
            if found and any(below.startswith(f'{prefix}/') for prefix in group):
                return depth
        return self.num_layers - 1


class TokenBackbone(Backbone):
    """Gives access to its tokens between the patch embedding and the blocks, as masking methods need it.

    ``__call__(x)`` equals ``encode(embed(x) + positions(grid), grid)`` with ``grid = self.grid(h, w)``.
    """

    @abc.abstractmethod
    def grid(self, height: int, width: int) -> Grid:
        """Returns rows and columns of tokens for an image size; ValueError where the size does not fit."""

    @abc.abstractmethod
    def embed(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
        """Returns the patch embedding, without positions."""

    @abc.abstractmethod
    def positions(self, grid: Grid) -> Float[Array, '1 n d']:
        """Returns the position embeddings that are added to the tokens of a grid."""

    @abc.abstractmethod
    def encode(self, tokens: Float[Array, 'b n d'], grid: Grid | None, *, train: bool = False) -> Features:
        """Runs the blocks. For a subset of the tokens `grid` is None; some families refuse that."""


class WholeGridBackbone(TokenBackbone):
    """Has weights for each pair of patches, which take the place of positions and want the whole grid.

    Final classes have the fields ``width`` and ``dtype``, a part ``stem``, the patch embedding, and the method `grid`;
    their ``encode`` begins with `_check_whole`.
    """

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Features:
        """Returns ``stem``, ``tokens``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image, or the weights are for another number of patches.
        """
        grid = self.grid(*x.shape[1:3])
        tokens = self.embed(x)
        return {STEM: tokens.reshape(x.shape[0], *grid, self.width), **self.encode(tokens, grid, train=train)}

    def embed(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
        """Returns the patch embeddings, row by row."""
        return self.stem(x).reshape(x.shape[0], -1, self.width)

    def positions(self, grid: Grid) -> Float[Array, '1 n d']:
        """Returns zeros: the matrices across the patches depend on the positions themselves."""
        return jnp.zeros((1, grid[0] * grid[1], self.width), self.dtype)

    def _check_whole(self, grid: Grid | None) -> None:
        if grid is None:
            raise ValueError(
                f'{type(self).__name__} has a weight for each pair of patches, so it cannot encode a subset of them: '
                'replace tokens instead of dropping them.'
            )


class PyramidBackbone(Backbone):
    """Returns ``stage0``, ``stage1``, ... among its features, for dense tasks."""

    @property
    @abc.abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Input pixels per output pixel of each stage; output sizes that do not divide are rounded up."""

    @property
    @abc.abstractmethod
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""


class HalvingBackbone(PyramidBackbone):
    """A pyramid each of whose stages has half the height and width of the one before.

    Final classes have the fields ``stem_stride``, the first stage's stride, and ``widths`` and ``depths``, a number a
    stage.
    """

    @property
    def strides(self) -> tuple[int, ...]:
        """``stem_stride``, doubled from stage to stage."""
        return tuple(self.stem_stride * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)


class Bounded(Backbone):
    """Knows a bound of its Lipschitz constant, from the image to ``pooled`` in the L2 norm, by power iteration."""

    @abc.abstractmethod
    def iterates(self, shape: tuple[int, int, int]) -> Any:
        """Returns a tree of the shapes of the vectors that `lipschitz` iterates, for images of a shape (H, W, C)."""

    @abc.abstractmethod
    def lipschitz(self, iterates: Any, *, iterations: int, through: bool = True) -> tuple[Float[Array, ''], Any]:
        """Returns the bound for images of one shape, and the new iterates; see layers/lipschitz.py.

        Args:
            iterates: arrays of the shapes that the method of that name returns: random ones, or those of before.
            iterations: steps of power iteration.
            through: whether the gradient flows through these; else it is that at fixed iterates.
        """


class SequenceBackbone(Backbone):
    """Reads words or vectors: a whole sequence, or one element at a time in constant memory.

    Attributes:
        vocabulary: number of words (tokens of the vocabulary); None for a network that reads vectors.
    """

    vocabulary = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (WORDS if self.vocabulary else IMAGE,)

    @abc.abstractmethod
    def init_state(self, batch: int) -> Any:
        """Returns the state before the first element."""

    @abc.abstractmethod
    def step(self, state: Any, x: Element) -> tuple[Any, Features]:
        """Returns the next state and the features of this element, with ``tokens`` (B, 1, D)."""


class TextBackbone(Backbone):
    """Reads words, to both sides or only to those before, and need not decode; padding is masked."""

    reads = (WORDS, valid(WORDS))

    @abc.abstractmethod
    def __call__(self, words: Int[Array, 'b t'], valid: Bool[Array, 'b t'], *, train: bool = False) -> Features:
        """Returns ``tokens`` (B, T, D), of which those of padding mean nothing, and ``pooled`` (B, D)."""


class Denoiser(nn.Module, abc.ABC):
    """Noisy images -> images of the same shape; a kind of its own and no `Backbone`, for it has no features.

    What its answer means, the image without noise or the noise itself, is the method's business
    (methods/generate/process.py).

    Attributes:
        reads: the columns, in the order of the arguments of ``__call__``.
    """

    reads = (IMAGE, TIME, CONDITION)

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        time: Float[Array, ' b'],
        condition: Shaped[Array, 'b ...'] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w c']:
        """Returns an array like `x`.

        Args:
            x: images with noise.
            time: how much noise that is, one number an example, as the process tells it.
            condition: what each image is asked to be; None for whatever there is.
            train: whether random parts such as dropout are active.
        """


class Restorer(nn.Module, abc.ABC):
    """Degraded images -> images as they were; a kind of its own and no `Backbone`, for it has no features.

    Attributes:
        reads: the columns, in the order of the arguments of ``__call__``.
    """

    reads = (IMAGE,)

    @abc.abstractmethod
    def __call__(self, *columns: Array, train: bool = False) -> tuple[Float[Array, 'b h w c'], ...]:
        """Returns images; the last is the answer, those before it are compared with the truth in training, too.

        They may be smaller than the answer: by a whole factor, sides rounded up.
        """


_OFFERS = {
    TokenBackbone: 'embed, positions and encode',
    PyramidBackbone: 'stages with strides and channels',
    Bounded: 'a bound of its Lipschitz constant',
    SequenceBackbone: 'init_state and step',
    TextBackbone: 'words with a padding mask',
    Denoiser: 'an image from a noisy image and its time',
    Restorer: 'images as they were from degraded ones',
}


def require(backbone: nn.Module, capability: type[nn.Module], who: str) -> None:
    """Refuses a network that lacks a capability.

    Args:
        backbone: the network to check.
        capability: TokenBackbone, PyramidBackbone, Bounded, SequenceBackbone, TextBackbone, Denoiser or Restorer.
        who: the name of the asking method, for the message.

    Raises:
        TypeError: the backbone lacks the capability; the message says which ones it has.
    """
    if isinstance(backbone, capability):
        return
    has = [name for kind, name in _OFFERS.items() if isinstance(backbone, kind)]
    raise TypeError(
        f'{who} needs a {capability.__name__} ({_OFFERS[capability]}), and {type(backbone).__name__} '
        f'has {" and ".join(has) or "neither tokens, stages, steps nor text"}: choose another backbone.'
    )
