"""Functions of ours called as goldens' functions are, where arguments and outputs of the two have another form."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.conv2d import conv2d, im2win
from longview.kernels.conv2d.plan import Plan
from longview.methods import conditioning, losses
from longview.methods.average import add_vectors, greedy_soup, uniform_soup
from longview.methods.dense import boxes, detect
from longview.methods.evaluate.knn import vote
from longview.methods.exits import skip
from longview.methods.figures import anomaly, audio, detection, image, ood, segmentation
from longview.methods.generate import codebook, process, samplers
from longview.methods.ssl.simclr import nt_xent
from longview.modelzoo.layers.frame import scaling
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.norms.gdn import gdn
from longview.modelzoo.layers.norms.norm import l2_normalize
from longview.modelzoo.layers.prelu import prelu
from longview.modelzoo.vision import dit_routing

Outputs = dict[str, Any]


def mean_nt_xent(z1: jax.Array, z2: jax.Array, temperature: float) -> jax.Array:
    """SimCLR's loss: ours is one for each pair."""
    return nt_xent(z1, z2, temperature)[0].mean()


def soups(base: np.ndarray, noise: np.ndarray, x: np.ndarray, scale: float) -> Outputs:
    """Soups of linear classifiers, grown as by the published code; a score is how often one answers as `base` does."""
    models = [base + scale * one for one in noise]
    labels = np.argmax(x @ base, axis=1)
    tried = []

    def accuracy(model: np.ndarray) -> float:
        tried.append(float(np.mean(np.argmax(x @ model, axis=1) == labels)))
        return tried[-1]

    soup, chosen = greedy_soup(models, accuracy, strictly=True)
    return {
        'uniform': uniform_soup(models),
        'greedy': soup,
        'ingredients': np.asarray(chosen),
        'accuracies': np.asarray(tried[: len(models)]),
        'tried': np.asarray(tried[len(models) :]),
    }


def composition(base: jax.Array, vectors: jax.Array, coef: jax.Array, mask_index: np.ndarray) -> Outputs:
    """Task vectors with a coefficient an array, and with one for each group of entries."""
    add = lambda scales: add_vectors({'w': base}, [{'w': vector} for vector in vectors], scales)['w']
    return {
        'blockwise': add([{'w': row[0]} for row in coef]),
        'partitioned': add([{'w': row[mask_index]} for row in coef]),
    }


def neighbours(
    train: jax.Array, labels: jax.Array, queries: jax.Array, k: int, classes: int, temperature: float
) -> Outputs:
    """Votes by squared distances of unit vectors less the bank's mean: ours are by cosines, (2 - distance) / 2."""
    train, labels, queries = map(jnp.asarray, (train, labels, queries))
    mean = train.mean(0, keepdims=True)
    bank, query = (l2_normalize(x - mean, axis=1) for x in (train, queries))
    votes = vote(query, bank, labels, neighbours=k, temperature=temperature / 2, num_classes=classes)
    return {'knn': votes}


def dropped(x: jax.Array, branch: jax.Array, gates: np.ndarray, death_rate: float) -> Outputs:
    """A network of residual branches whose dropped ones are not made up for in training, but scaled down after it."""

    def run(factors: np.ndarray) -> jax.Array:
        h = jnp.asarray(x)
        for weight, factor in zip(branch, factors):
            mask = jnp.full(len(h), factor, jnp.float32)
            h = jax.nn.relu(h + drop_path(weight[None] * jnp.tanh(h), mask))
        return h

    rates = np.arange(1, len(branch) + 1) / len(branch) * death_rate
    return {'train': run(gates), 'eval': run(1 - rates)}


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> Outputs:
    """A convolution on windows of rows, without padding; channels come before windows there, and behind them here."""
    plan, rows = Plan((stride, stride), ((0, 0), (0, 0))), kernel.shape[2]

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array) -> Outputs:
        x, kernel = jnp.moveaxis(x, 1, -1), jnp.transpose(kernel, (2, 3, 1, 0))
        y = conv2d(x, kernel, stride=stride, padding=0, implementation='im2win')
        windows = im2win.windows(plan, x, kernel)
        windows = windows.reshape(*windows.shape[:3], rows, -1)
        parts = im2win.kernel_windows(kernel).reshape(kernel.shape[1], rows, *kernel.shape[2:])
        return {
            'output': jnp.moveaxis(y, -1, 1),
            'window_tensor': windows.transpose(0, 4, 1, 2, 3).reshape(len(x), x.shape[3], y.shape[1], -1),
            'kernel_window': parts.transpose(3, 2, 0, 1).reshape(kernel.shape[3], x.shape[3], -1),
        }

    return run(x, kernel)


