"""Shared by the history tests: small limits that make every path run on few samples, and the naive oracle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iiot_dask.history import History, block, layout, merge, read, seal

sys.path.insert(0, str(Path(__file__).parent))  # for history_oracle


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4-8 samples, block rows of 16, groups of 32: what takes millions otherwise."""
    patch = monkeypatch
    patch.setattr(layout, "CHUNK_ROWS_MIN", 4)
    patch.setattr(layout, "CHUNK_ROWS_MAX", 8)
    patch.setattr(layout, "BLOCK_ROWS_MAX", 16)
    patch.setattr(layout, "FILE_ROWS_MAX", 64)
    patch.setattr(layout, "DAYS_MAX", 2)
    patch.setattr(block, "ROWS_A_DAY_MIN", 8)
    patch.setattr(block, "ROW_GROUP", {layout.BLOCK: 2, layout.CHUNK: 3, layout.ROLLUP: 2})
    patch.setattr(seal, "SLICE_ROWS", 8)
    patch.setattr(read, "GROUP_ROWS", 32)
    patch.setattr(merge, "FAN_IN", 3)
    patch.setattr(merge, "REWRITE_ROWS", 40)


@pytest.fixture
def history(tmp_path) -> Iterator[History]:
    with History(tmp_path / "history") as opened:
        yield opened
