"""Colours and small HTML pieces the views share."""

from __future__ import annotations

import math
from html import escape

INK = "#1f2933"
BLUE = "#2563eb"
ORANGE = "#ea7317"
GREEN = "#16803c"
RED = "#c81e1e"
GREY = "#8a94a0"

STATE_COLOURS = {
    "running": GREEN,
    "starting": ORANGE,
    "waiting": ORANGE,
    "degraded": ORANGE,
    "failed": RED,
    "stopped": GREY,
}


def tile(label: str, value: str, colour: str = INK) -> str:
    """One figure with its label, escaped.

    Examples
    --------
    >>> "&lt;b&gt;" in tile("<b>", "1")
    True
    """
    return (
        f'<div style="display:inline-block;min-width:128px;margin:0 18px 6px 0">'
        f'<div style="font-size:12px;color:{GREY}">{escape(label)}</div>'
        f'<div style="font-size:22px;font-weight:600;color:{colour}">{escape(value)}</div></div>'
    )


def table(header: list[str], rows: list[list[tuple[str, str | None]]], empty: str) -> str:
    """An HTML table of (text, colour) cells, all escaped; `empty` is said when there are no rows.

    Examples
    --------
    >>> table(["a"], [[("<x>", None)]], "none").count("&lt;x&gt;")
    1
    """
    if not rows:
        return f'<div style="color:{GREY};padding:8px 0">{escape(empty)}</div>'
    head = "".join(f'<th style="text-align:left;padding:3px 10px 3px 0;color:{GREY}">{escape(h)}</th>' for h in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="padding:3px 10px 3px 0;color:{colour or INK};white-space:nowrap">{escape(text)}</td>'
            for text, colour in row
        )
        + "</tr>"
        for row in rows
    )
    return f'<table style="border-collapse:collapse;font-size:13px;width:100%"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def count_text(value: float) -> str:
    """A count for people.

    Examples
    --------
    >>> count_text(950), count_text(12_345), count_text(7_500_000)
    ('950', '12.3 k', '7.50 M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.1f} {unit}" if unit == "k" else f"{scaled:.2f} {unit}"
    return f"{value:.0f}"


def seconds_text(value: float) -> str:
    """A latency for people.

    Examples
    --------
    >>> seconds_text(0.0042), seconds_text(1.5), seconds_text(float("nan"))
    ('4.2 ms', '1.50 s', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"
