"""The network around a sequence mixer: embedding, blocks, last norm; for a language model or a classifier.

Mixer, norm, feed-forward layer and residual connection are fields; a family is this network with the mixer of its paper
(modelzoo/sequence/*.py). With a vocabulary it reads words, and with `heads.LanguageHead` it is a language model.
Without one it reads vectors, or an image pixel by pixel. With `heads.Linear` on ``pooled`` it is a classifier, of words
or of vectors. `init_state` and `step` read one element at a time in constant memory, `extend` reads several; the
features are those that the network computes for the whole sequence in parallel.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.layers.mixers.mixer import Block
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, Stream, along

POOLS = ('mean', 'last')

Parts = Callable[..., nn.Module] | Sequence[Callable[..., nn.Module]]


class WordEmbedding(nn.Module):
    """``table[word] + positions[place]``.

    Attributes:
        vocabulary: number of words.
        width: width of the embedding.
        places: number of learned positions; 0 for none.
        dtype: compute type.
    """

    vocabulary: int
    width: int
    places: int = 0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the tables."""
        normal = jax.nn.initializers.normal(0.02)
        self.table = self.param('table', normal, (self.vocabulary, self.width))
        if self.places:
            self.pos_embed = self.param('pos_embed', normal, (self.places, self.width))

    def __call__(self, words: Int[Array, 'b t'], first: Any = 0) -> Float[Array, 'b t d']:
        """Returns the embeddings of words at positions `first`, `first` + 1, ...

        Raises:
            ValueError: the sequence is longer than the table of positions.
        """
        x = self.table[words].astype(self.dtype)
        if not self.places:
            return x
        length = words.shape[1]
        if length > self.places:
            raise ValueError(
                f'{length} words are more than the {self.places} places that have a position: read a '
                'shorter sequence, or set places.'
            )
        positions = jax.lax.dynamic_slice_in_dim(self.pos_embed, first, length)
        return x + positions.astype(self.dtype)[None]


