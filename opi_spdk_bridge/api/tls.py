"""TLS of the listeners: certificate, key and client CA from files, read again when they are renewed.

A renewed file counts for new connections; those that stand go on. What cannot be read or does not fit together leaves
the last good files in use, and is logged.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from opi_spdk_bridge import errors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Material:
    """What one reading of the files gave, and when it was read (Unix time in seconds)."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    read_at: float


class Tls:
    """The files; with a client CA every client must bring a certificate that it signed (mTLS)."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._reading = threading.Lock()  # gRPC asks from a thread of its own
        self._seen = self._stamp()
        self._material = self._read()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials of one gRPC listener, which ask at each handshake for renewed files. TLS 1.2 and 1.3."""
        used = self._material

        def renewed() -> Any:
            nonlocal used
            present = self._present()
            if present is used:
                return None
            used = present
            return _grpc_configuration(present)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(used), renewed, require_client_authentication=self._client_ca is not None
        )

    def http_context(self) -> ssl.SSLContext:
        """The context of an HTTP server; each handshake is handed on to the one made from the present files."""
        context = self._make_context()
        context.sslobject_class = _Handshake

        def hand_on(connection: Any, _server_name: str | None, _context: ssl.SSLContext) -> int | None:
            present = self._present()
            if connection.session_reused and connection.session.time <= present.read_at:
                return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE  # its client was checked against files of before
            connection.context = present.context
            return None

        context.sni_callback = hand_on
        return context

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0  # a ticket would let a client in again whose authority has been removed since
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key, _no_passphrase)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _present(self) -> _Material:
        """What is in the files now; where that is no good, what was in them before, and the log says why."""
        with self._reading:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                try:
                    self._material = self._read()
                except errors.FailedPrecondition as problem:
                    log.error("the renewed TLS files are not used: %s", problem)
                else:
                    log.info("the renewed TLS files are in use")
            return self._material

    def _stamp(self) -> Sequence[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._certificate, self._key, self._client_ca) if path is not None]

    def _read(self) -> _Material:
        """Reads and checks the files; raises FailedPrecondition naming what is wrong."""
        try:
            context = self._make_context()
            client_ca = self._client_ca.read_bytes() if self._client_ca is not None else None
            certificate, key = self._certificate.read_bytes(), self._key.read_bytes()
            until = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
            if until.timestamp() < time.time():
                log.warning("the certificate %s expired on %s: clients will refuse it", self._certificate, until)
            return _Material(certificate, key, client_ca, context, time.time())
        except ssl.SSLError as problem:
            files = ", ".join(str(path) for path in (self._certificate, self._key, self._client_ca) if path is not None)
            raise errors.FailedPrecondition(f"the TLS files {files} do not fit: {problem.reason}") from problem
        except OSError as problem:
            where = problem.filename or ", ".join(str(path) for path in self._unreadable())
            text = f"the TLS file {where} cannot be read: {problem.strerror}"
            raise errors.FailedPrecondition(text) from problem
        except _Encrypted:
            text = f"the TLS key {self._key} is encrypted: the daemon has nobody to ask for its passphrase"
            raise errors.FailedPrecondition(text) from None

    def _unreadable(self) -> Sequence[Path]:
        """The files that are not there or may not be read (ssl does not say which one it could not open)."""
        paths = [path for path in (self._certificate, self._key, self._client_ca) if path is not None]
        return [path for path in paths if not os.access(path, os.R_OK)] or paths


class _Handshake(ssl.SSLObject):
    """A connection's TLS, which tells why a client was not let in (gRPC does so by itself)."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as problem:
            why = getattr(problem, "verify_message", "") or problem.reason
            log.info("a client was not let in, its TLS handshake failed: %s", why)
            raise


class _Encrypted(Exception):
    """The key needs a passphrase."""


def _no_passphrase() -> str:
    raise _Encrypted


def _grpc_configuration(material: _Material) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)
