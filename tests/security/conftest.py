"""Authorities, and the files that a server with TLS reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from opi_spdk_bridge.api.tls import Tls
from tests.support.certificates import Authority, Issued


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
