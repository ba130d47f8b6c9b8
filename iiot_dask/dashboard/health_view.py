"""Incidents and the adapters' state."""

from __future__ import annotations

from typing import Any

from iiot_dask.core.times import time_text
from iiot_dask.dashboard import theme
from iiot_dask.dashboard.store import Store

INCIDENTS_SHOWN = 50


class HealthView:
    """Two tables: what is wrong, and how each adapter does."""

    def __init__(self, store: Store) -> None:
        import panel as pn

        self.store = store
        self.incidents = pn.pane.HTML("", sizing_mode="stretch_width", css_classes=["iiot-incidents"])
        self.adapters = pn.pane.HTML("", sizing_mode="stretch_width", css_classes=["iiot-adapters"])

    def panel(self) -> Any:
        """The layout."""
        import panel as pn

        return pn.Column(
            pn.pane.HTML("<b>Incidents</b>"), self.incidents, pn.pane.HTML("<b>Adapters</b>"), self.adapters,
            sizing_mode="stretch_width",
        )  # fmt: skip

    def update(self) -> None:
        """Show the newest state."""
        newest = self.store.newest
        if newest is None:
            return
        latest = sorted(newest.incidents, key=lambda i: (i.end_ns is not None, -i.start_ns))[:INCIDENTS_SHOWN]
        self.incidents.object = theme.table(
            ["kind", "node", "tags", "began", "detected after", "ended"],
            [
                [
                    (i.kind, theme.RED if i.end_ns is None else theme.GREY),
                    (i.node, None),
                    (str(i.tags), None),
                    (time_text(i.start_ns)[11:19], None),
                    (f"{(i.detected_ns - i.start_ns) / 1e9:.1f} s", None),
                    ("lasts" if i.end_ns is None else time_text(i.end_ns)[11:19], None),
                ]
                for i in latest
            ],
            "No incident.",
        )
        self.adapters.object = theme.table(
            ["adapter", "kind", "state", "samples", "last sample", "restarts", "errors", "reason"],
            [
                [
                    (a.name, None),
                    (a.kind, None),
                    (a.state, theme.STATE_COLOURS.get(a.state)),
                    (theme.count_text(a.samples), None),
                    ("never" if a.age_s is None else f"{a.age_s:.1f} s ago", None),
                    (str(a.restarts), None),
                    (str(a.errors), None),
                    (a.reason[:80], None),
                ]
                for a in newest.adapters
            ],
            "No adapter.",
        )
