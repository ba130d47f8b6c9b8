"""Logs of an adapter's process: JSON lines on stderr, structlog's and the standard library's alike, secrets blotted out."""

from __future__ import annotations

import logging
import sys
from typing import Any

SECRET_MIN = 4
"""A secret shorter than this many characters is not blotted out: it would blot out half of every line."""


class Blotter:
    """Replaces every secret it was told of.

    Examples
    --------
    >>> blotter = Blotter()
    >>> password = blotter.add("hunter2")
    >>> blotter("login of bob with hunter2 refused")
    'login of bob with *** refused'
    """

    def __init__(self) -> None:
        self._secrets: list[str] = []

    def add(self, secret: str) -> str:
        """Remember a secret; returns it."""
        if len(secret) >= SECRET_MIN and secret not in self._secrets:
            # Longest first, so that a secret that contains another leaves no rest.
            self._secrets = sorted([*self._secrets, secret], key=len, reverse=True)
        return secret

    def __call__(self, text: str) -> str:
        """The text with every secret replaced by ``***``."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def set_up(blotter: Blotter, level: int = logging.INFO) -> None:
    """Send structlog, `logging` and `warnings` of this process to stderr as JSON lines, UTC times."""
    import orjson
    import structlog

    def render(_logger: Any, _method: str, record: Any) -> str:
        return blotter(orjson.dumps(record, default=repr, option=orjson.OPT_NON_STR_KEYS).decode())

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
