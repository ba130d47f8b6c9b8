"""The store keeps the newest record of each incident, through restarts, within its bound."""

import sqlite3
from dataclasses import replace

import pytest

from iiot_dask.core.errors import DataError, VersionError
from iiot_dask.health.incident import Incident
from iiot_dask.health.store import IncidentStore, read_incident_frame


def one(number, **changes):
    return replace(Incident(number, f"n{number}", "silence", number, number + 5, None, 1.5, ("a", "b")), **changes)


def test_incidents_survive_a_restart(tmp_path):
    with IncidentStore(tmp_path) as store:
        store.save([one(1), one(2, end_ns=9, detail="d")])
        store.save([one(1, score=3.0), one(3, parent=1, end_ns=8)])
    with IncidentStore(tmp_path) as store:
        assert store.open_incidents() == [one(1, score=3.0)]
        assert store.all() == [one(1, score=3.0), one(2, end_ns=9, detail="d"), one(3, parent=1, end_ns=8)]
        assert store.last_id() == 3
        frame = store.frame()
        assert frame["incident"].to_list() == [1, 2]
        assert frame.equals(read_incident_frame(tmp_path))


def test_the_oldest_ended_ones_go_first(tmp_path):
    with IncidentStore(tmp_path, rows_max=3) as store:
        for number in range(1, 8):
            store.save([one(number, end_ns=None if number == 2 else 50)])
        assert [i.incident for i in store.all()] == [2, 6, 7]


def test_nothing_there_is_an_empty_table(tmp_path):
    assert read_incident_frame(tmp_path / "none").height == 0
    with IncidentStore(tmp_path) as store:
        store.save([])
        assert store.frame().height == 0
        assert store.last_id() == 0


def test_damage_and_newer_files_are_told(tmp_path):
    path = tmp_path / "incidents.sqlite"
    path.write_bytes(b"this is not a database, whatever its name says" * 40)
    with pytest.raises(DataError, match=r"incidents\.sqlite"):
        IncidentStore(tmp_path)
    with pytest.raises(DataError, match=r"incidents\.sqlite"):
        read_incident_frame(tmp_path)
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(VersionError, match="99"):
        IncidentStore(tmp_path)
