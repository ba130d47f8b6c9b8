"""Reading a plant file: TOML, environment overrides, secrets by reference, and errors a person can act on."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from iiot_dask.core.config import PlantFile
from iiot_dask.core.errors import ConfigError

ENV_PREFIX = "IIOT__"
FILE_BYTES_MAX = 64 << 20
SECRET_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class LoadedPlant:
    """A validated plant file and where it came from."""

    path: Path
    config: PlantFile

    @property
    def data(self) -> Path:
        """Absolute data directory; a relative one is relative to the plant file."""
        return (self.path.parent / self.config.plant.data).resolve()


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> LoadedPlant:
    """Read and validate a plant file.

    Environment variables ``IIOT__SECTION__KEY`` (list items by index: ``IIOT__ADAPTERS__0__ENDPOINT``) override the
    file; their values are read as TOML where they parse as such, else as text.

    Raises
    ------
    ConfigError
        If the file is missing, no TOML, or holds an unknown key or a wrong value: file, key, value and what is allowed.
    """
    file = Path(path)
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            msg = f"{file}: {file.stat().st_size} bytes; a plant file has at most {FILE_BYTES_MAX}"
            raise ConfigError(msg)
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{file}: no such file; 'iiot-dask demo' writes an example as demo-data/plant.toml"
        raise ConfigError(msg) from None
    except OSError as error:
        msg = f"{file}: {error.strerror}"
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file}: not TOML: {error}"
        raise ConfigError(msg) from error
    override(raw, os.environ if environ is None else environ)
    return LoadedPlant(file.resolve(), parse(raw, str(file)))


def parse(raw: Mapping[str, Any], source: str) -> PlantFile:
    """Validate a plant file given as a mapping; `source` names it in errors.

    Raises
    ------
    ConfigError
        Listing every wrong key: where, its value, what is allowed.
    """
    try:
        return PlantFile.model_validate(raw)
    except ValidationError as error:
        problems = [_sentence(dict(item), raw) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems)) from error


def override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Lay ``IIOT__…`` variables over `raw`, in place.

    Raises
    ------
    ConfigError
        If a variable points into something that is no table or list, or past the end of a list.
    """
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        keys = name[len(ENV_PREFIX) :].lower().split("__")
        target: Any = raw
        for here, key in enumerate(keys):
            last = here == len(keys) - 1
            if isinstance(target, list):
                if not key.isdigit() or int(key) >= len(target):
                    msg = f"environment {name}: {key!r} is no index of a list of {len(target)}"
                    raise ConfigError(msg)
                if last:
                    target[int(key)] = _value(environ[name])
                else:
                    target = target[int(key)]
            elif isinstance(target, dict):
                if last:
                    target[key] = _value(environ[name])
                else:
                    target = target.setdefault(key, {})
            else:
                msg = f"environment {name}: {'.'.join(keys[:here])} is a value, not a table"
                raise ConfigError(msg)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def secret(reference: str, base: Path, environ: Mapping[str, str] | None = None) -> str:
    """Resolve ``env:NAME`` or ``file:PATH`` (relative to `base`) to the secret; trailing newlines are dropped.

    Raises
    ------
    ConfigError
        If the variable is not set or the file can not be read. The secret itself is never in the text.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        found = (os.environ if environ is None else environ).get(rest)
        if found is None:
            msg = f"secret {reference!r}: environment variable {rest} is not set"
            raise ConfigError(msg)
        return found
    if scheme != "file":
        msg = f"secret reference starts with {scheme[:8]!r}; 'env:NAME' or 'file:PATH' are allowed"
        raise ConfigError(msg)
    path = base / rest
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(SECRET_BYTES_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"secret {reference!r}: {path} can not be read ({error})"
        raise ConfigError(msg) from error


def json_schema() -> str:
    """The published JSON schema of a plant file (what `iiot_dask/plant.schema.json` holds)."""
    return json.dumps(PlantFile.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _sentence(item: dict[str, Any], raw: Mapping[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    where = _where(item["loc"], raw)
    if item["type"] == "extra_forbidden":
        allowed = sorted(_fields(item["loc"][:-1]))
        near = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: unknown key {location[-1]!r}; allowed: {', '.join(allowed)}{hint}"
    if item["type"] == "missing":
        return f"{where}: is required"
    value = _written(item["loc"], raw, item.get("input"))
    text = item["msg"].removeprefix("Value error, ")
    if location and location[-1] in ("password", "private_key"):
        return f"{where}: {text} (a secret is given as 'env:NAME' or 'file:PATH')"
    shown = repr(value)
    if isinstance(value, (dict, list, tuple)):
        return f"{where}: {text}"
    return f"{where} = {shown[:120]}: {text}"


def _written(location: tuple[Any, ...], raw: Mapping[str, Any], parsed: Any) -> Any:
    """What the file says at a place; `parsed` (a span already turned into ns, say) if the place is not in the file."""
    here: Any = raw
    for part in location:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            return parsed
    return here


def _where(location: tuple[Any, ...], raw: Mapping[str, Any]) -> str:
    """``adapters[0] 'press-line' .tags[3] 'a/b' .scan``: the path, with names where items have them."""
    out = ""
    here: Any = raw
    for part in location:
        if isinstance(part, int):
            out += f"[{part}]"
            here = here[part] if isinstance(here, (list, tuple)) and part < len(here) else None
            label = here.get("name") or here.get("tag") or here.get("filter") if isinstance(here, dict) else None
            out += f" {label!r} " if isinstance(label, str) else ""
        else:
            out += f".{part}" if out else str(part)
            here = here.get(part) if isinstance(here, dict) else None
    return out or "the file"


def _fields(location: tuple[Any, ...]) -> list[str]:
    """Keys allowed at a place in the file, found by walking the models."""
    model: type[BaseModel] = PlantFile
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        found = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), None)
        if found is None:
            return []
        model = found
    return list(model.model_fields)


if __name__ == "__main__":
    print(json_schema(), end="")  # noqa: T201 -- run as a script to publish the schema
