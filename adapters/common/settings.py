"""Validating the `options` table of an adapter against its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from iiot_dask.core.config import Model
from iiot_dask.core.errors import ConfigError

M = TypeVar("M", bound=Model)


def validated(model: type[M], given: Mapping[str, Any], adapter: str) -> M:
    """The options of an adapter.

    Raises
    ------
    ConfigError
        Naming adapter, key, value and what is allowed.

    Examples
    --------
    >>> class Speed(Model):
    ...     speed: float = 1.0
    >>> validated(Speed, {"speed": 2}, "x").speed
    2.0
    >>> validated(Speed, {"sped": 2}, "x")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: adapter 'x': options.sped = 2: Extra inputs are not permitted; allowed: speed
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        allowed = f"; allowed: {', '.join(model.model_fields)}"
        lines = [
            f"adapter {adapter!r}: options.{'.'.join(map(str, e['loc']))} = {e.get('input')!r}: {e['msg']}"
            + (allowed if e["type"] == "extra_forbidden" else "")
            for e in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from error
