"""Scaling: how many workers, before they are needed.

``Observed`` -> ``policy(...).decide`` (pure: ``policy.py``, ``forecast.py``) -> a number -> a cluster follows
(``adaptive.py``, ``provision.py``). ``backtest`` runs any policy over any demand.
"""

from iiot_dask.scaling.backtest import Report, backtest
from iiot_dask.scaling.demand import factory_demand
from iiot_dask.scaling.forecast import Forecast
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.policy import POLICIES, Decision, Policy, Sizing, policy

__all__ = [
    "POLICIES",
    "Decision",
    "Forecast",
    "Observed",
    "Policy",
    "Report",
    "Sizing",
    "backtest",
    "factory_demand",
    "policy",
]
