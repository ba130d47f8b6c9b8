"""PostgreSQL and TimescaleDB through ADBC: Arrow columns in bulk into a staging table, then one upsert by (tag, time)."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.flow.sinks.base import AwayError, RefusedError, Sink

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TYPES = {
    pl.String: "text", pl.Float64: "double precision", pl.Float32: "real", pl.Int64: "bigint", pl.Int32: "integer",
    pl.Int16: "smallint", pl.Int8: "smallint", pl.UInt8: "smallint", pl.UInt16: "integer", pl.UInt32: "bigint", pl.Boolean: "boolean",
    pl.Datetime: "timestamptz",
}  # fmt: skip


class PostgresSink(Sink):
    """Upserts rows into a table with the primary key (tag, time); makes the table from the first rows if it is missing.

    Parameters
    ----------
    uri
        ``postgresql://user:password@host:port/database``.
    table
        Lower-case name.
    hypertable
        Turn the table into a TimescaleDB hypertable when it is made.
    more
        Options of `Sink`.
    """

    name = "postgres"

    def __init__(self, uri: str, table: str = "iiot", *, hypertable: bool = False, **more: Any) -> None:
        super().__init__(**{"batch_rows": 100_000, **more})
        if not _NAME.fullmatch(table):
            msg = f"table {table!r}: lower-case letters, digits and '_' are allowed"
            raise ConfigError(msg)
        self.uri, self.table, self.hypertable = uri, table, hypertable
        self._connection: Any = None

    def _connected(self) -> Any:
        if self._connection is None:
            from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # has no types

            self._connection = dbapi.connect(self.uri)
        return self._connection

    def write(self, rows: pl.DataFrame) -> None:
        """See `Sink.write`."""
        from adbc_driver_manager import DatabaseError, OperationalError

        for name, kind in rows.schema.items():
            if not _NAME.fullmatch(name) or kind.base_type() not in _TYPES:
                msg = f"column {name!r} of type {kind} does not fit a PostgreSQL column"
                raise RefusedError(msg)
        # One row a (tag, time), the last one counts: an upsert may not touch a row twice. PostgreSQL keeps microseconds.
        narrow = rows.with_columns(
            pl.col(pl.Datetime("ns", "UTC")).cast(pl.Datetime("us", "UTC")), pl.col(pl.UInt8).cast(pl.Int16), pl.col(pl.UInt16).cast(pl.Int32),
            pl.col(pl.UInt32).cast(pl.Int64), pl.col(pl.Int8).cast(pl.Int16),
        ).unique(["tag", "time"], keep="last")  # fmt: skip
        names = ", ".join(f'"{c}"' for c in narrow.columns)
        update = ", ".join(f'"{c}" = excluded."{c}"' for c in narrow.columns if c not in ("tag", "time"))
        try:
            with self._connected().cursor() as cursor:
                self._prepare(cursor, narrow)
                cursor.adbc_ingest("iiot_staging", narrow.to_arrow(), mode="create", temporary=True)
                cursor.execute(
                    f'INSERT INTO "{self.table}" ({names}) SELECT {names} FROM iiot_staging '  # noqa: S608 -- names are checked above
                    f"ON CONFLICT (tag, time) DO {'UPDATE SET ' + update if update else 'NOTHING'}"
                )
                cursor.execute("DROP TABLE iiot_staging")
            self._connection.commit()
        except OperationalError as error:
            self._forget()
            msg = f"{self.table}: {error}"
            raise AwayError(msg) from error
        except DatabaseError as error:
            self._forget()
            msg = f"{self.table}: {error}"
            # Class 08 and 57 of SQLSTATE: the connection or the server is going away.
            if str(getattr(error, "sqlstate", "") or "")[:2] in ("08", "57") or "server closed" in str(error):
                raise AwayError(msg) from error
            raise RefusedError(msg) from error

    def _prepare(self, cursor: Any, rows: pl.DataFrame) -> None:
        columns = ", ".join(f'"{n}" {_TYPES[t.base_type()]}' for n, t in rows.schema.items())
        cursor.execute(f'CREATE TABLE IF NOT EXISTS "{self.table}" ({columns}, PRIMARY KEY (tag, time))')
        for n, t in rows.schema.items():
            cursor.execute(f'ALTER TABLE "{self.table}" ADD COLUMN IF NOT EXISTS "{n}" {_TYPES[t.base_type()]}')
        if self.hypertable:
            cursor.execute(f"SELECT create_hypertable('{self.table}', 'time', if_not_exists => TRUE)")

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def disconnect(self) -> None:
        """Close the connection."""
        self._forget()
