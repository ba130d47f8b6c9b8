"""Health: every tag's rhythm and values watched in O(1), one incident a cause.

``kernel`` (numba) -> ``Monitor`` (one shard's state) -> changes -> ``Incidents`` (pure engine over a ``Topology``) ->
``IncidentStore``. ``detect`` runs the same over recorded data.
"""

from iiot_dask.health.detect import detect
from iiot_dask.health.incident import Incident
from iiot_dask.health.incidents import Incidents, Rules
from iiot_dask.health.kinds import CHANGE_DTYPE, Kind
from iiot_dask.health.monitor import Knobs, Monitor
from iiot_dask.health.store import IncidentStore, incident_frame
from iiot_dask.health.topology import Topology

__all__ = [
    "CHANGE_DTYPE",
    "Incident",
    "IncidentStore",
    "Incidents",
    "Kind",
    "Knobs",
    "Monitor",
    "Rules",
    "Topology",
    "detect",
    "incident_frame",
]
