"""Scaling: how many workers, before they are needed.

``Observed`` -> ``policy(...).decide`` (pure: ``policy.py``, ``forecast.py``) -> a number -> a cluster follows
(``adaptive.py``, ``provision.py``). ``backtest`` runs any policy over any demand.
"""

from iiot_dask.scaling.backtest import backtest
from iiot_dask.scaling.calendar import Calendar, Event, Shift
from iiot_dask.scaling.capacity import Capacity
from iiot_dask.scaling.demand import factory_demand
from iiot_dask.scaling.forecast import Forecast
from iiot_dask.scaling.guard import Guard
from iiot_dask.scaling.limits import Limits, Window
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.plant import Faults
from iiot_dask.scaling.policy import POLICIES, Decision, Policy, policy
from iiot_dask.scaling.provision import AdaptiveProvisioner, Provisioner, ScaleProvisioner, Workforce
from iiot_dask.scaling.report import Report
from iiot_dask.scaling.sizing import Sizing

__all__ = [
    "POLICIES",
    "AdaptiveProvisioner",
    "Calendar",
    "Capacity",
    "Decision",
    "Event",
    "Faults",
    "Forecast",
    "Guard",
    "Limits",
    "Observed",
    "Policy",
    "Provisioner",
    "Report",
    "ScaleProvisioner",
    "Shift",
    "Sizing",
    "Window",
    "Workforce",
    "backtest",
    "factory_demand",
    "policy",
]
