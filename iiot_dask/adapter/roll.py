"""``python -m iiot_dask.adapter.roll``: tries each installed adapter and prints a JSON line before and after each.

A process of its own, because importing a stranger's package may do anything: `call` reads the lines, and whoever was being
tried when the process ended (or went silent) is a row with an error; the others are tried by a fresh one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

from iiot_dask.core.registry import Plugin, Registry

GROUP = "iiot_dask.adapters"
PATIENCE_S = 60.0
VERBS = ("check", "read", "discover", "decode")


@dataclass(slots=True)
class Entry:
    """One installed adapter: where it is from, what it says of itself, or why it can not be used."""

    name: str
    target: str
    distribution: str
    version: str
    summary: str | None = None
    verbs: tuple[str, ...] = ()
    spec: dict[str, Any] | None = None
    error: str | None = field(default=None)


def call(names: list[str] | None = None, patience_s: float = PATIENCE_S) -> list[Entry]:
    """Every installed adapter, or those named, each imported in another process.

    Parameters
    ----------
    names
        Which; unknown ones are left out.
    patience_s
        Seconds an import may take.
    """
    entries = {name: entry for name, entry in _installed().items() if names is None or name in names}
    left = list(entries)
    while left:
        answers, tried, why = _tried(left, patience_s)
        for name, answer in answers.items():
            entry = entries[name]
            entry.summary, entry.error, entry.spec = answer["summary"], answer["error"], answer["spec"]
            entry.verbs = tuple(answer["verbs"])
        left = [name for name in left if name not in answers]
        if left:
            culprit = tried if tried in left else left[0]
            entries[culprit].error = f"adapter {culprit!r} ({entries[culprit].target}) does not import: {why}"
            left.remove(culprit)
    return list(entries.values())


def _installed() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    registry: Registry[Any] = Registry(GROUP, "adapter")
    for name, point in sorted(registry.points().items()):
        dist = point.dist
        found[name] = Entry(name, point.value, dist.name if dist else "?", dist.version if dist else "?")
    return found


def _tried(names: list[str], patience_s: float) -> tuple[dict[str, dict[str, Any]], str | None, str]:
    """Answers of one process; whom it was trying when it ended, and how it ended."""
    asked = subprocess.Popen(
        [sys.executable, "-P", "-m", "iiot_dask.adapter.roll", *names], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    answers: dict[str, dict[str, Any]] = {}
    tried: str | None = None
    late = threading.Event()

    def kill() -> None:
        late.set()
        asked.kill()

    with asked:
        assert asked.stdout is not None
        timer = threading.Timer(patience_s * len(names), kill)
        timer.start()
        try:
            for line in asked.stdout:
                said = json.loads(line)
                tried = said["name"]
                if "verbs" in said:
                    answers[said["name"]] = said
        except ValueError:
            asked.kill()
        finally:
            timer.cancel()
    if late.is_set():
        return answers, tried, f"it was not done after {patience_s:g} s"
    code = asked.wait()
    return answers, tried, f"it ended the process with {f'signal {-code}' if code < 0 else f'status {code}'}"


def spec(adapter: Any) -> dict[str, Any]:
    """The JSON schema of an adapter's section in the plant file, its own options in place.

    Examples
    --------
    >>> from iiot_dask.adapter.example import ExampleAdapter
    >>> schema = spec(ExampleAdapter)
    >>> schema["properties"]["kind"], sorted(schema["properties"]["options"]["properties"])
    ({'const': 'example', 'type': 'string'}, ['backoff_max', 'limits', 'tags_max'])
    """
    from iiot_dask.adapter.limits import KEY, Limits
    from iiot_dask.core.config import Adapter as AdapterConfig

    schema = AdapterConfig.model_json_schema()
    schema["title"] = f"[[adapters]] of kind {adapter.kind}"
    schema["properties"]["kind"] = {"const": adapter.kind, "type": "string"}
    model = getattr(adapter, "options_model", None)
    options: dict[str, Any] = {"type": "object"} if model is None else model.model_json_schema()
    limits = Limits.model_json_schema()
    schema.setdefault("$defs", {}).update(options.pop("$defs", {}) | limits.pop("$defs", {}))
    options.setdefault("properties", {})[KEY] = limits
    schema["properties"]["options"] = options
    return schema


def plugins() -> list[Plugin]:
    """As `Registry.plugins`, for those who want a row and an error only."""
    return [Plugin(e.name, e.target, e.distribution, e.version, e.error) for e in call()]


def _answer(name: str) -> dict[str, Any]:
    registry: Registry[Any] = Registry(GROUP, "adapter")
    answer: dict[str, Any] = {"name": name, "summary": None, "verbs": [], "spec": None, "error": None}
    try:
        adapter = registry.load(name)
        answer["summary"] = str(adapter.summary)
        answer["verbs"] = ["spec", *(verb for verb in VERBS if hasattr(adapter, verb))]
        answer["spec"] = spec(adapter)
        if adapter.kind != name:
            answer["error"] = f"adapter {name!r} says that its kind is {adapter.kind!r}"
    except Exception as error:  # noqa: BLE001 -- it is the answer
        answer["error"] = str(error) or type(error).__name__
    return answer


def main(names: list[str]) -> None:
    """Answer for each name; nothing but answers reaches the real stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in names:
        out.write(json.dumps({"name": name}) + "\n")
        out.flush()
        out.write(json.dumps(_answer(name)) + "\n")
        out.flush()
    # Whatever an import has started must not hold this process up.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
