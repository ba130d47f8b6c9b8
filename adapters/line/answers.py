"""Answers in the shapes of InfluxDB's two HTTP interfaces.

Source: InfluxDB 1.8 HTTP API reference (``/write``: status codes and errors, ``X-Influxdb-*`` headers) and InfluxDB
2.7 OpenAPI (schemas ``Error`` and ``LineProtocolLengthError``).
"""

from __future__ import annotations

from aiohttp import web

VERSION = "1.8.10"
"""The version of the write interface that is spoken; clients look at it, so it is InfluxDB's, not ours."""
_CODES = {
    400: "invalid",
    401: "unauthorized",
    408: "unavailable",
    413: "request too large",
    415: "unsupported media type",
    429: "too many requests",
    503: "unavailable",
}


def with_headers(response: web.Response) -> web.Response:
    """The headers every answer has."""
    response.headers["X-Influxdb-Version"] = VERSION
    response.headers["X-Influxdb-Build"] = "iiot-dask"
    return response


def v1(status: int, sentence: str) -> web.Response:
    """An error of version 1.

    Examples
    --------
    >>> v1(400, "missing fields").text
    '{"error": "missing fields"}'
    """
    response = web.json_response({"error": sentence}, status=status)
    # A header is one line, and proxies refuse long ones.
    response.headers["X-Influxdb-Error"] = sentence.replace("\n", " ").encode("ascii", "replace").decode()[:500]
    return with_headers(response)


def v2(status: int, sentence: str) -> web.Response:
    """An error of version 2.

    Examples
    --------
    >>> v2(401, "no").text
    '{"code": "unauthorized", "message": "no"}'
    """
    return with_headers(web.json_response({"code": _CODES.get(status, "invalid"), "message": sentence}, status=status))
