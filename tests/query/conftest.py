"""Shared by the query tests: one history of each shape, and groups so small that few samples take every path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from iiot_dask.history import History, layout, read

sys.path.insert(0, str(Path(__file__).parent))  # for query_shapes

from query_shapes import SHAPES, build


@pytest.fixture(scope="session", params=SHAPES)
def shaped(request, tmp_path_factory) -> History:
    """Small chunks and groups, so that few samples take every path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_ROWS_MIN", 8)
        patch.setattr(layout, "CHUNK_ROWS_MAX", 32)
        return build(tmp_path_factory.mktemp(request.param) / "history", request.param)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch) -> None:
    monkeypatch.setattr(read, "GROUP_ROWS", 400)
