"""Checkpoint files: the shards' states that belong to one committed offset. Bytes in, bytes out; no pickle.

Layout: ``IDCK``, version (1 byte), application id (length byte + ASCII), offset int64, number of shards uint32, for each the
length uint64 and the bytes, then the SHA-256 of all before. Little endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from iiot_dask.core.errors import ChecksumError, VersionError

MAGIC, VERSION = b"IDCK", 1


def dump(app_id: str, offset: int, states: Sequence[bytes]) -> bytes:
    """The bytes of a checkpoint.

    Examples
    --------
    >>> load(dump("j1", 7, [b"a", b""]))
    ('j1', 7, [b'a', b''])
    """
    name = app_id.encode("ascii")
    parts = [MAGIC, bytes([VERSION, len(name)]), name, struct.pack("<qI", offset, len(states))]
    for state in states:
        parts += [struct.pack("<Q", len(state)), state]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join((*parts, digest.digest()))


def load(content: bytes) -> tuple[str, int, list[bytes]]:
    """Application id, offset and states of a checkpoint.

    Raises
    ------
    ChecksumError
        If the bytes are no checkpoint or were changed.
    VersionError
        If they are of a newer version.
    """
    body, digest = content[:-32], content[-32:]
    if not body.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        msg = f"{len(content)} bytes are no checkpoint, or a damaged one"
        raise ChecksumError(msg)
    if body[4] > VERSION:
        msg = f"checkpoint of version {body[4]}; this program reads up to {VERSION}"
        raise VersionError(msg)
    at = 6 + body[5]
    offset, shards = struct.unpack_from("<qI", body, at)
    app_id = body[6:at].decode("ascii")
    at += 12
    states = []
    for _ in range(shards):
        (length,) = struct.unpack_from("<Q", body, at)
        states.append(body[at + 8 : at + 8 + length])
        at += 8 + length
    return app_id, int(offset), states
