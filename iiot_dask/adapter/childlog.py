"""Logs of an adapter's process: JSON lines on stderr, structlog's and the standard library's alike, secrets blotted out."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

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


class JsonLines(logging.Formatter):
    """`logging` records as JSON lines with structlog's keys: event, level, logger, timestamp and, if any, exception."""

    def __init__(self, blotter: Blotter) -> None:
        super().__init__()
        self._blotter = blotter

    def format(self, record: logging.LogRecord) -> str:
        """One record, one line."""
        line = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return render(line, self._blotter)


def render(line: Any, blotter: Blotter) -> str:
    """A record as JSON without secrets; what JSON does not know is shown by its repr."""
    return blotter(orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode("utf-8", "replace"))


def set_up(blotter: Blotter, level: int = logging.INFO) -> None:
    """Send `logging` and `warnings` of this process to stderr as JSON lines, UTC times."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(blotter))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def set_up_structlog(blotter: Blotter, level: int = logging.INFO) -> None:
    """Send structlog the same way, if the adapter has imported it: importing it here would double a child's start-up."""
    if "structlog" not in sys.modules:
        return
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            lambda _logger, _method, line: render(line, blotter),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