def confusion_and_more(pred: np.ndarray, target: np.ndarray, classes: int, ignore: int) -> Outputs:
    """Counts of a segmentation and its figures."""
    count = functools.partial(segmentation.confusion, classes=classes, ignore=ignore)
    counts = jax.device_get(jax.jit(count)(target, pred, np.ones(len(pred), bool)))
    by_class, figures = segmentation.by_class(counts), segmentation.figures(counts)
    return {
        'confusion': counts,
        'iou': by_class['iou'],
        'present': ~np.isnan(by_class['iou']),
        'miou': figures['mean_iou'],
        'pixel_accuracy': figures['pixel_accuracy'],
        'mean_accuracy': figures['mean_accuracy'],
        'dice': by_class['dice'],
    }


def average_precision(
    gu: np.ndarray,
    gl: np.ndarray,
    gi: np.ndarray,
    du: np.ndarray,
    dl: np.ndarray,
    di: np.ndarray,
    ds: np.ndarray,
    jit: np.ndarray,
    side: int,
    crowd: list[int],
) -> Outputs:
    """COCO's figures of boxes from uniform draws: the first detections are jittered copies of the truth."""
    truth, found = side * _boxes(gu), side * _boxes(du)
    copies = truth + 0.03 * side * jit[: len(truth)]
    found[: len(truth)] = np.concatenate(
        [np.minimum(copies[:, :2], copies[:, 2:]), np.maximum(copies[:, :2], copies[:, 2:])], axis=1
    )
    label, of = np.concatenate([gl, dl[len(gl) :]]), np.concatenate([gi, di[len(gi) :]])
    curves = detection.curves(
        detection.Detections(*_by_image(of, np.float32(found), ds, label)),
        detection.Truth(*_by_image(gi, np.float32(truth), gl), crowd=_by_image(gi, np.isin(np.arange(12), crowd))[0]),
        classes=3,
    )
    precision = curves.precision[:, 0]
    return {
        'stats': np.nan_to_num([*detection.figures(curves).values()], nan=-1),
        'gt_xyxy': truth,
        'det_xyxy': found,
        'det_label': label,
        'det_image': of,
        'ap_per_class': precision.mean(axis=(1, 2)),
        'ap50_per_class': precision[:, 0].mean(axis=1),
        'precision50_class0': precision[0, 0],
    }


