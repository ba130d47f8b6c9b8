"""Certificates and credentials of an OPC UA session: checked, never just accepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iiot_dask.core.config import Adapter
from iiot_dask.core.errors import ConfigError

POLICIES = ("Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss")
"""Security policies that are offered; Basic128Rsa15 and Basic256 rest on SHA-1 and are not."""


@dataclass(frozen=True, slots=True)
class Security:
    """How a session is secured; all None = no security, anonymous.

    `ca` is the file (or directory of files) of trusted certificates: the server's own, or of the authority that signed
    it. Without it no server is trusted.
    """

    policy: str | None = None
    mode: str = "SignAndEncrypt"
    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None
    username: str | None = None
    password: str | None = None

    @classmethod
    def of(cls, config: Adapter, password: str | None) -> Security:
        """Read the adapter's keys.

        Raises
        ------
        ConfigError
            If a policy is unknown, or it comes without certificate, private key or trusted certificates.
        """
        policy, mode = config.security_policy, config.security_mode
        if policy in (None, "None") or mode == "None":
            if policy not in (None, "None") or mode not in (None, "None"):
                msg = f"adapter {config.name!r}: security_policy {policy!r} with security_mode {mode!r}; both or neither are 'None'"
                raise ConfigError(msg)
            return cls(username=config.username, password=password)
        if policy not in POLICIES:
            msg = f"adapter {config.name!r}: security_policy {policy!r}; {', '.join(POLICIES)} are supported"
            raise ConfigError(msg)
        files = {key: getattr(config, key) for key in ("certificate", "private_key", "ca")}
        for key, name in files.items():
            if name is None or not Path(name).exists():
                msg = f"adapter {config.name!r}: security_policy {policy!r} needs the key {key!r} naming a file; it is {name!r}"
                raise ConfigError(msg)
        return cls(
            policy,
            mode or "SignAndEncrypt",
            Path(files["certificate"]),
            Path(files["private_key"]),
            Path(files["ca"]),
            config.username,
            password,
        )

    async def apply(self, client: Any) -> None:
        """Prepare an asyncua client: user, policy, our certificate, and a check of the server's.

        Raises
        ------
        ConfigError
            If our own files do not hold what they should.
        asyncua.ua.UaError
            If the server offers no such endpoint or its certificate is not trusted, expired or not its own.
        """
        if self.username is not None:
            client.set_user(self.username)
            client.set_password(self.password or "")
        if self.policy is None:
            return
        from asyncua import ua
        from asyncua.crypto import security_policies, uacrypto
        from asyncua.crypto.truststore import TrustStore
        from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

        assert self.ca is not None
        store = TrustStore([self.ca], [])
        try:
            await store.load()
            own = await uacrypto.load_certificate(self.certificate)
            client.application_uri = _uri(own) or client.application_uri
            policy = getattr(security_policies, f"SecurityPolicy{self.policy.replace('_', '')}")
            mode = ua.MessageSecurityMode[self.mode]
            await client.set_security(policy, self.certificate, self.private_key, mode=mode)
        except (ValueError, TypeError) as error:
            msg = f"certificate {self.certificate}, private_key {self.private_key}, ca {self.ca}: {error}"
            raise ConfigError(msg) from error
        options = CertificateValidatorOptions
        client.certificate_validator = CertificateValidator(
            options.TIME_RANGE | options.URI | options.TRUSTED | options.PEER_SERVER, store
        )
        server = uacrypto.x509_from_der(client.security_policy.peer_certificate)
        if server is None or not store.is_trusted(server):
            # Before the channel opens, so that nothing - no password above all - goes to a stranger.
            raise ua.UaStatusCodeError(ua.StatusCodes.BadCertificateUntrusted)


def _uri(certificate: Any) -> str | None:
    """The application URI in a certificate; servers refuse a session whose URI is another."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris: list[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None
