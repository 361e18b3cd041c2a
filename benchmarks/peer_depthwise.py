"""PyTorch's side of `benchmarks.kernels cpu --ops=depthwise`: depthwise convolutions by oneDNN, on one thread.

    python -m benchmarks.peer_depthwise depthwise:B,H,W,C,I,J
    python -m benchmarks.peer_depthwise inception:B,H,W,C,N
    python -m benchmarks.peer_depthwise causal:B,T,D,K

Images have channels last, the faster of PyTorch's two layouts here; sequences are B D T, as in the layers that use
them. Needs torch only. No code was taken from others.
"""

import sys
from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.peer import serve
from benchmarks.peer_torch import calls


def depthwise(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """The depthwise convolution with zero padding that keeps the size."""
    padding = [side // 2 for side in kernel.shape[2:]]
    return F.conv2d(x, kernel, padding=padding, groups=len(kernel))


def inception(x: torch.Tensor, *kernels: torch.Tensor) -> torch.Tensor:
    """InceptionNeXt's mixer as in the published code: split, convolve, concatenate."""
    part = len(kernels[0])
    whole, *parts = torch.split(x, [x.shape[1] - 3 * part] + [part] * 3, dim=1)
    return torch.cat([whole, *map(depthwise, parts, kernels)], dim=1)


def causal(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """The causal convolution, with zeros before the sequence."""
    return F.conv1d(x, kernel, padding=kernel.shape[2] - 1, groups=len(kernel))[..., : x.shape[2]]


def inputs(kind: str, shape: list[int]) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """Returns the function and random inputs for it."""
    if kind == 'causal':
        batch, tokens, channels, taps = shape
        return causal, [torch.randn(batch, channels, tokens), torch.randn(channels, 1, taps)]
    batch, height, width, channels, *rest = shape
    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    if kind == 'depthwise':
        return depthwise, [x, torch.randn(channels, 1, *rest)]
    return inception, [x, *(torch.randn(rest[0], 1, *sides) for sides in ((3, 3), (1, 11), (11, 1)))]


def main(case: str) -> None:
    torch.set_num_threads(1)
    kind, shape = case.split(':')
    op, arrays = inputs(kind, list(map(int, shape.split(','))))
    serve(torch.__version__, calls(op, arrays))


if __name__ == '__main__':
    main(*sys.argv[1:])
