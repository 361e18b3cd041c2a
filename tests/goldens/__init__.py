"""Goldens: what published implementations compute, kept as numbers, and the comparison with ours.

A network's golden records a reference whose parameters and input are filled from a hash of their names: the shapes it
has, its output, and the gradient of ``sum(output * cotangent)`` at its input. A function's golden records its outputs
and gradients for inputs that are drawn from a hash of their names. There are no weights in either. Ours, filled
the same way through the family's name map, has to agree. table.py says what of ours each golden is of; the files are
gzip-compressed JSON (``gzip -9n``), those of functions in functions/.

    python -m tests.goldens vig_tiny swav_loss                                   # by name: rows of the table
    python -m tests.goldens vig_small.json --build '{"name": "vig_small"}'       # a file, and what of ours it is of
    python -m tests.goldens mine.json --build '{"fn": "modelzoo:backbone", "variant": "pvt_v2_b1"}'
    python -m tests.goldens layer.json --build '{"fn": "modelzoo.sequence.gla:GatedLinearAttention", "heads": 2}'
    python -m tests.goldens loss.json --build '{"fn": "methods.ssl.simclr:nt_xent", "arguments": {"one": "z1"}}'
    python -m tests.goldens mine.json --like hyper_connections_vit               # a file, by the row of another golden

The input of a language model is words, which have no gradient; layers alone are compared as networks are.
"""

from tests.goldens.filling import FOLDER, FUNCTIONS, draw, fill, read
from tests.goldens.networks import GRADIENT_BAR, OUTPUT_BAR, QUICK, Network, Report, compare, network

__all__ = [
    'FOLDER',
    'FUNCTIONS',
    'GRADIENT_BAR',
    'OUTPUT_BAR',
    'QUICK',
    'Network',
    'Report',
    'compare',
    'draw',
    'fill',
    'network',
    'read',
]
