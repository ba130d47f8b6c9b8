"""Compression of samples: smaller than general formats, bit for bit or within a bound that is verified on write.

`encode` / `decode` take the samples of one tag as one blob, `compress` as one blob a column with a record of what was lost,
which `inspect` reads back; `encode_times`, `encode_values` and `encode_codes` take single columns, of one tag or (with
`starts`) of many tags behind each other. Every blob describes itself (`frame`): a version, a codec id, the count and a
checksum. One id is one byte format for ever.
"""

from iiot_dask.codec.choice import Choices, Remembered
from iiot_dask.codec.chunk import Compressed, compress, decode, decode_quality, encode, inspect
from iiot_dask.codec.codes import decode_codes, encode_codes
from iiot_dask.codec.parts import Reached
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.record import Record
from iiot_dask.codec.times import decode_times, encode_times, snap_times
from iiot_dask.codec.values import decode_values, encode_values, reached
from iiot_dask.codec.warm import warm

__all__ = [
    "Choices",
    "Compressed",
    "Precision",
    "Reached",
    "Record",
    "Remembered",
    "compress",
    "decode",
    "decode_codes",
    "decode_quality",
    "decode_times",
    "decode_values",
    "encode",
    "encode_codes",
    "encode_times",
    "encode_values",
    "inspect",
    "reached",
    "snap_times",
    "warm",
]
