"""TLS of the listeners: certificate, key and client CA from files, read again when they are renewed.

A renewed file counts for new connections; those that stand go on. What cannot be read or does not fit together leaves
the last good files in use, and is logged.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from opi_spdk_bridge import errors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Material:
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Tls:
    """The files; with a client CA every client must bring a certificate that it signed (mTLS)."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._stamp()
        self._material = self._read()
        self._context = self._make_context()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a gRPC server, which ask at each handshake for renewed files. TLS 1.2 and 1.3."""
        return grpc.dynamic_ssl_server_credentials(
            self._grpc_configuration(), self._renewed_grpc, require_client_authentication=self._client_ca is not None
        )

    def http_context(self) -> ssl.SSLContext:
        """The context of an HTTP server; each handshake is handed on to the one made from the present files."""
        context = self._make_context()

        def hand_on(connection: Any, _server_name: str | None, _context: ssl.SSLContext) -> None:
            if self._renew():
                self._context = self._make_context()
            connection.context = self._context

        context.sni_callback = hand_on
        return context

    def _grpc_configuration(self) -> Any:
        material = self._material
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.certificate)], root_certificates=material.client_ca
        )

    def _renewed_grpc(self) -> Any:
        return self._grpc_configuration() if self._renew() else None

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _renew(self) -> bool:
        """Reads the files again if they have changed; False when they have not, or are no good."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._material = self._read()
        except errors.FailedPrecondition as problem:
            log.error("the renewed TLS files are not used: %s", problem)
            return False
        log.info("the renewed TLS files are in use")
        return True

    def _stamp(self) -> Sequence[tuple[int, int] | None]:
        return [_stamp(path) for path in (self._certificate, self._key, self._client_ca) if path is not None]

    def _read(self) -> _Material:
        """Reads and checks the files; raises FailedPrecondition naming what is wrong."""
        try:
            self._make_context()
            client_ca = self._client_ca.read_bytes() if self._client_ca is not None else None
            return _Material(self._certificate.read_bytes(), self._key.read_bytes(), client_ca)
        except ssl.SSLError as problem:
            files = ", ".join(str(path) for path in (self._certificate, self._key, self._client_ca) if path is not None)
            raise errors.FailedPrecondition(f"the TLS files {files} do not fit: {problem.reason}") from problem
        except OSError as problem:
            where = problem.filename or self._certificate
            raise errors.FailedPrecondition(f"the TLS file {where} cannot be read: {problem.strerror}") from problem


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino)