def _by_image(image: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Returns columns of boxes as rows of 4 images, padded, and which are valid behind them."""
    rank = np.asarray([np.sum(image[:i] == one) for i, one in enumerate(image)])
    padded = [np.zeros((4, len(image), *column.shape[1:]), column.dtype) for column in (*columns, np.zeros(1, bool))]
    for rows, column in zip(padded, (*columns, True)):
        rows[image, rank] = column
    return padded


def box_ious(a: np.ndarray, b: np.ndarray) -> Outputs:
    """Overlaps of boxes from uniform draws."""
    return {'iou': jax.jit(detection.iou)(_boxes(a), _boxes(b))}


def _boxes(u: np.ndarray) -> np.ndarray:
    half = 0.025 + 0.225 * u[:, 2:]
    return np.concatenate([u[:, :2] - half, u[:, :2] + half], axis=1)


def suppressed(u: np.ndarray, s: np.ndarray, c: np.ndarray, iou: float) -> Outputs:
    """What greedy suppression keeps of boxes from uniform draws, by falling score: of all, and class by class."""
    order, found = np.argsort(-s), jnp.asarray(_boxes(u), jnp.float32)
    kept = jax.jit(functools.partial(boxes.kept, threshold=iou))
    of = lambda label: order[np.asarray(kept(found, jnp.asarray(s), jnp.asarray(label)))[order]]
    return {'keep': of(np.zeros_like(c)), 'keep_batched': of(c)}


def focal(x: jax.Array, t: np.ndarray, s: np.ndarray, alpha: float, gamma: float) -> Outputs:
    """The focal loss with targets of 0 and 1 and with others, and without a weight of the classes."""
    t, s = (jnp.asarray(target, jnp.float32) for target in (t, s))
    loss = jax.jit(functools.partial(losses.focal, gamma=gamma), static_argnames='alpha')
    hard, soft = loss(x, t, alpha=alpha), loss(x, s, alpha=alpha)
    # With a weight of a half for both, twice the loss is the one without.
    unweighted = 2 * loss(x, t, alpha=0.5)
    return {'none': hard, 'mean': hard.mean(), 'soft': soft, 'unweighted': unweighted.sum()}


def fcos_loss(
    cls: jax.Array,
    reg: jax.Array,
    ctr: jax.Array,
    gu: np.ndarray,
    labels: np.ndarray,
    radius: float,
    image: int,
    strides: list[int],
) -> Outputs:
    """The losses of FCOS over the positive places of the batch; places are not at the middle of their pixels there."""
    swapped = np.asarray([1, 0, 3, 2])  # x before y there
    at = detect.places_of([(image // s, image // s) for s in strides], strides, 8.0)
    at = at._replace(centre=at.centre - at.stride[:, None] / 2)
    there = (image * np.stack([_boxes(one) for one in gu])[..., swapped]).astype(np.float32)

    @jax.jit
    def run(cls: jax.Array, reg: jax.Array, ctr: jax.Array, there: jax.Array, labels: jax.Array) -> Outputs:
        valid = jnp.ones(there.shape[1], bool)
        match = jax.vmap(lambda one: boxes.answering(*at, one, valid, radius))(there)
        sides = (jax.nn.relu(reg) + 0.5)[..., swapped] * at.stride[None, :, None]
        sums, positive = detect.losses(detect.Answers(cls, sides, ctr[..., 0]), at, match, there, labels)
        found = {name: total.sum() / positive.sum() for name, total in sums.items()}
        return {
            'classification': found['classes'],
            'bbox_regression': found['sides'],
            'bbox_ctrness': found['centre'],
            'matched': match,
        }

    return {**run(cls, reg, ctr, there, labels), 'gt': there[..., swapped]}


def restoration(sr: np.ndarray, hr: np.ndarray, scale: int) -> Outputs:
    """Figures of super-resolution, channels first."""

    @jax.jit
    def figures(sr: jax.Array, hr: jax.Array) -> Outputs:
        sr, y = image.quantize(sr), image.luma
        return {
            'psnr_rgb': image.psnr(sr, hr, border=scale + 6)[0],
            'psnr_y': image.psnr(y(sr), y(hr), border=scale)[0],
            'ssim_y': image.ssim(y(sr), y(hr), border=scale)[0],
        }

    return figures(np.moveaxis(sr, 1, -1), np.moveaxis(hr, 1, -1))


def separated(estimate: jax.Array, source: np.ndarray) -> Outputs:
    """The permutation-invariant loss of separated speech."""
    permutation = lambda *signals: audio.best_permutation(audio.si_snr(*signals))[1]
    return {
        'loss': jax.jit(audio.separation_loss)(estimate, source),
        'permutation': jax.jit(permutation)(estimate, source),
    }


def region_overlap(maps: np.ndarray, boxes: np.ndarray) -> Outputs:
    """The overlap of regions, for masks of rectangles that the scores know something of."""
    mask = np.zeros(maps.shape, bool)
    for one, rectangles in zip(mask, boxes):
        for y, x, h, w in rectangles:
            one[y : y + 1 + h % 4, x : x + 1 + w % 4] = True
    numbers = anomaly.regions(mask)
    return {
        'aupro': anomaly.per_region_overlap(maps + np.float32(0.3) * mask, mask),
        'regions': [len(np.setdiff1d(one, [0])) for one in numbers],
    }


def told_apart(inside: np.ndarray, outside: np.ndarray, weight: np.ndarray, bias: np.ndarray, shift: float) -> Outputs:
    """AUROC and false-positive rate of three scores of logits; the threshold is passed by floor(0.95 n) inside."""
    scores = {
        'MSP': lambda logits: jax.nn.softmax(logits).max(axis=-1),
        'MaxLogit': lambda logits: logits.max(axis=-1),
        'Energy': lambda logits: jax.nn.logsumexp(logits, axis=-1),
    }
    recall = math.floor(0.95 * len(inside)) / len(inside)
    found = {}
    for name, score in scores.items():
        both = [np.asarray(jax.jit(score)(x @ weight.T + bias)) for x in (inside, np.float32(shift) * outside)]
        found[f'{name}_auroc_fpr95'] = np.asarray([ood.auroc(*both), ood.false_positive_rate(*both, recall)])
    return found


def noisy(x: jax.Array, noise: jax.Array, t: np.ndarray) -> Outputs:
    """DDPM's noise at given steps, and the squared signal at some."""
    betas = process.Betas(process.linear_betas())
    kept = betas.level(jnp.asarray([0, 10, 90, 150, 500, 999])).signal ** 2
    return {'x_t': process.added(x, jnp.asarray(noise), betas.level(jnp.asarray(t))), 'alphas_cumprod': kept}


def quantized(z: jax.Array, codebook_: jax.Array, beta: float) -> Outputs:
    """ViT-VQGAN's quantizer: vectors and codes are normalized, and the codes learn by a gradient of their own."""
    short, codes = l2_normalize(z, axis=-1), l2_normalize(codebook_, axis=-1)
    index = codebook.nearest(short, codes)
    chosen = codes[index]
    loss = beta * codebook.commitment(short, chosen).mean() + codebook.commitment(chosen, short).mean()
    return {'quantized': codebook.straight_through(z, chosen), 'loss': loss, 'index': index}


def drawn_by_heun(latents: np.ndarray, w: np.ndarray, steps: int) -> Outputs:
    """EDM's sampler of a denoiser with a product of the channels, which come first here."""

    def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
        return x / (1 + t**2) + 0.3 * jnp.tanh(t / (1 + t) * jnp.einsum('bchw,cd->bdhw', x, w))

    return {'sample': jax.jit(lambda noise: samplers.heun(denoise, None, noise, None, steps=steps))(latents)}


def routed(
    logits: jax.Array,
    path_cost: jax.Array,
    cell_cost: jax.Array,
    all_cost: float,
    mu: float,
    weight: float,
    warm: float,
) -> Outputs:
    """Gates of dynamic routing, what a cell costs by them, and the loss of a budget for the mean over the rows."""
    alpha = dit_routing.gate(logits)
    costs = jnp.asarray(path_cost)[None], jnp.asarray(cell_cost)
    cost = lambda alpha: dit_routing.expected_cost(alpha, *costs)
    expected = cost(alpha)
    budget = skip.over_budget(expected.mean(keepdims=True) / all_cost, mu, weight, jnp.float32(warm))
    return {
        'gate': alpha,
        'expected_cost': expected,
        'real_cost': cost(dit_routing.hard(alpha)),
        'budget_loss': budget[0],
        'identity': (alpha.sum(axis=-1) < dit_routing._CLOSED).astype(jnp.float32),
    }


def divided(x: jax.Array, beta: jax.Array, gamma: jax.Array, least: float) -> jax.Array:
    """GDN: our channels are the last axis, and our weights are turned."""
    return jnp.moveaxis(gdn(jnp.moveaxis(x, 1, -1), beta, gamma.T, least=least), -1, 1)


def scaled(
    types_: list[str],
    factors: list[float],
    depths: list[int],
    widths: list[int],
    groups: list[int],
    resolution: int,
) -> Outputs:
    """Factors of fast scaling and what they make of four stages and an image, by kind and then by work."""
    rows = [scaling.factors(kind, work) for kind in types_ for work in factors]
    return {
        'd_w_g_r': np.asarray(rows),
        'depths': np.asarray([scaling.scaled_depths(depths, by) for by in rows]),
        'widths_before_compatibility': np.asarray([scaling.scaled_widths(widths, by) for by in rows]),
        'groups_before_compatibility': np.asarray([scaling.scaled_groups(groups, by) for by in rows]),
        'resolution': np.asarray([scaling.scaled_side(resolution, by) for by in rows]),
    }


def fitted(widths: list[list[int]], mults: list[list[int]], groups: list[list[int]]) -> Outputs:
    """Widths that groups divide, of three networks."""
    found = [scaling.fitted(*rows) for rows in zip(widths, groups, mults)]
    return {'widths': np.asarray([row[0] for row in found]), 'groups': np.asarray([row[1] for row in found])}


def rectified(x: jax.Array, slope: jax.Array) -> jax.Array:
    """PReLU: our channels are the last axis."""
    return jnp.moveaxis(prelu(jnp.moveaxis(x, 1, -1), slope), -1, 1)


def conditioned(weight: jax.Array) -> Outputs:
    """A convolution's kernel with rows of length 1, and its condition numbers: ours has the output channels last."""
    before = jnp.moveaxis(weight, 0, -1)
    after = conditioning.conditioned(before)
    number = lambda w: conditioning.condition_number(jax.lax.stop_gradient(w))
    return {
        'conditioned': jnp.moveaxis(after, -1, 0),
        'condition_before': number(before),
        'condition_after': number(after),
    }
