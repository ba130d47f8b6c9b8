"""Slow, obvious twins of the codec kernels, written from the format descriptions, not from the kernels."""

import math
import struct

MASK = (1 << 64) - 1


def signed(value: int) -> int:
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


class BitReader:
    """A bit stream as one big Python integer."""

    def __init__(self, data: bytes) -> None:
        self.number = int.from_bytes(data, "little")

    def take(self, width: int) -> int:
        out = self.number & ((1 << width) - 1)
        self.number >>= width
        return out


def _block(meta: bytes, at: int, bits: BitReader, count: int) -> tuple[list[int], int]:
    width, at = meta[at], at + 1
    if width < 0x80:
        base, at = varint(meta, at)
        return [unzigzag(base) + bits.take(width) for _ in range(count)], at
    width -= 0x80
    patches, at = varint(meta, at)
    low = [bits.take(width) for _ in range(count)]
    for _ in range(patches):
        where = meta[at]
        high, at = varint(meta, at + 1)
        low[where] += high << width
    return [unzigzag(z) for z in low], at


def unpack(payload: bytes, n: int, block: int = 256) -> list[int]:
    """Naive `Packed.decode`."""
    end, at = varint(payload, 0)
    meta, bits = payload[at : at + end], BitReader(payload[at + end :])
    out: list[int] = []
    at = head = 0
    while len(out) < n:
        more, at = varint(meta, at)
        step, at = varint(meta, at)
        head += unzigzag(step)
        j = []
        if more:
            flags, at = meta[at], at + 1
            order, equal = flags & 0x0F, flags & 0x10
            unit, at = varint(meta, at)
            first = 0
            if order >= 2:
                first, at = varint(meta, at)
                first = unzigzag(first)
            rest = more - 1 if order == 2 else more
            residuals: list[int] = []
            if equal and rest:
                value, at = varint(meta, at)
                residuals = [unzigzag(value)] * rest
            while len(residuals) < rest:
                some, at = _block(meta, at, bits, min(block, rest - len(residuals)))
                residuals += some
            j = _undo(residuals, order, first)
            j = [v * unit for v in j]
        out += [signed(head + v) for v in [0, *j]]
    return out


def _undo(residuals: list[int], order: int, first: int) -> list[int]:
    if order == 0:
        return residuals
    if order == 3:
        return [r + first * (i + 1) for i, r in enumerate(residuals)]
    out: list[int] = []
    if order == 1:
        for r in residuals:
            out.append((out[-1] if out else 0) + r)
        return out
    out, step = [first], first
    for r in residuals:
        step += r
        out.append(out[-1] + step)
    return out


def is_decimal(x: float, d: int) -> bool:
    """Is the float what Python reads from a text of d decimals? (repr and float() are correctly rounded.)"""
    if not math.isfinite(x) or abs(x) * 10**d >= 2**53:
        return False
    back = float(f"{x:.{d}f}")
    return struct.pack("d", back) == struct.pack("d", x)


def snap(times: list[int], grid: int) -> list[int]:
    """Naive `snap_times`: nearest multiple, ties up, unless distinct times would meet there."""
    near = [(t + grid // 2) // grid * grid for t in times]
    members: dict[int, set[int]] = {}
    for t, g in zip(times, near, strict=True):
        members.setdefault(g, set()).add(t)
    return [t if len(members[g]) > 1 else g for t, g in zip(times, near, strict=True)]
