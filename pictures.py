"""Draws what is inside of a network: ``python pictures.py WHAT ...``, or ``python -m longview.pictures WHAT ...``.

    python -m longview.pictures signal --config configs/vig_s.py:digits    # the scale of activations and gradients
    python -m longview.pictures receptive_field runs/vig_digits            # which pixels the middle depends on
    python -m longview.pictures filters resnet50 --weights=published       # the kernels that meet the pixels
    python -m longview.pictures attention vit_small_patch16_224 --weights=published --image=cat.jpg

The network is that of a config as it begins, the best one of a run, or a variant of the zoo. It is shown the first
images of the evaluation split; of a variant, or where the data set is not here, unit normal numbers. The picture is a
PNG, by default WORKDIR/pictures/WHAT.png of a run and else WHAT.png in this folder; its numbers are printed.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from absl import flags
from ml_collections import config_flags

from longview import names
from longview.analysis import attention_maps, filters, receptive_field, signal
from longview.engine import pictures
from longview.runtime import commandline, plots
from longview.runtime.errors import RunError
from longview.words import nearest

names.check(__name__)

# Of filters, attention layers and heads so many are drawn.
_TILES, _LAYERS, _HEADS = 256, 24, 12
# How many examples a network is shown by default.
_EXAMPLES = 16
# The pictures that a flag changes; flags that are not here are for all of them.
_PICTURES = {
    'examples': ('signal', 'receptive_field'),
    'image': ('signal', 'receptive_field', 'attention'),
    'size': ('signal', 'receptive_field', 'attention'),
    'layer': ('receptive_field', 'filters', 'attention'),
    'rollout': ('attention',),
    'positive': ('receptive_field',),
}


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one sentence and with status 1, as train.py does."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f'error: {message} (--help shows how.)')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser('pictures.py', description=__doc__.split('\n\n')[-1], allow_abbrev=False)
    parser.add_argument('what', choices=sorted(_DRAWN), help='what to draw')
    parser.add_argument('network', nargs='?', metavar='WORKDIR|NAME', help='a run, or a variant of the zoo')
    parser.add_argument('--config', metavar='FILE:PRESET', help='a config in its place; --config.KEY=VALUE changes it')
    parser.add_argument('--weights', help='of a variant: published, a file, a folder, or owner/name on the hub')
    parser.add_argument('--of', metavar='NETWORK', help='which network, where there are several')
    parser.add_argument('--stage', help='of a config with stages, one that trains and reads no other')
    parser.add_argument('--image', metavar='FILE', help='an image of your own, for a run or a variant with weights')
    parser.add_argument(
        '--examples', type=int, help='how many examples signal and receptive_field show the network; 16 by default'
    )
    parser.add_argument('--size', type=int, help='side of the images that a variant is shown')
    parser.add_argument('--layer', help='the feature, depthwise convolution or attention layer to draw, by its path')
    parser.add_argument('--rollout', action='store_true', help='attention of all layers, multiplied')
    parser.add_argument('--positive', action='store_true', help='of a receptive field, positive gradients alone')
    parser.add_argument('--png', metavar='FILE', help='where the picture is written')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def _signal(subject: pictures.Subject, asked: argparse.Namespace) -> tuple[Any, str]:
    found = signal.signals(subject.module, subject.variables, *subject.columns)
    lines = [f'{"":{_width(found)}}  {"rms":>10}  {"mean^2":>10}  {"variance":>10}  {"gradient":>10}']
    for place, _, output, gradient in found:
        numbers = '  '.join(f'{value:10.4g}' for value in (*output, gradient.rms))
        lines.append(f'{place:{_width(found)}}  {numbers}')
    return plots.by_depth(*_panels(found), _title(subject, 'signal')), '\n'.join(lines)


def _width(found: Sequence[signal.Signal]) -> int:
    return max(len(each.place) for each in found)


def _panels(found: Sequence[signal.Signal]) -> tuple[list[str], dict[str, dict[str, dict[int, float]]]]:
    """Returns the places of the stream, and the curves over them; a branch stands where its block does."""
    stream: list[signal.Signal] = []
    passing: dict[str, dict[int, signal.Signal]] = {'stream': {}}
    for each in found:
        branch = each.place.rpartition('/')[2]
        name = 'stream' if not each.branch else branch if branch == 'branch' else f'branch {branch}'
        passing.setdefault(name, {})[len(stream)] = each
        stream += [] if each.branch else [each]
    numbers = {
        'root mean square': lambda each: each.output.rms,
        'squared mean': lambda each: each.output.mean_square,
        'variance': lambda each: each.output.variance,
        'gradient, rms': lambda each: each.gradient.rms,
    }
    panels = {
        label: {name: {place: number(each) for place, each in of.items()} for name, of in passing.items()}
        for label, number in numbers.items()
    }
    return [each.place for each in stream], panels


def _receptive_field(subject: pictures.Subject, asked: argparse.Namespace) -> tuple[Any, str]:
    found = receptive_field.receptive_field(
        subject.module, subject.variables, *subject.columns, feature=asked.layer, positive=asked.positive
    )
    areas = {share: receptive_field.area(found, share) for share in receptive_field.SHARES}
    lines = [f'{100 * share:g} % of the scores in {100 * part:.2f} % of the area' for share, part in areas.items()]
    return plots.field(found.scores, areas, _title(subject, f'the middle of {found.feature}')), '\n'.join(lines)


def _filters(subject: pictures.Subject, asked: argparse.Namespace) -> tuple[Any, str]:
    params = subject.variables['params']
    if asked.layer is None:
        path, found = filters.first_filters(subject.module, params)
    else:
        path, found = _layer(filters.depthwise_filters(params), asked.layer, 'depthwise convolution')
    count, height, width, channels = found.shape
    cut = f', the first {_TILES} drawn' if count > _TILES else ''
    said = f'{path}: {count} filters of {height}x{width}x{channels}{cut}'
    return plots.tiles(filters.tiles(found[:_TILES]), f'{subject.name}: {path}{cut}'), said


def _attention(subject: pictures.Subject, asked: argparse.Namespace) -> tuple[Any, str]:
    found = attention_maps.attention_maps(subject.module, subject.variables, *(c[:1] for c in subject.columns))
    said = '\n'.join(f'{path}  {" x ".join(map(str, weights.shape[1:]))}' for path, weights in found.items())
    if asked.layer is not None:
        found = dict([_layer(found, asked.layer, 'attention layer')])
    if asked.rollout:
        found = {'rollout': attention_maps.rollout(list(found.values()))[:, None]}
    image = np.asarray(subject.columns[0][0], np.float32)
    if image.ndim != 3:  # a sequence: all of the weights
        rows, image = {path: weights[0, :_HEADS] for path, weights in found.items()}, None
    else:
        over = lambda weights: attention_maps.over_picture(weights[0, :_HEADS], image.shape[:2])
        rows = {path: over(weights) for path, weights in found.items()}
        image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    cut = _cut(found)
    drawn = dict(list(rows.items())[:_LAYERS])
    return plots.maps(drawn, image, _title(subject, f'attention{cut}')), f'{said}{cut}'


def _cut(layers: dict[str, np.ndarray]) -> str:
    """Returns the words for the layers and heads that are not drawn."""
    counts = len(layers), max(weights.shape[1] for weights in layers.values())
    limits = zip(('layers', 'heads'), counts, (_LAYERS, _HEADS))
    cut = [f'the first {limit} {kind}' for kind, count, limit in limits if count > limit]
    return f', {" and ".join(cut)} drawn' if cut else ''


# What is drawn, by its name: (network, command line) -> (figure, its numbers as text).
_DRAWN: dict[str, Callable[[pictures.Subject, argparse.Namespace], tuple[Any, str]]] = {
    'signal': _signal,
    'receptive_field': _receptive_field,
    'filters': _filters,
    'attention': _attention,
}


def _layer(layers: dict[str, np.ndarray], name: str, kind: str) -> tuple[str, np.ndarray]:
    """Returns the layer of a path, or of the end of one."""
    if not layers:
        raise ValueError(f'--layer={name}: the network has no {kind}; leave --layer out.')
    found = [name] if name in layers else [path for path in layers if path.endswith(f'/{name}')]
    if not found:
        raise ValueError(f'--layer={name} is no {kind}{nearest(name, layers)}')
    if len(found) > 1:
        raise ValueError(
            f'--layer={name} is the end of {len(found)} paths, and one {kind} is drawn: give more of one of '
            f'{", ".join(found)}.'
        )
    return found[0], layers[found[0]]


def _shown(subject: pictures.Subject, asked: argparse.Namespace) -> str:
    """Returns the line that says how many examples the picture is of, where they are counted."""
    if asked.what not in _PICTURES['examples']:
        return ''
    count = len(subject.columns[0])
    rest = ', which are all there are' if count < (asked.examples or 0) else ''
    noise = ' of noise' if subject.noise else ''
    return f'shown: {count} example{"s" if count > 1 else ""}{noise}{rest}\n'


def _title(subject: pictures.Subject, what: str) -> str:
    return f'{subject.name}: {what}' + (', shown noise' if subject.noise else '')


def _subject(asked: argparse.Namespace, overrides: Sequence[str]) -> pictures.Subject:
    """Returns the network that the command line names."""
    if (asked.config is None) == (asked.network is None):
        raise ValueError('one network is drawn: give --config, the workdir of a run, or the name of a variant.')
    if asked.size is not None and asked.size < 1:
        raise ValueError(f'--size={asked.size} is no side of an image: give 1 or more.')
    if asked.examples is not None and asked.examples < 1:
        raise ValueError(f'--examples={asked.examples} shows the network nothing: give 1 or more.')
    examples = asked.examples or _EXAMPLES
    if asked.config is None:
        if asked.stage is not None:
            raise ValueError(f'--stage={asked.stage} is of a config, and a run is one by its workdir: leave it out.')
        return pictures.of_name(asked.network, examples, asked.weights, asked.of, asked.image, asked.size)
    for flag in ('weights', 'image', 'size'):
        if getattr(asked, flag) is not None:
            raise ValueError(f'--{flag} is for runs and variants, and --config begins a run: leave it out.')
    config = _config(asked.config, overrides)
    return pictures.of_config(config, asked.config, examples, asked.of, asked.stage)


def _check_flags(asked: argparse.Namespace) -> None:
    """Raises ValueError for a flag that would change nothing of the picture."""
    for flag, of in _PICTURES.items():
        value = getattr(asked, flag)
        if asked.what not in of and value not in (None, False):
            given = f'--{flag}' if value is True else f'--{flag}={value}'
            raise ValueError(f'{given} is for {", ".join(of)}, and the picture is {asked.what}: leave it out.')
    for flag in ('examples', 'size'):
        value = getattr(asked, flag)
        if asked.image is not None and value is not None:
            raise ValueError(
                f'--{flag}={value} is for what a network is shown in the place of an image of your own, and '
                f'--image={asked.image} is one: leave one of the two out.'
            )


def _config(path: str, overrides: Sequence[str]) -> Any:
    values = flags.FlagValues()
    arguments = ['pictures.py', f'--config={path}', *overrides]
    config_flags.DEFINE_config_file('config', None, 'A config.', flag_values=values, sys_argv=arguments)
    commandline.parse(arguments, values)
    return values['config'].value


def _file(asked: argparse.Namespace) -> pathlib.Path:
    if asked.png is not None:
        return pathlib.Path(asked.png).expanduser()
    folder = pathlib.Path(asked.network or '').expanduser()
    return (
        folder / 'pictures' / f'{asked.what}.png'
        if (folder / 'config.json').exists()
        else pathlib.Path(f'{asked.what}.png')
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    asked, overrides = _parser().parse_known_args(arguments)
    try:
        unknown = [each for each in overrides if asked.config is None or not each.startswith('--config.')]
        if unknown:
            raise ValueError(f'there is no flag {unknown[0]}: --help has them all.')
        _check_flags(asked)
        subject = _subject(asked, overrides)
        figure, said = _DRAWN[asked.what](subject, asked)
        file = _file(asked)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(plots.png(figure))
        print(f'{said}\n\n{_shown(subject, asked)}written: {file}')
    except (RunError, ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        if asked.traceback:
            raise
        sys.exit(f'error: {commandline.sentence(error)} (--traceback shows where.)')


if __name__ == '__main__':
    main()
