"""What `check` does: reach the endpoint, read each tag once, say what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.quality import Quality, from_modbus

from .lane import ILLEGAL
from .plan import Block, Limits, merge, split
from .registers import Point
from .session import LostError, MalformedError, NoAnswerError, Session


async def probe(session: Session, infos: Sequence[TagInfo], points: Sequence[Point], limits: Limits) -> list[str]:
    """Sentences on what is wrong, empty when every tag gives a number. A unit that is silent is named once."""
    try:
        await session.connect()
    except LostError as error:
        return [f"{error}."]
    found: list[str] = []
    silent: set[int] = set()
    todo = list(reversed(merge(points, limits)))
    try:
        while todo:
            block = todo.pop()
            if block.unit not in silent:
                todo.extend(await _probe(session, infos, block, found, silent))
    finally:
        session.close()
    return found


async def _probe(
    session: Session, infos: Sequence[TagInfo], block: Block, found: list[str], silent: set[int]
) -> tuple[Block, ...]:
    """Read one block; the blocks to read instead if it was refused."""
    try:
        if not session.connected:
            await session.connect()
        reply = await session.read(block.unit, block.table, block.start, block.count)
    except (NoAnswerError, LostError, MalformedError) as error:
        silent.add(block.unit)
        found.append(f"{error}.")
        return ()
    names = [infos[point.tag].tag for point in block.points]
    if reply.exception in ILLEGAL and len(block.points) > 1:
        return split(block)[::-1]
    if reply.exception:
        what = from_modbus(reply.exception).name.removeprefix("BAD_").lower().replace("_", " ")
        where = f"{block.table}:{block.start} of unit {block.unit}"
        found.append(f"{_shown(names)}: {where} answers exception {reply.exception} ({what}).")
        return ()
    _, quality = block.decode(reply.data)
    for number, code in zip(block.tags.tolist(), quality.tolist(), strict=True):
        if code >= Quality.BAD:
            found.append(
                f"tag {infos[number].tag!r} ({infos[number].address}) holds no usable number: {Quality(code).name}."
            )
    return ()


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tag{'s' if len(names) > 1 else ''} {', '.join(map(repr, names[:3]))}{more}"
