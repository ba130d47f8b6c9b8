from __future__ import annotations

import numpy as np
import pytest

from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.history import layout
from iiot_dask.history.merge import level_of


def test_a_name_says_what_the_file_is() -> None:
    content = memoryview(b"PAR1" + b"x" * 100 + (20).to_bytes(4, "little") + b"PAR1")
    name = layout.file_name("chunk", "s3-ab.c_d", 4, 77, content)
    found = layout.parse_name(f"{layout.folder('2026-01-02', 5)}/{name}")
    assert (found.kind, found.rows) == ("chunk", 77)
    assert found.footer == layout.footer_hash(content)
    assert found.hash == layout.file_hash(content)
    assert level_of(f"day=2026-01-02/shard=5/{name}") == 3


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", "-a", "x" * 121, "a\0", "ü"])
def test_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        layout.file_name("block", name, 0, 1, memoryview(b"\0\0\0\0\0\0\0\0PAR1"))


@pytest.mark.parametrize("path", ["x.parquet", "day=1/shard=0/block-a-1-2.parquet", "block-a-0-1-00-11.parquet"])
def test_a_strange_file_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="not named as this format"):
        layout.parse_name(path)


@pytest.mark.parametrize("tail", [b"", b"PAR1", b"\0\0\0\0PARX"])
def test_a_footer_cut_short_is_refused(tail: bytes) -> None:
    with pytest.raises(DataError, match="cut short"):
        layout.footer_length(memoryview(tail))


def test_the_row_check_sees_every_bit_of_every_column() -> None:
    rng = np.random.default_rng(1)
    head = {name: rng.integers(0, 2**60, 3) for name in layout._CHECKED}
    for name in layout._STATS:
        head[name] = rng.normal(size=3)
    before = layout.row_check(head)
    for name in layout._CHECKED:
        for bit in range(64):
            changed = {k: v.copy() for k, v in head.items()}
            changed[name].view(np.uint64)[1] ^= np.uint64(1) << np.uint64(bit)
            after = layout.row_check(changed)
            assert (after == before).tolist() == [True, False, True], (name, bit)
