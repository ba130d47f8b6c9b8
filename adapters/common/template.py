"""Tag templates: ``site1/{host}/{field}`` filled with the names a source gives, so that no two of them become one tag.

A value never opens a level of its own: ``/``, ``%`` and control characters are written as ``%2F``, ``%25``, ``%0A`` …,
and a level that would be ``.`` or ``..`` as ``%2E``, ``%2E.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from iiot_dask.core.errors import ConfigError, DataError

_HOLE = re.compile(r"\{([^{}]*)\}")
_RISKY = re.compile(r"[\x00-\x1f\x7f%/]")


def level(text: str) -> str:
    """Text as one level of a tag.

    Examples
    --------
    >>> level("/var"), level(".."), level("50%")
    ('%2Fvar', '%2E.', '50%25')
    """
    out = _RISKY.sub(lambda found: f"%{ord(found[0]):02X}", text)
    return f"%2E{out[1:]}" if out in (".", "..") else out


class Template:
    """A checked template.

    Parameters
    ----------
    text
        The template; ``{tags}`` stands for all names no other hole takes, as ``key=value`` levels by key.
    where
        What to call it in errors.
    fixed
        Holes that are always there.
    open_
        Whether other holes than `fixed` are allowed: they are taken from the source's own names.

    Raises
    ------
    ConfigError
        If a hole is empty or none of those allowed, or there is no hole at all.

    Examples
    --------
    >>> template = Template("plant/{tags}/{field}", "adapter 'x': options.tag", fixed=("field",))
    >>> template.fill({"field": "load"}, {"host": "a", "path": "/"}), template.fill({"field": "load"}, {})
    ('plant/host=a/path=%2F/load', 'plant/load')
    >>> Template("{host}/{field}", "x", fixed=("field",)).fill({"field": "load"}, {})
    Traceback (most recent call last):
    iiot_dask.core.errors.DataError: no 'host', which the tag template '{host}/{field}' needs
    """

    def __init__(self, text: str, where: str, *, fixed: tuple[str, ...], open_: bool = True) -> None:
        self.text = text
        holes = _HOLE.findall(text)
        allowed = (*fixed, *(("tags",) if open_ else ()))
        for hole in holes:
            if not hole or (not open_ and hole not in allowed):
                msg = f"{where} = {text!r}: {{{hole}}} is none of {', '.join(f'{{{name}}}' for name in allowed)}"
                raise ConfigError(msg)
        if not holes:
            msg = f"{where} = {text!r}: no {{…}} in it, so everything would be one tag"
            raise ConfigError(msg)
        self.holes = frozenset(holes)
        self._levels = text.split("/")

    def fill(self, fixed: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The tag of these names.

        Raises
        ------
        DataError
            If a name the template needs is not there.
        """
        out = []
        for part in self._levels:
            if part == "{tags}":
                out += [f"{level(k)}={level(v)}" for k, v in tags.items() if k not in self.holes]
            else:
                out.append(_HOLE.sub(lambda hole: self._one(hole[1], fixed, tags), part))
        return "/".join(out)

    def _one(self, hole: str, fixed: Mapping[str, str], tags: Mapping[str, str]) -> str:
        if hole == "tags":
            return ",".join(f"{level(k)}={level(v)}" for k, v in tags.items() if k not in self.holes)
        value = fixed.get(hole) or tags.get(hole)
        if not value:
            msg = f"no {hole!r}, which the tag template {self.text!r} needs"
            raise DataError(msg)
        return level(value)
