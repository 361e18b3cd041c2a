"""Continues a text with a language model, word by word, in constant memory.

    python -m longview.modelzoo.sample mamba_130m --weights=state-spaces/mamba-130m-hf --tokenizer=tokenizer.json \\
        --prompt='The capital of France is' --count=20
    python -m longview.modelzoo.sample mamba_test --words=3,1,4 --count=8 --temperature=0

The prompt is read in parallel, the rest is one compiled loop over `step`. Words are numbers unless a tokenizer is
given, a ``tokenizer.json`` as on the Hugging Face hub, which needs the package tokenizers. Without weights the model
has its random initial values. Top-k: Fan et al., 2018, https://arxiv.org/abs/1805.04833; top-p: Holtzman et al., 2019,
https://arxiv.org/abs/1904.09751.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview import modelzoo
from longview.modelzoo.features import SequenceBackbone
from longview.modelzoo.heads import Classifier


@functools.partial(jax.jit, static_argnames=('model', 'count', 'temperature', 'top_k', 'top_p'))
def sample(
    model: Classifier,
    variables: Any,
    prompt: Int[Array, 'b t'],
    key: Key[Array, ''],
    *,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Int[Array, 'b n']:
    """Returns the next words of each row, sampled from the model.

    Args:
        model: a language model.
        variables: its weights.
        prompt: words to continue, at least one.
        key: from which each row and place gets a key of its own.
        count: number of words N to sample.
        temperature, top_k, top_p: see `choose`.
    """
    state = model.apply(variables, len(prompt), method='init_state')
    state, features = model.apply(variables, state, prompt, method='extend')
    pick = functools.partial(choose, temperature=temperature, top_k=top_k, top_p=top_p)

    def say(carry: tuple[Any, Array], place: Array) -> tuple[tuple[Any, Array], Array]:
        state, logits = carry
        word = pick(logits, jax.random.fold_in(key, place))
        state, features = model.apply(variables, state, word, method='step')
        return (state, features['logits'][:, -1]), word

    first = (state, features['logits'][:, -1])
    return jax.lax.scan(say, first, jnp.arange(count))[1].T


def choose(
    logits: Float[Array, 'b k'],
    key: Key[Array, ''],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Int[Array, ' b']:
    """Returns a word for each row.

    Args:
        logits: one for each word of the vocabulary.
        key: folded with the row's number.
        temperature: divides the logits; 0 takes the likeliest word.
        top_k: sample from the `top_k` likeliest words only; None for all.
        top_p: sample from the smallest set of likeliest words whose probabilities sum to `top_p`; 1 for all.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / temperature
    order = jnp.sort(logits, axis=-1, descending=True)
    if top_k is not None:
        order = jnp.where(jnp.arange(order.shape[-1])[None] < top_k, order, -jnp.inf)
    likely = jax.nn.softmax(order, axis=-1)
    wanted = (jnp.cumsum(likely, axis=-1) - likely < top_p) & (likely > 0)
    least = jnp.min(jnp.where(wanted, order, jnp.inf), axis=-1, keepdims=True)
    kept = jnp.where(logits >= least, logits, -jnp.inf)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(logits)))
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)


def main(arguments: Sequence[str]) -> int:
    """Prints the prompt with its continuations, one per line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        words, tokenizer = _prompt(options)
        model = _model(options, words)
    except (ValueError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    prompt = jnp.asarray([words] * options.rows, jnp.int32)
    try:
        # Weights that are read would be constants of a compiled program.
        init = model.init if options.weights else jax.jit(model.init)
        variables = init(jax.random.key(0), prompt[:1])
    except ValueError as error:  # weights that do not fit
        print(f'error: {error}', file=sys.stderr)
        return 1
    begun = time.perf_counter()
    found = sample(
        model,
        variables,
        prompt,
        jax.random.key(options.seed),
        count=options.count,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    ).tolist()
    for row in found:
        print(tokenizer.decode(words + row) if tokenizer else ' '.join(map(str, words + row)))
    spent = time.perf_counter() - begun
    print(f'{options.rows} x {options.count} words in {spent:.1f} s, compilation included', file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m longview.modelzoo.sample', description='Samples from a language model.'
    )
    parser.add_argument('model', help='a variant that reads words, such as mamba_130m')
    parser.add_argument('--weights', help="a .safetensors file, one of torch's, or owner/name on the Hugging Face hub")
    parser.add_argument('--words', help='the prompt as numbers, such as 3,1,4')
    parser.add_argument('--prompt', help='the prompt as a text; needs --tokenizer')
    parser.add_argument('--tokenizer', help='a tokenizer.json')
    parser.add_argument('--count', type=int, default=32, help='words to say')
    parser.add_argument('--rows', type=int, default=1, help='continuations')
    parser.add_argument('--temperature', type=float, default=1.0, help='0 takes the likeliest word')
    parser.add_argument('--top_k', type=int, help='draw from so many of the likeliest words')
    parser.add_argument('--top_p', type=float, default=1.0, help='draw from the likeliest words of this probability')
    parser.add_argument('--seed', type=int, default=0)
    return parser


def _prompt(options: argparse.Namespace) -> tuple[list[int], Any]:
    """Returns the words of the prompt, and the tokenizer or None."""
    if (options.prompt is None) == (options.words is None):
        raise ValueError('give the prompt either as --words=3,1,4 or as --prompt=TEXT with --tokenizer=FILE.')
    if options.prompt is None:
        return [int(word) for word in options.words.split(',')], None
    if options.tokenizer is None:
        raise ValueError('--prompt needs --tokenizer=FILE, a tokenizer.json: give it, or the words as numbers.')
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError('--tokenizer needs the package tokenizers: install it, or give --words.') from error
    tokenizer = tokenizers.Tokenizer.from_file(options.tokenizer)
    return tokenizer.encode(options.prompt).ids, tokenizer


def _model(options: argparse.Namespace, words: list[int]) -> Classifier:
    """Returns the language model.

    Raises:
        ValueError: the network reads no words, the prompt has others, or the options do not fit.
    """
    model = modelzoo.create_model(options.model, weights=options.weights)
    vocabulary = model.backbone.vocabulary if isinstance(model.backbone, SequenceBackbone) else None
    if not vocabulary:
        raise ValueError(f'{options.model} reads no words: choose a language model, such as mamba_130m.')
    if not all(0 <= word < vocabulary for word in words):
        raise ValueError(
            f'{options.model} knows the words 0 to {vocabulary - 1}, and the prompt has '
            f'{min(words)} to {max(words)}: use its own tokenizer.'
        )
    room = model.backbone.longest
    if room is not None and len(words) + options.count > room:
        raise ValueError(
            f'{options.model} has room for {room} words, and {len(words)} with {options.count} to come '
            'are more: lower --count.'
        )
    if options.count < 1 or options.rows < 1 or options.temperature < 0 or not 0 < options.top_p <= 1:
        raise ValueError(
            '--count and --rows must be at least 1, --temperature at least 0, --top_p above 0 and at most 1.'
        )
    return model


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
