"""`iiot-dask check` for an MQTT section: connect, subscribe, and say in sentences what is wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from iiot_dask.adapter.contract import Context
from iiot_dask.core.errors import ConfigError

from .connect import settings
from .options import options
from .session import Session
from .topics import routes

POLL_S = 0.02


async def check(context: Context) -> list[str]:
    """Sentences on what is wrong, empty when all is well.

    The look is taken with a session of its own (clean, with an id that can not push a running adapter out), so it
    leaves nothing behind in the broker. It waits at most three times `timeout`.
    """
    config = context.config
    try:
        topics = routes(config.topics, config.name)
        chosen = settings(context, options(config.options, config.name), topics)
    except ConfigError as error:
        return [str(error)]
    trial = replace(chosen, clean=True, client_id=f"{chosen.client_id}-check", session_expiry_s=0)
    session = Session(trial, context.clock, np.random.default_rng(), lambda: None)
    session.start()
    try:
        return await _watch(session, config.name, config.endpoint or "", 3 * config.timeout / 1e9)
    finally:
        await asyncio.to_thread(session.close)


async def _watch(session: Session, name: str, endpoint: str, longest_s: float) -> list[str]:
    """Listen to the session until every subscription is answered, the connection fails, or time is up."""
    wrong: list[str] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + longest_s
    while loop.time() < deadline:
        done = session.answered  # before the notices, or one that came in between would be missed
        told = [notice for notice in session.notices() if notice.kind in ("disconnected", "rejected")]
        wrong += [f"adapter {name!r}: {endpoint}: {notice.reason}" for notice in told]
        if done or any(notice.kind == "disconnected" for notice in told):
            return wrong
        await asyncio.sleep(POLL_S)
    return wrong or [f"adapter {name!r}: {endpoint}: the broker did not answer within {longest_s:.1f} s"]
