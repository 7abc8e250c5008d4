"""What the FP8 tests share: the distance measure of the FP8 ladder, and E4M3 written down independently."""

import torch
from torch import Tensor


def calc_diff(given: Tensor, wanted: Tensor) -> float:
    """1 - 2 x.y / (x.x + y.y), DeepGEMM's measure: about half the squared relative L2 error."""
    x, y = given.double().flatten(), wanted.double().flatten()
    return float(1 - 2 * (x @ y) / (x @ x + y @ y))


def e4m3_numbers() -> Tensor:
    """Every finite E4M3 number, FP64, ascending: 4 bits of exponent with bias 7, 3 of mantissa, no infinities."""
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)]
    small = [m / 8 * 2.0**-6 for m in range(8)]
    positive = torch.tensor(small + normal, dtype=torch.float64)
    return torch.cat([-positive.flip(0)[:-1], positive])


def nearest_e4m3(x: Tensor) -> Tensor:
    """x [n] FP64 -> the nearest E4M3 number, ties to the one with an even mantissa, saturating."""
    table = e4m3_numbers()
    above = torch.searchsorted(table, x).clamp(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    even_high = (above - len(table) // 2) % 2 == 0
    up = (high - x < x - low) | ((high - x == x - low) & even_high)
    return torch.where(up, high, low)
