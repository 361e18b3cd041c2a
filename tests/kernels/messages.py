"""What the devices of a mesh send each other."""

import math
import re


def received(text: str) -> int:
    """Returns how many numbers one device receives from the collectives of a lowered program."""
    words = 'all_gather|all_reduce|all_to_all|collective_permute|reduce_scatter'
    sizes = re.findall(rf'stablehlo\.(?:{words})".*?-> tensor<([\dx]*)x\w+>', text, re.DOTALL)
    return sum(math.prod(map(int, size.split('x'))) for size in sizes)
