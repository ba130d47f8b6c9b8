"""From a plant-file section to `session.Settings`: endpoint, client id, TLS, limits."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from iiot_dask.adapter.contract import Context
from iiot_dask.core.config import Adapter
from iiot_dask.core.errors import ConfigError

from . import frames
from .options import Options
from .session import Settings
from .topics import Route, subscriptions

SCHEMES: dict[str, tuple[int, bool]] = {
    "mqtt": (1883, False),
    "mqtts": (8883, True),
}
"""Scheme -> default port, TLS?"""


def endpoint(config: Adapter) -> tuple[str, int, bool]:
    """Host, port and TLS? of an adapter's endpoint.

    Raises
    ------
    ConfigError
        Naming adapter, endpoint and what is allowed.

    Examples
    --------
    >>> endpoint(Adapter(name="a", kind="mqtt", endpoint="mqtts://broker.example"))
    ('broker.example', 8883, True)
    """
    text = config.endpoint or ""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        msg = f"adapter {config.name!r}: endpoint {text!r}: {error}"
        raise ConfigError(msg) from error
    if parts.scheme not in SCHEMES or not parts.hostname or parts.path not in ("", "/"):
        msg = f"adapter {config.name!r}: endpoint {text!r} is none of mqtt://HOST:PORT, mqtts://HOST:PORT"
        raise ConfigError(msg)
    if parts.username or parts.password:
        msg = f"adapter {config.name!r}: the endpoint holds a user name or password; use the keys username and password"
        raise ConfigError(msg)
    default, tls = SCHEMES[parts.scheme]
    return parts.hostname, port or default, tls


def tls_context(config: Adapter) -> ssl.SSLContext:
    """Certificates checked against `ca` (or the system's), host name checked, TLS 1.2 at least.

    Raises
    ------
    ConfigError
        If a file is missing or is no certificate or key; names it.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.private_key)
    except (OSError, ssl.SSLError) as error:
        msg = (
            f"adapter {config.name!r}: ca = {config.ca!r}, certificate = {config.certificate!r}, private_key ="
            f" {config.private_key!r}: {error}"
        )
        raise ConfigError(msg) from error
    return context


def client_id(config: Adapter) -> str:
    """The configured id, else one derived from the adapter's name: always the same, or the session would be lost."""
    return config.client_id or f"iiot-dask-{config.name}"


def settings(context: Context, options: Options, routes: tuple[Route, ...]) -> Settings:
    """Everything a session needs.

    Raises
    ------
    ConfigError
        If the endpoint, a certificate or a secret is wrong.
    """
    config = context.config
    host, port, tls = endpoint(config)
    if config.password is not None and config.username is None:
        msg = f"adapter {config.name!r} has a password and no username"
        raise ConfigError(msg)
    filters = subscriptions([route.topic.filter for route in routes])
    return Settings(
        host=host,
        port=port,
        client_id=client_id(config),
        filters=tuple((name, config.qos) for name in filters),
        version=config.version,
        clean=config.clean_session,
        username=config.username,
        password=context.secret(config.password) if config.password is not None else None,
        tls=tls_context(config) if tls else None,
        timeout_s=config.timeout / 1e9,
        keepalive_s=max(5, options.keepalive // 10**9),
        session_expiry_s=options.session_expiry // 10**9,
        receive_maximum=options.receive_maximum,
        frame_bytes_max=options.payload_bytes_max + frames.HEADER_BYTES_MAX,
        inbox_bytes=options.inbox_bytes,
        inbox_messages=options.inbox_messages,
        reconnect_max_s=options.reconnect_max / 1e9,
    )
