"""What is remembered of a tag, so that its codecs are not searched for each chunk."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from iiot_dask.codec.numbers import Proposal
from iiot_dask.core.errors import ConfigError

EXAMINE_EVERY = 32
WORSE = 1.10


@dataclass(slots=True)
class Memory:
    """One choice, the bits a number it gave when it was made, and the chunks since then.

    Attributes
    ----------
    codec
        Integer codec id; 0 = the floats go to pcodec; -1 = nothing chosen yet.
    proposal
        Grid byte and parameter, for values.
    """

    codec: int = -1
    proposal: Proposal | None = None
    bits: float = 0.0
    uses: int = 0

    def usable(self) -> bool:
        """Whether the choice stands, or has to be examined again."""
        return self.codec >= 0 and self.uses < EXAMINE_EVERY

    def choose(self, codec: int, bits: float, proposal: Proposal | None = None) -> None:
        """Note a fresh choice and the bits a number it gave."""
        self.codec, self.proposal, self.bits, self.uses = codec, proposal, bits, 0

    def used(self, bits: float) -> bool:
        """Count a use; False when the blob grew so much that the choice should be examined at once."""
        self.uses += 1
        return bits <= self.bits * WORSE + 0.1

    def forget(self) -> None:
        """Have the next chunk examined."""
        self.codec = -1


@dataclass(slots=True)
class Remembered:
    """What was best for the last chunk of a tag: keep one a tag and hand it to each of its chunks in turn.

    A choice is examined again after 32 chunks, or at once when its blobs grow by more than a tenth.

    Examples
    --------
    >>> import numpy as np
    >>> from iiot_dask.codec import encode_values
    >>> kept = Remembered()
    >>> for part in np.split(np.round(np.random.default_rng(1).normal(20, 1, 4000), 1), 4):
    ...     _ = encode_values(part, tier="archive", remembered=kept)
    >>> kept.values.proposal, kept.values.uses
    ((17, 1.0), 3)
    """

    values: Memory = field(default_factory=Memory)
    lossy: Memory = field(default_factory=Memory)
    times: Memory = field(default_factory=Memory)


class Choices:
    """`Remembered` of up to `limit` tags; the one unused for longest is dropped, which costs a search and no bytes.

    Parameters
    ----------
    limit
        Tags remembered, at least 1; some 300 bytes each.

    Raises
    ------
    ConfigError
        If `limit` is below 1.

    Examples
    --------
    >>> choices = Choices(limit=2)
    >>> a = choices.of(1)
    >>> choices.of(1) is a, len(choices)
    (True, 1)
    """

    def __init__(self, limit: int = 100_000) -> None:
        if limit < 1:
            msg = f"limit of {limit} remembered tags; at least 1 is needed"
            raise ConfigError(msg)
        self.limit = limit
        self._kept: OrderedDict[int, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, tag: int) -> Remembered:
        """What is remembered of tag id `tag`; empty when it is new or was dropped."""
        found = self._kept.get(tag)
        if found is None:
            found = self._kept[tag] = Remembered()
            if len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(tag)
        return found
