"""Diffusion: its noise and answers recomputed, samplers where the answer is known, samples that no batch changes."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from flax import linen as nn

from longview import train
from longview.configs.diffusion import get_config
from longview.methods.computation import Opened, Work
from longview.methods.ema import Ema
from longview.methods.figures import frechet
from longview.methods.generate import process as pr
from longview.methods.generate import samplers
from longview.methods.generate.diffusion import DENOISER, Diffusion
from longview.methods.generate.disturbed import AddNoise, Distances, ReplacePixels
from longview.methods.generate.generator import sample
from longview.methods.generate.judged import Judged
from longview.methods.supervised import Supervised
from longview.methods.task import Network, Task, Variables, chain, init_state, make_step
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.pixels import Pixels
from longview.runtime.checkpoint import Best
from longview.runtime.mesh import MeshConfig, batch_sharding, make_mesh
from tests import runs
from tests.methods.small import Pyramid
from tests.modelzoo import tiny

RNG = jax.random.key(0)
DRAWS = np.random.default_rng(0)
EXAMPLES = 16


class Small(ft.Denoiser):
    """One hidden layer that reads the image, the time and, of three classes, which it is told."""

    @nn.compact
    def __call__(self, x, time, condition=None, *, train=False):
        told = jnp.zeros((len(x), 3)) if condition is None else jax.nn.one_hot(condition, 3)
        read = jnp.concatenate([x.reshape(len(x), -1), time[:, None], told], axis=1)
        return Dense(x[0].size, name='paint')(jnp.tanh(Dense(8, name='hidden')(read))).reshape(x.shape)


HEUN = functools.partial(samplers.heun, steps=3)
DDIM = functools.partial(samplers.ddim, steps=4, eta=0.5)
EDM = Diffusion(Small(), pr.Sigmas(), pr.Preconditioned(), HEUN, (4, 4, 1), 3, hidden=0.5, guidance=2.0)
DDPM = Diffusion(Small(), pr.Betas(pr.linear_betas(20, 0.01, 0.3)), pr.Velocity(), DDIM, (4, 4, 1))
TASKS = {'edm': EDM, 'ddpm': DDPM}
BATCH = {
    'image': DRAWS.normal(size=(EXAMPLES, 4, 4, 1)).astype(np.float32),
    'label': (np.arange(EXAMPLES) % 3).astype(np.int32),
    'epoch': np.zeros(EXAMPLES, np.int32),
    'index': np.arange(EXAMPLES, dtype=np.int32),
}
BATCH = jax.tree.map(jnp.asarray, BATCH)
CLASSIFIER = Classifier(Pyramid(), Linear(3))


def test_schedules_are_those_of_the_papers():
    cosine, steps = np.asarray(pr.cosine_betas(50)), np.arange(51) / 50
    kept = np.cos((steps + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - cosine)[:-1], (kept / kept[0])[1:-1], rtol=1e-9)
    assert cosine[-1] == 0.999
    np.testing.assert_allclose(np.diff(np.sqrt(pr.square_betas(9, 0.01, 0.25))), 0.05, rtol=1e-9)
    np.testing.assert_allclose(pr.linear_betas(3, 0.1, 0.3), [0.1, 0.2, 0.3])


@pytest.mark.parametrize('prediction', [pr.Noise(), pr.Clean(), pr.Velocity(), pr.Preconditioned(0.7)], ids=repr)
def test_the_right_answer_gives_the_clean_example_back(prediction):
    betas = pr.Betas(pr.cosine_betas(8))
    process, time = (pr.Sigmas(), [0.1, 1.0, 9.0]) if isinstance(prediction, pr.Preconditioned) else (betas, [0, 3, 6])
    x, noise, off = DRAWS.normal(size=(3, 3, 2, 2, 1)).astype(np.float32)

    @tiny.jit
    def run(x, noise, off, time):
        level = process.level(time)
        noisy, target = pr.added(x, noise, level), prediction.target(x, noise, level)
        return level, target, prediction.clean(target, noisy, level), prediction.clean(target + off, noisy, level)

    level, target, clean, worse = jax.device_get(run(x, noise, off, np.asarray(time)))
    np.testing.assert_allclose(clean, x, atol=2e-5)
    signal, sigma = (part[:, None, None, None] for part in level)
    if isinstance(prediction, pr.Preconditioned):
        # The plain error of the answer is EDM's weighted error of the clean example.
        weight = (sigma**2 + 0.7**2) / (sigma * 0.7) ** 2
        np.testing.assert_allclose(weight * (worse - x) ** 2, off**2, rtol=1e-3)
    else:
        np.testing.assert_allclose(signal**2 + sigma**2, 1, rtol=1e-6)
        meant = {pr.Noise: noise, pr.Clean: x, pr.Velocity: signal * noise - sigma * x}[type(prediction)]
        np.testing.assert_allclose(target, meant, rtol=1e-6)


def known(signal, deviation, x):
    """The best estimate of examples that are normal with mean 2 and deviation 0.5, of which `x` are noisy ones."""
    share = signal * 0.25 / (signal**2 * 0.25 + deviation**2)
    return 2 + share * (x - signal * 2)


def ends(x, signal, deviation):
    """Where such an example ends when only its noise is taken out: as many deviations from the mean as before."""
    return 2 + 0.5 * (x - signal * 2) / np.sqrt(signal**2 * 0.25 + deviation**2)


def test_samplers_find_the_distribution_that_they_are_told_of():
    """Of a normal one, each example ends where a straight line takes the noise that it begins with."""
    noise = DRAWS.normal(size=(500, 1)).astype(np.float32)
    betas = pr.Betas(pr.cosine_betas(200))
    fresh = lambda i: jax.random.normal(jax.random.fold_in(RNG, i), noise.shape)

    @tiny.jit
    def run(noise):
        by_step = lambda x, t: known(*betas.level(t), x)
        return (
            samplers.heun(lambda x, sigma: known(1.0, sigma, x), None, noise, None, steps=100),
            samplers.ddim(by_step, betas, noise, fresh, steps=100),
            samplers.ancestral(by_step, betas, noise, fresh),
        )

    heun, ddim, ancestral = jax.device_get(run(noise))
    first = 80 * noise, 1.0, 80.0
    np.testing.assert_allclose(heun, ends(*first), atol=0.005)
    last = jax.device_get(betas.level(jnp.int32(199)))
    np.testing.assert_allclose(ddim, ends(noise, *last), atol=0.05)
    assert abs(ancestral.mean() - 2) < 0.1 and abs(ancestral.std() - 0.5) < 0.06
    assert np.corrcoef(ancestral[:, 0], noise[:, 0])[0, 1] < 0.5


def test_ancestral_steps_are_draws_of_the_posterior():
    """Equations 6 and 7 of DDPM, in NumPy, with the noise that the sampler has drawn."""
    betas = np.asarray(pr.linear_betas(5, 0.1, 0.5))
    kept = np.cumprod(1 - betas)
    noise, drawn = DRAWS.normal(size=(3, 2)).astype(np.float32), DRAWS.normal(size=(4, 3, 2)).astype(np.float32)
    guess = lambda x: 0.3 * x + 1
    run = lambda noise, drawn: samplers.ancestral(
        lambda x, t: guess(x), pr.Betas(tuple(betas)), noise, lambda i: jnp.asarray(drawn)[i]
    )
    x = noise
    for place, t in enumerate((4, 3, 2, 1)):
        mean = np.sqrt(kept[t - 1]) * betas[t] * guess(x) + np.sqrt(1 - betas[t]) * (1 - kept[t - 1]) * x
        variance = betas[t] * (1 - kept[t - 1]) / (1 - kept[t])
        x = mean / (1 - kept[t]) + np.sqrt(variance) * drawn[place]
    np.testing.assert_allclose(tiny.jit(run)(noise, drawn), guess(x), rtol=1e-5)


@pytest.mark.parametrize('name', TASKS)
def test_neither_microbatches_nor_batches_nor_meshes_change_a_number(name):
    task, tx = Ema(TASKS[name], 0.5), optax.sgd(0.1)
    mesh = make_mesh(MeshConfig(8, 1, 1), jax.devices())

    @tiny.jit
    def run():
        first = init_state(task, tx, RNG, BATCH, chain(()))
        return [make_step(task, tx, transform=chain(()), accumulate=parts)(first, BATCH, RNG)[0] for parts in (1, 4)]

    whole, parts = jax.device_get(run())
    assert int(whole.bad_step) == -1
    chex.assert_trees_all_close(whole, parts, rtol=1e-4, atol=1e-6)

    asked = np.asarray(BATCH['label']) if name == 'edm' else None
    draw = lambda v, number, asked: sample(task, v, RNG, number, asked)
    number = np.arange(EXAMPLES, dtype=np.int32)
    made = np.asarray(tiny.jit(draw)(whole.variables, number, asked))
    order = [11, 3]
    few = tiny.jit(draw)(whole.variables, number[order], None if asked is None else asked[order])
    np.testing.assert_allclose(few, made[order], rtol=1e-4, atol=1e-5)
    spread = lambda x: None if x is None else jax.device_put(x, batch_sharding(mesh))
    np.testing.assert_allclose(
        tiny.jit(draw)(whole.variables, spread(number), spread(asked)), made, rtol=1e-4, atol=1e-5
    )
    assert made.shape == (EXAMPLES, 4, 4, 1) and np.abs(made[0] - made[3]).max() > 0.01


def test_averages_make_the_samples_and_are_deployed():
    task, number = Ema(EDM, 0.5), jnp.arange(2)
    v = jax.device_get(tiny.jit(task.init)(RNG, BATCH))
    halved = jax.tree.map(lambda x: x / 2, v.params)
    moved = v._replace(state={**v.state, 'average': halved})
    draw = tiny.jit(lambda task_v: sample(task, task_v, RNG, number))
    inner = tiny.jit(lambda v: sample(EDM, v, RNG, number))
    np.testing.assert_array_equal(draw(moved), inner(v._replace(params=halved, state={})))
    assert np.abs(np.asarray(draw(moved)) - draw(v)).max() > 1e-3
    network = task.deployed(moved)[DENOISER]
    assert network == Network(Small(), {'params': halved})
    with pytest.raises(TypeError, match='Supervised makes no samples'):
        sample(Ema(Supervised(Pyramid(), Linear(3))), v, RNG, number)


def test_guidance_goes_on_from_the_answer_without_a_class():
    v = jax.tree.map(lambda x: 20 * x, tiny.jit(EDM.init)(RNG, BATCH))
    plain = Diffusion(Small(), pr.Sigmas(), pr.Preconditioned(), HEUN, (4, 4, 1), 3, hidden=0.5)

    @tiny.jit
    def run(v, x, label):
        at = lambda task, asked: task.denoiser(v, asked)(x, jnp.asarray(0.7))
        return at(EDM, label), at(plain, label), at(plain, jnp.full_like(label, -1)), at(EDM, None)

    guided, asked, free, unasked = jax.device_get(run(v, BATCH['image'], BATCH['label']))
    np.testing.assert_allclose(guided, 2 * asked - free, atol=1e-4)
    np.testing.assert_allclose(unasked, free, atol=1e-6)
    assert np.abs(asked - free).max() > 1e-3


def test_classes_are_hidden_from_their_share_of_the_examples():
    task = Diffusion(Small(), pr.Sigmas(), pr.Clean(), HEUN, (4, 4, 1), 3, hidden=0.25)
    keys = jax.random.split(RNG, 4000)
    hidden = np.asarray(tiny.jit(task._hide)(jnp.ones(4000, jnp.int32), keys))
    assert set(hidden) == {-1, 1} and abs(np.mean(hidden == -1) - 0.25) < 0.03


@pytest.mark.parametrize('judge', [None, CLASSIFIER], ids=['pixels', 'judge'])
def test_a_judge_measures_the_distance_and_the_classes_of_samples(judge):
    task, seen = Judged(Ema(EDM, 0.5), judge), BATCH | {'mask': jnp.arange(EXAMPLES) < 13}

    @tiny.jit
    def run():
        v = task.init(RNG, BATCH)
        made = sample(task, v, RNG, BATCH['index'], BATCH['label'])
        of = lambda x: {'pooled': x.reshape(len(x), -1)} if judge is None else judge.apply(v.fixed['judge'], x)
        parts = [
            task.measure(v, {name: x[rows] for name, x in seen.items()}, None, RNG)
            for rows in (slice(0, 5), slice(5, None))
        ]
        return parts, of(BATCH['image']), of(made), task.loss(v, BATCH | {'row': BATCH['index']}, RNG, jnp.int32(0))[0]

    parts, data, made, loss = jax.device_get(run())
    sums = jax.tree.map(lambda *each: np.sum(each, axis=0, dtype=np.float64), *parts)
    figures = task.figures(sums, {})
    wanted = frechet.distance(*(frechet.of_rows(x['pooled'][:13]) for x in (data, made)))
    assert figures['frechet'] == pytest.approx(wanted, rel=1e-3) and wanted > 0.01
    assert np.isfinite(loss) and {'loss', 'raw_loss'} <= set(figures)
    assert list(task.figures(jax.tree.map(np.zeros_like, sums), {})) == list(figures)
    inside = Ema(Judged(EDM, judge), 0.5)
    averaged, raw = jax.eval_shape(lambda: inside.measure(inside.init(RNG, BATCH), seen, None, RNG))
    assert averaged.keys() == raw.keys() == sums.keys()
    if judge is not None:
        judged = made['logits'][:13].argmax(axis=1)
        counts = np.bincount(judged, minlength=3)
        assert [figures[f'judged_{k}'] for k in range(3)] == counts.tolist()
        assert figures['classes'] == (counts > 0).sum()
        assert figures['agreement'] == pytest.approx(np.mean(judged == np.arange(13) % 3))


def test_pictures_are_a_grid_whose_rows_are_the_classes():
    v = tiny.jit(EDM.init)(RNG, BATCH)
    picture = tiny.jit(EDM.pictures)(v, BATCH)['samples']
    assert picture.shape == (10, 3 * 25 - 1, 24, 3)
    assert jax.eval_shape(DDPM.pictures, v, BATCH)['samples'].shape == (10, 24, 24, 3)


@pytest.mark.parametrize(
    'change, message',
    [
        ({'network': Pixels()}, 'Diffusion needs a Denoiser .* and Pixels has neither'),
        ({'hidden': 1.0}, r'Diffusion.hidden is 1.0: it is a share'),
        ({'hidden': 0.0}, 'Diffusion.guidance is 2.0, which needs answers with and without a class'),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    fields = {'network': Small(), 'num_classes': 3, 'hidden': 0.5, 'guidance': 2.0} | change
    with pytest.raises((TypeError, ValueError), match=message):
        Diffusion(process=pr.Sigmas(), prediction=pr.Clean(), sampler=HEUN, shape=(4, 4, 1), **fields)


def test_images_of_another_shape_and_too_many_steps_are_refused():
    with pytest.raises(ValueError, match=r'Diffusion.shape is \(4, 4, 1\) and the images are \(8, 8, 1\)'):
        jax.eval_shape(DDPM.init, RNG, BATCH | {'image': jnp.zeros((2, 8, 8, 1))})
    with pytest.raises(ValueError, match='ddim has 4 steps and the process 3'):
        DDIM(lambda x, t: x, pr.Betas((0.1, 0.2, 0.3)), jnp.zeros(3), lambda i: jnp.zeros(3))


class Flat(Task):
    """Its features are the pixels."""

    def init(self, rng, batch, given=None):
        raise NotImplementedError

    loss = init

    def predict(self, v, batch):
        return {'pooled': batch['image'].reshape(len(batch['image']), -1)}


class Finished(Work, Opened):
    """A finished run of `Flat`, with its splits by name."""

    def __init__(self, **splits):
        self.splits = splits

    def open(self, workdir):
        return self

    def gather(self, program, data=None, batch_size=None):
        run = tiny.jit(lambda batch: program(Flat(), Variables({}, {}, {}), batch))
        return jax.device_get(run(self.splits[data or 'own']))


def test_distances_to_compare_with_are_those_of_disturbed_images_and_other_splits():
    draws = DRAWS.normal(size=(2, 40, 2, 2, 1)).astype(np.float32)
    own, other = ({'image': jnp.asarray(x), 'index': jnp.arange(40)} for x in draws)
    disturbed = {'noise': AddNoise(0.5), 'replaced': ReplacePixels(0.25, 3.0, 4.0), 'nothing': AddNoise(0.0)}
    made = Distances('somewhere', {'other': 'other'}, disturbed)(Finished(own=own, other=other))
    found = made.files['distances.json']
    flat = lambda x: frechet.of_rows(np.asarray(x).reshape(40, -1))
    assert found['other'] == pytest.approx(frechet.distance(*map(flat, draws)), rel=1e-5)
    assert found['nothing'] < 1e-6 < found['noise'] < found['replaced']
    run = tiny.jit(lambda batch: [disturbed[name](batch, RNG)['image'] for name in ('noise', 'replaced')])
    whole = jax.device_get(run(own))
    part = jax.device_get(run(jax.tree.map(lambda x: x[7:9], own)))
    chex.assert_trees_all_close([x[7:9] for x in whole], part)
    noise, replaced = whole[0] - draws[0], whole[1] != draws[0]
    assert abs(noise.std() - 0.5) < 0.1 and abs(replaced.mean() - 0.25) < 0.12
    assert whole[1][replaced].min() >= 3 and whole[1][replaced].max() <= 4


@pytest.mark.heavy
def test_the_stages_of_the_config_run_and_leave_samples_distances_and_a_network(tmp_path):
    """Two steps each of the classifier and of a small network."""
    config = get_config('digits')
    for name in ('judge', 'diffusion'):
        config.stages[name].update({'steps': 2, 'epochs': None, 'batch_size': 16, 'log_every': 1})
        config.stages[name].optimizer.schedule.warmup_epochs = 0.0
    diffusion = config.stages.diffusion.task.inner.inner
    diffusion.network.width, diffusion.network.multiples, diffusion.sampler.steps = 8, (1,), 2
    with runs.quickly():
        scores = train.train(config, tmp_path)
    assert scores['diffusion/eval/frechet'] > 0 and scores['diffusion/eval/examples'] == 359
    found = json.loads((tmp_path / 'distances' / 'distances.json').read_text())
    assert 0 < found['training_split'] < found['noise'] and found['replaced'] > found['training_split']
    picture = np.asarray(PIL.Image.open(tmp_path / 'diffusion' / 'pictures' / 'samples' / '00000002.png'))
    assert picture.shape == (10 * 25 - 1, 10 * 25 - 1, 3)
    assert Best(str(tmp_path / 'diffusion')).networks() == (DENOISER,)
