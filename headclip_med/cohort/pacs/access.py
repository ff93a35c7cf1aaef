"""Present ourselves to an archive: from the environment alone, so that no secret is typed, shown or recorded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headclip_med.base.errors import InputError
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import DEFAULT_ATTEMPTS

if TYPE_CHECKING:
    from ssl import SSLContext

TOKEN = "HEADCLIP_PACS_TOKEN"
USER = "HEADCLIP_PACS_USER"
PASSWORD = "HEADCLIP_PACS_PASSWORD"
AUTHORITIES = "HEADCLIP_PACS_CA"
CERTIFICATE = "HEADCLIP_PACS_CERT"
KEY = "HEADCLIP_PACS_KEY"
AE_TITLE = "HEADCLIP_PACS_AET"
TIMEOUT = "HEADCLIP_PACS_TIMEOUT"
ATTEMPTS = "HEADCLIP_PACS_ATTEMPTS"

_DEFAULT_TIMEOUT_S = 30.0
_DEFAULT_AE = "HEADCLIP-MED"
_LOOPBACK = ("localhost", "127.", "::1")


@dataclass(frozen=True)
class Access:
    """Holds credentials, certificates, our AE title and how long to wait. Secrets stay out of its text.

    Attributes:
        token: bearer token, instead of user and password.
        user, password: for HTTP's basic authentication.
        authorities: PEM bundle to trust instead of the system's.
        certificate, key: PEM files of this client.
        ae_title: ours, 1 to 16 characters.
        timeout_s: longest silence of the archive in seconds.
        attempts: before it counts as gone.
    """

    token: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    ae_title: str = _DEFAULT_AE
    timeout_s: float = _DEFAULT_TIMEOUT_S
    attempts: int = DEFAULT_ATTEMPTS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Access:
        """Read the variables.

        Args:
            environment: values by name, those of this process by default.

        Returns:
            What they say.

        Raises:
            InputError: variables that contradict each other, or name files that are not there.
        """
        values = os.environ if environment is None else environment
        token, user, password = (values.get(name) or None for name in (TOKEN, USER, PASSWORD))
        if token and (user or password):
            raise InputError(f"{TOKEN} must stand alone", f"{USER} or {PASSWORD} beside it", "Unset one of them")
        if (user is None) != (password is None):
            raise InputError(f"{USER} and {PASSWORD} must be set together", "one of them", "Set both")
        _check_characters(token, user)
        timeout_s = _number(values, TIMEOUT, _DEFAULT_TIMEOUT_S)
        attempts = int(_number(values, ATTEMPTS, DEFAULT_ATTEMPTS))
        ae_title = values.get(AE_TITLE, _DEFAULT_AE).strip()
        if not (0 < len(ae_title) <= 16 and ae_title.isascii() and ae_title.isprintable() and "\\" not in ae_title):
            raise InputError(f"{AE_TITLE} must be 1 to 16 plain characters", f"{len(ae_title)}")
        authorities, certificate, key = (_file(values, name) for name in (AUTHORITIES, CERTIFICATE, KEY))
        if key is not None and certificate is None:
            raise InputError(f"{KEY} must stand beside {CERTIFICATE}", "the key alone", f"Set {CERTIFICATE} too")
        return cls(token, user, password, authorities, certificate, key, ae_title, timeout_s, attempts)

    def warning_for(self, address: Address) -> str | None:
        """Say whether secrets or patients' data would go over an open network.

        Args:
            address: of the archive.

        Returns:
            The warning, None where the way is encrypted or stays on this machine.
        """
        if address.tls or address.host.startswith(_LOOPBACK):
            return None
        what = "credentials and images" if address.is_web and (self.token or self.user) else "images"
        return f"{what} go to {address.host} unencrypted; use {address.scheme}s:// where the archive offers TLS"

    def ssl_context(self) -> SSLContext:
        """Make the TLS context for DIMSE: the archive must show a certificate that is trusted.

        Returns:
            What TLS connections are made with.

        Raises:
            InputError: A PEM file that holds no certificate or key.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.authorities)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as problem:
            raise InputError(f"{AUTHORITIES}, {CERTIFICATE} and {KEY} must be PEM files", "something else") from problem
        return context


def _file(values: Mapping[str, str], name: str) -> Path | None:
    if not values.get(name):
        return None
    path = Path(values[name]).expanduser()
    if not path.is_file():
        raise InputError(f"{name} must name a PEM file", "no such file", "Check the variable")
    return path


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    """A number of at least 1 and below a day's seconds."""
    try:
        number = float(values.get(name) or default)
    except ValueError:
        number = 0.0
    if not 1 <= number < 86_400:
        raise InputError(f"{name} must be a number of at least 1", values.get(name, ""), "Unset it for the default")
    return number


def _check_characters(token: str | None, user: str | None) -> None:
    """What HTTP could not carry would otherwise be repeated in an error of its library."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"{TOKEN} must be plain characters without blanks", "others in it", "Copy it again")
    if user and ":" in user:
        raise InputError(f"{USER} must hold no colon", "one with it", "HTTP's basic authentication allows none")
