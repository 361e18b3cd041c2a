"""Names of earlier versions, and what they are called now: configs and command lines of then stay valid.

Import paths are in short form, as in configs, 'modelzoo.heads:Linear'.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from longview.names import full

# Module -> where its contents are.
_LAYERS = {
    'mixer': 'layers.mixers.mixer',
    'mamba': 'layers.mixers.mamba',
    'hyena': 'layers.mixers.hyena',
    'diagonal_ssm': 'layers.mixers.diagonal_ssm',
    'long_filter': 'layers.mixers.long_filter',
    'causal_attention': 'layers.mixers.causal_attention',
    'residual': 'layers.residuals.residual',
    'rezero': 'layers.residuals.rezero',
    'layer_scale': 'layers.residuals.layer_scale',
    'hyper_connections': 'layers.residuals.hyper_connections',
    'frac_connections': 'layers.residuals.frac_connections',
    'laurel': 'layers.residuals.laurel',
    'orthogonal': 'layers.residuals.orthogonal',
    'value_residual': 'layers.residuals.value_residual',
    'norm': 'layers.norms.norm',
    'batchnorm': 'layers.norms.batchnorm',
    'evonorm': 'layers.norms.evonorm',
    'weight_standardization': 'layers.norms.weight_standardization',
    'conv': 'layers.convolutions.conv',
    'conv_norm': 'layers.convolutions.conv_norm',
    'strided_depthwise': 'layers.convolutions.strided_depthwise',
    'squeeze_excite': 'layers.convolutions.squeeze_excite',
    'attention': 'layers.attention.attention',
    'window': 'layers.attention.window',
    'posemb': 'layers.attention.posemb',
    'trunk': 'layers.frame.trunk',
    'pyramid': 'layers.frame.pyramid',
    'block': 'layers.frame.block',
    'meta_next': 'layers.frame.meta_next',
    'drop': 'layers.frame.drop',
    'patch': 'layers.frame.patch',
    'pool': 'layers.frame.pool',
    'dense': 'layers.frame.dense',
    'mlp': 'layers.frame.mlp',
    'init': 'layers.frame.init',
    'variants': 'layers.frame.variants',
    'base_conv': 'sequence.zoology.base_conv',
    'based': 'sequence.zoology.based',
    'h3': 'sequence.zoology.h3',
    'rwkv4': 'sequence.zoology.rwkv4',
    'fixup': 'layers.residuals.fixup',
    'embedding': 'sequence.trunk',
    'reduced_attention': 'vision.pvt',
    'spectrum': 'vision.hornet',
}
MODULES = {f'modelzoo.layers.{before}': f'modelzoo.{now}' for before, now in _LAYERS.items()}
MODULES['methods.contrast.towers'] = 'modelzoo.heads.towers'

# A function or class -> its name now.
OBJECTS = {'modelzoo.heads:Words': 'modelzoo.heads:LanguageHead'}

# A family's function that changed a variant's fields -> the variant it took by default; now it is `BACKBONE`.
BACKBONE = 'modelzoo:backbone'
VARIANTS = {
    'modelzoo.vision.vcmamba:vcmamba': 'vcmamba_s',
    'modelzoo.vision.convit:convit': 'convit_tiny',
    'modelzoo.vision.res2net:res2net': 'res2net50_26w_4s',
    'modelzoo.vision.skipnet:skipnet': 'skipnet_ffgate1_38',
    'modelzoo.vision.hornet:hornet': 'hornet_tiny_7x7',
    'modelzoo.vision.inceptionnext:inceptionnext': 'inceptionnext_tiny',
    'modelzoo.vision.cvt:cvt': 'cvt_13',
    'modelzoo.vision.moat:moat': 'moat_0',
    'modelzoo.vision.pvt:pvt': 'pvt_v1_tiny',
    'modelzoo.vision.pvt:pvt_v2': 'pvt_v2_b0',
    'modelzoo.vision.mlp_mixer:mlp_mixer': 'mixer_s16_224',
    'modelzoo.vision.unireplknet:unireplknet': 'unireplknet_t',
    'modelzoo.vision.fixup_resnet:fixup_resnet': 'fixup_resnet110',
    'modelzoo.vision.convnext:convnext': 'convnext_tiny',
    'modelzoo.vision.swin_v2:swin_v2': 'swinv2_tiny_window8_256',
    'modelzoo.vision.resnet:resnet': 'resnet50',
    'modelzoo.vision.resnet:wide_resnet': 'wrn_28_10_cifar',
    'modelzoo.vision.vig:vig': 'vig_tiny',
    'modelzoo.vision.vig:vig_h': 'vig_h_tiny',
    'modelzoo.sequence.sgconv:sgconv': 'sgconv_example',
    'modelzoo.sequence.s4d:s4d': 's4d_example',
    'modelzoo.sequence.hyena:hyena': 'hyena_153m',
    'modelzoo.sequence.long_conv:long_conv': 'long_conv_example',
    'modelzoo.sequence.gla:gla': 'gla_340m',
}

# A file of configs/ -> the file its presets are in now, and what their names begin with. The first preset of each was
# `imagenet`.
CONFIGS = {
    'vig_t': ('vig_s', 't_'),
    'vig_b': ('vig_s', 'b_'),
    'vig_h_t': ('vig_s', 'h_t_'),
    'vig_h_s': ('vig_s', 'h_s_'),
    'vig_h_b': ('vig_s', 'h_b_'),
}


def config_file(path: str) -> str:
    """Returns where the preset of a ``--config FILE:PRESET`` is now.

    >>> config_file('configs/vig_h_t.py:digits'), config_file('configs/vig_h_t.py')
    ('configs/vig_s.py:h_t_digits', 'configs/vig_s.py:h_t_imagenet')
    """
    name, _, preset = path.partition(':')
    file = pathlib.Path(name)
    if file.parent.name != 'configs' or file.suffix != '.py' or file.stem not in CONFIGS:
        return path
    now, begin = CONFIGS[file.stem]
    return f'{file.with_name(now + ".py")}:{begin}{preset or "imagenet"}'


def current(spec: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name now of the import path `spec`, in short form, and the arguments as they are now called.

    The functions in `VARIANTS` had a default variant, and left a field as it was where None was given.
    """
    short = spec.removeprefix('longview.')
    if full(short) == short:  # not ours
        return spec, dict(arguments)
    module, _, name = short.partition(':')
    short = f'{MODULES.get(module, module)}:{name}' if name else short
    if short in VARIANTS:
        given = {field: value for field, value in arguments.items() if value is not None}
        return BACKBONE, {'variant': VARIANTS[short], **given}
    return OBJECTS.get(short, short), dict(arguments)


def renamed(config: Any) -> Any:
    """Returns a config, a tree of plain data, in which everything has the name it has now."""
    if isinstance(config, Mapping):
        node = {key: renamed(value) for key, value in config.items()}
        kind = next((kind for kind in ('fn', 'partial') if isinstance(node.get(kind), str)), None)
        if kind is not None:
            spec, arguments = current(node.pop(kind), node)
            node = {kind: spec, **arguments}
        return node
    if isinstance(config, (list, tuple)):
        return [renamed(item) for item in config]
    return config
