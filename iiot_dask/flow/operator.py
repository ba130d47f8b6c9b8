"""What an operator of a pipeline is, and how its state is kept."""

from __future__ import annotations

import io
import json
import zipfile
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.errors import SchemaError
from iiot_dask.flow.marks import Marks
from iiot_dask.flow.names import Names

State = dict[str, Any]
"""Arrays (NumPy), frames (Polars) and numbers by name; everything an operator remembers."""


class Operator(ABC):
    """One step of a pipeline: a pure function of (state, rows in order, watermarks).

    Rows come by (id, time), strictly increasing in time within a tag, each tag complete up to its watermark. The contract
    that makes stream equal batch: whatever way the same rows are cut into calls, the rows given out are the same.
    """

    keyed: ClassVar[bool] = True
    """Tags do not see each other: the operator may run on any share of the tags."""
    endless: ClassVar[bool] = False
    """Results depend on all rows before them (a running total), so a correction reaches to the end."""

    @property
    @abstractmethod
    def label(self) -> str:
        """How it reads in the graph, `rate per 1s`."""

    @property
    def span_ns(self) -> int:
        """How far from a row, in ns, results can change by it; what a correction must compute anew."""
        return 0

    def start(self) -> State:
        """The state before the first row."""
        return {}

    @abstractmethod
    def step(self, state: State, frame: pl.DataFrame, marks: Marks, names: Names) -> tuple[pl.DataFrame, Marks]:
        """Rows out, and how far they are complete; `state` changes in place."""


def column(frame: pl.DataFrame, name: str, label: str) -> npt.NDArray[np.float64]:
    """A numeric column as float64 (null = NaN).

    Raises
    ------
    SchemaError
        If it is not there, naming those that are.
    """
    if name not in frame.columns:
        msg = f"{label}: there is no column {name!r}; there are {', '.join(frame.columns)}"
        raise SchemaError(msg)
    return frame.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy()


def room(state: State, name: str, size: int, dtype: np.dtype[Any], fill: dict[str, Any]) -> npt.NDArray[np.void]:
    """The struct array `state[name]` with at least `size` entries; new ones hold `fill` by field, else zero."""
    have: npt.NDArray[np.void] = state.get(name, np.empty(0, dtype))
    if size > len(have):
        grown = np.zeros(max(size, 2 * len(have), 16), dtype)
        for key, value in fill.items():
            grown[key] = value
        grown[: len(have)] = have
        state[name] = have = grown
    return have


def pack(states: list[State]) -> bytes:
    """The states of a pipeline's operators as bytes; no pickle."""
    sink = io.BytesIO()
    numbers: dict[str, Any] = {}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for i, state in enumerate(states):
            for name, value in state.items():
                key = f"{i}/{name}"
                part = io.BytesIO()
                if isinstance(value, pl.DataFrame):
                    value.write_ipc(part)
                    archive.writestr(f"{key}.arrow", part.getvalue())
                elif isinstance(value, np.ndarray):
                    np.save(part, value, allow_pickle=False)
                    archive.writestr(f"{key}.npy", part.getvalue())
                else:
                    numbers[key] = value
        archive.writestr("numbers.json", json.dumps({"operators": len(states), "numbers": numbers}))
    return sink.getvalue()


def unpack(data: bytes) -> list[State]:
    """What `pack` wrote."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        head = json.loads(archive.read("numbers.json"))
        states: list[State] = [{} for _ in range(head["operators"])]
        for key, value in head["numbers"].items():
            i, name = key.split("/", 1)
            states[int(i)][name] = value
        for entry in archive.namelist():
            if entry == "numbers.json":
                continue
            i, file = entry.split("/", 1)
            name, _, kind = file.rpartition(".")
            part = io.BytesIO(archive.read(entry))
            states[int(i)][name] = pl.read_ipc(part) if kind == "arrow" else np.load(part)
    return states
