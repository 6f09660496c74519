"""The settings of one emulated target."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EmulatorOptions:
    """How one emulated target runs.

    `socket` is the path of the JSON-RPC Unix socket, or `host:port` for TCP. `config` is a file in the format of
    save_config, executed before the target counts as up. `vhost_dir` is where vhost-user sockets are created (the
    target's -S). With `wait_for_rpc` the target stays in its start-up state until framework_start_init.
    `poll_interval_ms` is the pace at which the target looks at its sockets (4 on the real one; 0 answers at once).
    """

    socket: str
    config: Path | None = None
    vhost_dir: Path = Path("/var/tmp")
    wait_for_rpc: bool = False
    poll_interval_ms: float = 0.0
