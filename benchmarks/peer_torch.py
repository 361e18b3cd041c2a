"""Functions to time for an op of PyTorch; see benchmarks/peer.py. Needs torch."""

from collections.abc import Callable, Sequence

import torch


def calls(op: Callable[..., torch.Tensor], arrays: Sequence[torch.Tensor]) -> dict[str, Callable[[], object]]:
    """Returns the functions to time, by kind; the one with gradients computes the output too."""
    arrays = [x.requires_grad_() for x in arrays]
    cotangent = torch.randn_like(op(*arrays).detach())

    def forward() -> None:
        with torch.inference_mode():
            op(*arrays)

    return {'forward': forward, 'forward and gradients': lambda: torch.autograd.grad(op(*arrays), arrays, cotangent)}
