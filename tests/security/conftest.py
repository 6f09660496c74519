"""Authorities, the files that a server with TLS reads, and a gRPC server that is in a hurry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from opi_spdk_bridge.api import server
from opi_spdk_bridge.api.tls import Tls
from tests.support.certificates import Authority, Issued

QUICKER = 100
"""How many times faster than the daemon's own a `hurried` server's times are."""


@dataclass(frozen=True)
class Files:
    """What a server with TLS reads, which a test may replace, and who signed it."""

    authority: Authority
    issued: Issued
    certificate: Path
    key: Path
    client_ca: Path

    def tls(self, *, mutual: bool = False) -> Tls:
        """TLS with these files, with or without clients' certificates."""
        return Tls(self.certificate, self.key, self.client_ca if mutual else None)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A server's certificate and key; clients are to be signed by the same authority."""
    authority = Authority(tmp_path, "authority")
    issued = authority.issue("server")
    served = Files(authority, issued, tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "clients.crt")
    issued.put(served.certificate, served.key)
    served.client_ca.write_bytes(authority.certificate.read_bytes())
    return served


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC with the daemon's own options, but all times a hundredth."""
    quick = [(name, value // QUICKER if name.endswith("_ms") else value) for name, value in server._OPTIONS]
    monkeypatch.setattr(server, "_OPTIONS", quick)
