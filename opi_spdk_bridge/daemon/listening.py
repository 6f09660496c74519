"""Where the settings say that the bridge listens, and how that is encrypted."""

from __future__ import annotations

import logging

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.listeners import Listener, exposed
from opi_spdk_bridge.api.tls import Tls
from opi_spdk_bridge.daemon.settings import Settings

log = logging.getLogger(__name__)


def listeners(settings: Settings) -> tuple[list[Listener], list[Listener], Tls | None]:
    """The listeners of gRPC and of HTTP, and what encrypts them; raises FailedPrecondition for open doors."""
    grpc = [Listener.parse(text) for text in settings.listen]
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    elif settings.tls_cert or settings.tls_key or settings.tls_client_ca:
        raise errors.FailedPrecondition("TLS needs both --tls-cert and --tls-key: one of them is missing")
    http = [Listener.parse(text) for text in settings.http if text]
    open_to_all = exposed([*grpc, *http], tls is not None)
    if open_to_all and not settings.insecure:
        raise errors.FailedPrecondition(
            f"{', '.join(open_to_all)} can be reached from other machines and would not be encrypted: give --tls-cert"
            " and --tls-key, or --insecure if everybody who reaches it may read keys and change storage"
        )
    if open_to_all:
        log.warning("not encrypted: whoever reaches %s can read keys and change storage", ", ".join(open_to_all))
    if settings.policy is None:
        level = logging.INFO if all(listener.is_local for listener in (*grpc, *http)) else logging.WARNING
        log.log(level, "no policy: everyone that a listener lets in may do everything (--policy)")
    spdk = settings.spdk or ""
    if spdk and "/" not in spdk and not Listener.parse(spdk).is_local:
        log.warning("the SPDK socket %s is not on this machine: JSON-RPC is neither encrypted nor authenticated", spdk)
    return grpc, http, tls