class Elements(nn.Module):
    """``x @ kernel + bias`` for each element; an image is the sequence of its pixels, row by row.

    Attributes:
        width: width of the embedding.
        dtype: compute type.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b t c'] | Float[Array, 'b h w c']) -> Float[Array, 'b t d']:
        """Returns the embeddings."""
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        fan_in = init.uniform_fan_in(x.shape[-1])
        return Dense(self.width, True, fan_in, self.dtype, name='linear')(x)


class State(NamedTuple):
    """The state of the network after some elements.

    Attributes:
        count: number of elements read.
        blocks: states of the blocks.
        total: sum of the last features over the elements, for the mean.
    """

    count: Int[Array, '']
    blocks: Any
    total: Float[Array, 'b d']


class Trunk(ft.SequenceBackbone):
    """The network. The subclass of a family only tells weights.py which published names its parameters have.

    Attributes:
        width: channels.
        depth: number of blocks.
        mixer: factory of the mixer of a block, see layers/mixers/mixer.py; or a sequence of factories that the blocks
            use in turn.
        mlp: factory of the feed-forward layer, or a sequence of factories likewise; None for none.
        norm: factory of the norms of a block.
        last_norm: factory of the norm after the blocks; None for none.
        pre_norm: see `layers.mixers.mixer.Block`.
        vocabulary: number of words; None to read vectors.
        places: number of learned positions, the longest sequence of words; 0 for no positions.
        tied: whether to return the word embedding as ``table``, for a head tied to it.
        pool: what ``pooled`` is: the 'mean' of all elements or the 'last' one.
        residual: factory of the connection of a branch to the stream.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
        block: factory of a block, `layers.mixers.mixer.Block` or what takes its place.
        first_block: factory of the first block, if it is of another form.
    """

    width: int = 256
    depth: int = 4
    mixer: Parts = CausalAttention
    mlp: Parts | None = None
    norm: Callable[..., nn.Module] = LayerNorm
    last_norm: Callable[..., nn.Module] | None = LayerNorm
    pre_norm: bool = True
    vocabulary: int | None = None
    places: int = 0
    tied: bool = False
    pool: str = 'mean'
    residual: Callable[..., nn.Module] = Add
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False
    block: Callable[..., nn.Module] = Block
    first_block: Callable[..., nn.Module] | None = None

    def setup(self) -> None:
        """Makes the parts."""
        if self.pool not in POOLS:
            raise ValueError(f'pool is {self.pool!r}: use one of {", ".join(POOLS)}.')
        typed = lambda part: None if part is None else functools.partial(part, dtype=self.dtype)
        if self.vocabulary is None:
            self.stem = Elements(self.width, self.dtype)
        else:
            self.stem = WordEmbedding(self.vocabulary, self.width, self.places, self.dtype)
        parts = zip(
            trunk.names(self.depth),
            trunk.forms(self.block, self.first_block, self.depth),
            self._in_turn(self.mixer),
            self._in_turn(self.mlp),
            along(self.residual, self.depth),
        )
        self.blocks = [
            form(typed(self.norm), typed(mixer), typed(mlp), residual, self.pre_norm, name=name)
            for name, form, mixer, mlp, residual in parts
        ]
        self.join = self.residual()
        self.norm_after = None if self.last_norm is None else self.last_norm(dtype=self.dtype, name='norm')

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The embedding, each block, the last norm."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)), ('norm',))

    @property
    def longest(self) -> int | None:
        """The longest sequence that positions and mixers allow; None if there is no limit. For an unbound network."""
        rooms = [self.places, *(getattr(mixer(), 'longest', None) for mixer in self._in_turn(self.mixer))]
        return min((room for room in rooms if room), default=None)

    def __call__(self, x: ft.Sequences, *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens``, ``pooled`` and, if `tied`, ``table``.

        Raises:
            ValueError: a sequence of words is longer than the number of positions.
            NotImplementedError: `scan` with parts that differ between blocks.
        """
        embedded = self.stem(x)
        branches = 1 + (self.mlp is not None)
        masks = path_masks(self, self.drop_path, self.depth, x.shape[0], branches=branches, train=train)
        alike = callable(self.mixer) and (self.mlp is None or callable(self.mlp)) and self.first_block is None
        if self.scan and not alike:
            raise NotImplementedError('blocks with different parts cannot run with scan: switch it off.')
        s = trunk.run(self, self.blocks, self.join.open(embedded), masks, train=train, remat=self.remat, scan=self.scan)
        tokens = self._closed(s)
        return self._features(embedded, tokens, jnp.mean(tokens.astype(jnp.float32), axis=1))

    def init_state(self, batch: int) -> State:
        """Returns the state before the first element; call it by `apply` with ``method='init_state'``."""
        blocks = [block.init_state(batch, self.width) for block in self.blocks]
        return State(jnp.zeros((), jnp.int32), blocks, jnp.zeros((batch, self.width)))

    def step(self, state: State, x: ft.Element) -> tuple[State, ft.Features]:
        """Returns the next state and the features of this element; ``pooled`` is that of all elements read."""
        return self.extend(state, x[:, None])

    def extend(self, state: State, x: ft.Sequences) -> tuple[State, ft.Features]:
        """Returns the state after the next elements, and their features; ``pooled`` is that of all elements read.

        The caller must not read more than `longest` elements, which cannot be checked under `jit`.
        """
        embedded = self.stem(x) if self.vocabulary is None else self.stem(x, state.count)
        s, after = self.join.open(embedded), []
        for block, kept in zip(self.blocks, state.blocks):
            s, kept = block.extend(s, kept)
            after.append(kept)
        tokens = self._closed(s)
        count = state.count + embedded.shape[1]
        total = state.total + jnp.sum(tokens.astype(jnp.float32), axis=1)
        return State(count, after, total), self._features(embedded, tokens, total / count)

    def _in_turn(self, parts: Parts | None) -> list[Callable[..., nn.Module] | None]:
        """Returns one factory per block."""
        some = parts if isinstance(parts, Sequence) else [parts]
        return [some[index % len(some)] for index in range(self.depth)]

    def _closed(self, s: Stream) -> Float[Array, 'b t d']:
        x = self.join.close(s)
        return x if self.norm_after is None else self.norm_after(x)

    def _features(self, embedded: Array, tokens: Array, mean: Array) -> ft.Features:
        pooled = mean if self.pool == 'mean' else tokens[:, -1].astype(jnp.float32)
        table = {ft.TABLE: self.stem.table} if self.tied else {}
        return {ft.STEM: embedded, ft.TOKENS: tokens, ft.POOLED: pooled, **table}


def s4_example_names(mixers: str, names: Sequence[tuple]) -> tuple[tuple, ...]:
    """Returns pairs of published name and our path for the classifier of S4's example.

    See https://github.com/state-spaces/s4, example.py.

    Args:
        mixers: published name of the list of mixers.
        names: the pairs of a mixer; ``{i}`` in them is the index of a part, not of the block.
    """
    pair = (('weight', 'kernel'), ('bias', 'bias'))
    inner = lambda name: name.replace('{i}', '{j}')
    return (
        *((f'encoder.{there}', f'backbone/stem/linear/{here}') for there, here in pair),
        *(
            (mixers + '.{i}.' + inner(there), 'backbone/block{i:02d}/mixer/' + inner(here), *axes)
            for there, here, *axes in names
        ),
        *(
            ('norms.{i}.' + there, 'backbone/block{i:02d}/mixer_norm/' + here)
            for there, here in (('weight', 'scale'), ('bias', 'bias'))
        ),
        *((f'decoder.{there}', f'head/{here}') for there, here in pair),
    )
