"""Sampling: what is drawn from, rows and places apart, greedy words equal the parallel form's; the command."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import sample, weights
from tests.modelzoo.tiny import filled, jit

LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))


@pytest.mark.parametrize(
    'options, kept',
    [
        ({}, {0, 1, 2, 3}),
        ({'temperature': 0}, {0}),
        ({'top_k': 2}, {0, 1}),
        ({'top_p': 0.6}, {0, 1}),
        ({'top_p': 0.5}, {0}),
        ({'top_k': 3, 'top_p': 0.99}, {0, 1, 2}),
        ({'temperature': 0.01}, {0}),
    ],
)
def test_words_are_drawn_from_those_that_are_kept(options, kept):
    choose = jit(functools.partial(sample.choose, **options))
    words = choose(np.tile(LOGITS, (400, 1)), jax.random.key(0))
    assert set(words.tolist()) == kept


def test_draws_follow_the_probabilities():
    words = sample.choose(jnp.tile(LOGITS, (4000, 1)), jax.random.key(1))
    np.testing.assert_allclose(np.bincount(words) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_greedy_words_are_those_of_the_parallel_form_and_rows_do_not_mix():
    model, prompt = modelzoo.create_model('gla_test'), jnp.asarray([[3, 1, 4], [1, 5, 9]])
    variables = filled(model, prompt)
    found = sample.sample(model, variables, prompt, jax.random.key(0), count=4, temperature=0)
    text = jnp.concatenate([prompt, found], axis=1)
    said = jit(model.apply)(variables, text)['logits'].argmax(-1)
    np.testing.assert_array_equal(found, said[:, 2:-1])


def test_the_command_says_words_from_a_file(tmp_path, capsys):
    model, words = modelzoo.create_model('mamba_test'), jnp.zeros((1, 2), jnp.int32)
    weights.save(model, filled(model, words), tmp_path / 'w.safetensors')
    command = ['mamba_test', f'--weights={tmp_path / "w.safetensors"}', '--words=3,1', '--count=5', '--rows=2']
    assert sample.main([*command, '--temperature=0']) == 0
    out, err = capsys.readouterr()
    first, second = (line.split() for line in out.splitlines())
    assert first == second and first[:2] == ['3', '1'] and len(first) == 7 and '2 x 5 words in' in err


@pytest.mark.parametrize(
    'command, message',
    [
        (['mamba_test', '--words=3,99'], 'mamba_test knows the words 0 to 31, and the prompt has 3 to 99'),
        (['mamba_test'], 'give the prompt either as --words=3,1,4 or as --prompt=TEXT'),
        (['mamba_test', '--prompt=a'], '--prompt needs --tokenizer=FILE'),
        (['s4d_test', '--words=1'], 's4d_test reads no words: choose a language model'),
        (['zoology_attention', '--words=1', '--count=64'], 'has room for 64 words, and 1 with 64 to come are more'),
        (['mamba_tset', '--words=1'], "there is no model 'mamba_tset': did you mean mamba_test"),
        (['mamba_test', '--words=1', '--weights=nowhere.safetensors'], 'are neither a file nor owner/name on the hub'),
        (['mamba_test', '--words=1', '--top_p=0'], '--top_p above 0'),
    ],
)
def test_mistakes_end_in_a_sentence(command, message, capsys):
    assert sample.main(command) == 1
    assert message in capsys.readouterr().err
