"""Node ids as people write them: ``ns=2;s=Motor``, ``i=2258``, ``nsu=urn:plant;s=Motor``. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from iiot_dask.core.errors import ConfigError

_NODE = re.compile(r"(?:(?:ns=(?P<index>\d{1,5})|nsu=(?P<uri>[^;]+));)?(?P<kind>[isgb])=(?P<id>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NodeText:
    """A parsed node id. With `uri` the index is looked up at each connection: it may change when a server restarts."""

    uri: str | None
    index: int
    kind: str
    id: str

    @classmethod
    def parse(cls, text: str) -> NodeText:
        """Read a node id (OPC UA Part 6, 5.3.1.10).

        Raises
        ------
        ConfigError
            If it is none.

        Examples
        --------
        >>> NodeText.parse("nsu=urn:plant;s=Motor;1").resolve(["http://opcfoundation.org/UA/", "urn:plant"])
        'ns=1;s=Motor;1'
        >>> NodeText.parse("Motor")
        Traceback (most recent call last):
        iiot_dask.core.errors.ConfigError: node 'Motor' is no node id; 'ns=2;s=Name', 'nsu=urn:x;s=Name' or 'i=2258' are
        """
        found = _NODE.fullmatch(text.strip())
        if found is None or (found["kind"] == "i" and not found["id"].isdecimal()):
            msg = f"node {text!r} is no node id; 'ns=2;s=Name', 'nsu=urn:x;s=Name' or 'i=2258' are"
            raise ConfigError(msg)
        return cls(found["uri"], int(found["index"] or 0), found["kind"], found["id"])

    def resolve(self, namespaces: Sequence[str]) -> str | None:
        """The id with a namespace index, or None if the server does not know the namespace."""
        index = self.index
        if self.uri is not None:
            if self.uri not in namespaces:
                return None
            index = list(namespaces).index(self.uri)
        return f"ns={index};{self.kind}={self.id}"
