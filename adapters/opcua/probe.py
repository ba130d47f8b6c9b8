"""What `check` does: connect, look at each node, say what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.errors import ConfigError

from .nodes import NodeText
from .session import CallFailedError, Session, SessionLostError


async def probe(
    session: Session, infos: Sequence[TagInfo], nodes: Sequence[NodeText], roots: Sequence[tuple[NodeText, str]]
) -> list[str]:
    """Sentences on what is wrong, empty when every tag has a number and every root can be browsed."""
    found: list[str] = []
    try:
        await session.connect()
        known: list[tuple[TagInfo, str]] = []
        for info, text in zip(infos, nodes, strict=True):
            node = text.resolve(session.namespaces)
            if node is None:
                found.append(f"tag {info.tag!r} ({info.address}): the server has no namespace {text.uri!r}.")
            else:
                known.append((info, node))
        for (info, _), wrong in zip(known, await session.faults([node for _, node in known]), strict=True):
            if wrong is not None:
                found.append(f"tag {info.tag!r} ({info.address}): {wrong}.")
        for text, shown in roots:
            wrong = await _root(session, text)
            if wrong is not None:
                found.append(f"browse {shown!r}: {wrong}.")
    except (SessionLostError, CallFailedError, ConfigError) as error:
        found.append(f"{error}.")
    finally:
        await session.close()
    return found


async def _root(session: Session, text: NodeText) -> str | None:
    node = text.resolve(session.namespaces)
    if node is None:
        return f"the server has no namespace {text.uri!r}"
    try:
        await session.name(node)
        (below,) = await session.children([node])
    except CallFailedError as error:
        return str(error)
    return None if below else "there is nothing below this node"
