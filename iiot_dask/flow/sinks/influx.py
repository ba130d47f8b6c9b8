"""InfluxDB line protocol by HTTP: InfluxDB 1 and 2, VictoriaMetrics, QuestDB, and our own `line` adapter.

A point is identified there by measurement, tags and time, so a row that is sent twice is stored once.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from iiot_dask.flow.sinks.base import AwayError, RefusedError, Sink


def lines(rows: pl.DataFrame, measurement: str) -> bytes:
    r"""Rows as line protocol: the tag as tag ``tag``, every numeric or boolean column as a field, time in ns.

    Null and NaN fields are left out, rows without a field too.

    Examples
    --------
    >>> frame = pl.DataFrame({"tag": ["a b"], "time": [1], "mean": [2.5], "n": [3]})
    >>> lines(frame.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC"))), "plant")
    b'plant,tag=a\\ b mean=2.5,n=3i 1\n'
    """
    fields = [c for c, t in rows.schema.items() if c not in ("tag", "time") and (t.is_numeric() or t == pl.Boolean)]
    texts = []
    for name in fields:
        kind = rows.schema[name]
        value = pl.col(name)
        text: pl.Expr
        if kind.is_float():
            text = pl.when(value.is_finite()).then(value.cast(pl.String))
        elif kind == pl.Boolean:
            text = value.cast(pl.String)
        else:
            text = value.cast(pl.String) + "i"
        texts.append(pl.lit(f"{_key(name)}=") + text)
    if not texts or rows.is_empty():
        return b""
    tag = pl.col("tag").str.replace_all("\\", "\\\\", literal=True)
    for special in (",", "=", " "):
        tag = tag.str.replace_all(special, f"\\{special}", literal=True)
    body = rows.select(
        head=pl.lit(f"{_key(measurement)},tag=") + tag,
        fields=pl.concat_str(texts, separator=",", ignore_nulls=True),
        time=pl.col("time").to_physical().cast(pl.String),
    ).filter(pl.col("fields") != "")
    if body.is_empty():
        return b""
    text = body.select(pl.concat_str("head", "fields", "time", separator=" ").str.join("\n")).item()
    return f"{text}\n".encode()


def _key(text: str) -> str:
    for special in (",", "=", " "):
        text = text.replace(special, f"\\{special}")
    return text


class InfluxSink(Sink):
    """Writes rows to an InfluxDB-compatible ``/write`` address.

    Parameters
    ----------
    url
        The write address with its query: ``http://127.0.0.1:8086/write?db=plant`` or ``…/api/v2/write?org=o&bucket=b``.
    measurement
        Name of the measurement.
    token
        Sent as ``Authorization: Token …``.
    more
        Options of `Sink`.
    """

    name = "influx"

    def __init__(
        self, url: str, *, measurement: str = "iiot", token: str | None = None, timeout_s: float = 10.0, **more: Any
    ) -> None:
        import requests

        super().__init__(**more)
        self.url, self.measurement, self.timeout_s = url, measurement, timeout_s
        self._session = requests.Session()
        if token is not None:
            self._session.headers["Authorization"] = f"Token {token}"

    def write(self, rows: pl.DataFrame) -> None:
        """See `Sink.write`."""
        import requests

        body = lines(rows, self.measurement)
        if not body:
            return
        try:
            answer = self._session.post(self.url, data=body, timeout=self.timeout_s)
        except requests.RequestException as error:
            msg = f"{self.url}: {error}"
            raise AwayError(msg) from error
        if answer.status_code in (200, 204):
            return
        msg = f"{self.url} answered {answer.status_code}: {answer.text[:300]}"
        # 429 and 5xx pass; 401 and 404 are for an operator to mend, so the rows wait.
        if answer.status_code in (400, 413, 422):
            raise RefusedError(msg)
        raise AwayError(msg)

    def disconnect(self) -> None:
        """Close the connection."""
        self._session.close()
