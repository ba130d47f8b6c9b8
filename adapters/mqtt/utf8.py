"""Is it UTF-8? One compiled function, shared by the text formats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled


@compiled
def sequence(data: npt.NDArray[np.uint8], at: int, stop: int) -> int:
    """Length in bytes of the UTF-8 sequence whose first byte, 0x80 or above, is ``data[at]``; 0 = not legal.

    Source: The Unicode Standard, table 3-7 (well-formed byte sequences): no overlong forms, no surrogates, nothing
    above U+10FFFF.
    """
    first = data[at]
    if first < 0xC2 or first > 0xF4:
        return 0
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if at + size > stop:
        return 0
    second = data[at + 1]
    low = 0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80
    high = 0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF
    if second < low or second > high:
        return 0
    for k in range(2, size):
        if data[at + k] & 0xC0 != 0x80:
            return 0
    return size
