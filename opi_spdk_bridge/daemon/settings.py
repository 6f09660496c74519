"""Every setting of the daemon, once: a flag of `serve`, a variable OPI_BRIDGE_*, an entry of a TOML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.sockets import too_long

ENVIRONMENT_PREFIX = "OPI_BRIDGE_"


def state_folder() -> Path:
    """Where state lives by default: systemd's folder, the system's for root, else the user's (XDG Base Directory)."""
    if os.environ.get("STATE_DIRECTORY"):
        return Path(os.environ["STATE_DIRECTORY"].partition(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/opi-spdk-bridge")
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "opi-spdk-bridge"


def default_state() -> str:
    """The address of the state where none is given."""
    return f"sqlite:{state_folder() / 'state.sqlite'}"


class Settings(BaseSettings):
    """Settings of `opi-spdk-bridge serve`. Flags come before the environment, that before the file."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    spdk: str | None = Field(
        None,
        description="The SPDK target's JSON-RPC socket: a Unix path or host:port. Without it an emulated target runs.",
    )
    listen: tuple[str, ...] = Field(
        ("127.0.0.1:50051",),
        description="Where gRPC is served: host:port, or unix:PATH[,identity=NAME][,mode=0660]. Repeatable.",
    )
    http: tuple[str, ...] = Field(
        ("127.0.0.1:8082",),
        description="Where HTTP/JSON, metrics and the page are served: as --listen; empty: nowhere. Repeatable.",
    )
    tls_cert: Path | None = Field(None, description="The certificate chain of the listeners, PEM; with --tls-key.")
    tls_key: Path | None = Field(None, description="The certificate's private key, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="The authority whose client certificates are let in, PEM; others are not (mTLS)."
    )
    policy: Path | None = Field(
        None, description="A TOML file that says who may do what. Without it, whoever a listener lets in may do all."
    )
    insecure: bool = Field(False, description="Serve other machines without encryption, whatever that exposes.")
    state: str | None = Field(
        None,
        description="Where desired state is kept: sqlite:PATH, redis://HOST:PORT/NUMBER or memory:. Default: a SQLite"
        " file in the state folder, memory: with the emulated target (whose state ends with it).",
    )
    resource_names: Literal["canonical", "legacy"] = Field(
        "canonical", description="Names in gRPC answers: as in the contract, or volumes/x as older clients expect."
    )
    spdk_shared_dir: str | None = Field(
        None,
        description="The folder for key files and vfio-user sockets, BRIDGE_PATH[:TARGET_PATH] where the target sees it"
        " elsewhere. Default: a folder beside the state.",
    )
    qmp: str | None = Field(
        None,
        description="QEMU's monitor (QMP), a Unix path or host:port: functions are plugged into its machine.",
    )
    qmp_buses: tuple[str, ...] = Field(
        (),
        description="The PCI buses of QEMU that functions are plugged into, comma-separated: 0 to 31 on the first,"
        " 32 to 63 on the next. Without them QEMU chooses. Repeatable.",
    )
    qmp_folders: tuple[str, ...] = Field(
        (),
        description="Where QEMU sees a folder of the target's sockets elsewhere: TARGET_PATH:QEMU_PATH. Repeatable.",
    )
    qmp_unplug_s: float = Field(
        20.0, gt=0, description="How long a guest has for letting go of a device that is unplugged, in seconds."
    )
    adopt_target: bool = Field(
        False, description="Apply the state to this target although it was kept for another one's address."
    )
    master_key_file: Path | None = Field(
        None,
        description="The key that seals secrets in the state: 32 bytes, mode 0600. Default: systemd's credential"
        " opi-spdk-bridge.key, else OPI_BRIDGE_MASTER_KEY (base64), else a file beside the state, made.",
    )
    connect_grace_s: float = Field(
        1.0, gt=0, description="How long changes wait for a target that is away, in seconds."
    )
    call_timeout_s: float = Field(30.0, gt=0, description="The longest wait for one answer of the target, in seconds.")
    spdk_silence_s: float = Field(
        5.0, gt=0, description="How long a target that answers nothing counts as ready, in seconds. Then it is away."
    )
    request_timeout_s: float = Field(60.0, gt=0, description="The deadline of requests that bring none, in seconds.")
    max_requests: int = Field(1024, gt=0, description="Requests at work at once; more are told RESOURCE_EXHAUSTED.")
    max_requests_per_peer: int = Field(512, gt=0, description="Of them, those of one address or Unix listener.")
    max_connections: int = Field(
        2048, gt=0, description="Open connections of one listener; more are told so (HTTP 503) and hung up on."
    )
    max_message_bytes: int = Field(4 << 20, gt=0, description="The largest gRPC message and HTTP body, in bytes.")
    max_field_bytes: int = Field(
        4096, ge=64, description="The longest text in a request, in bytes, and the most items of a list."
    )
    max_resources: int = Field(65536, gt=0, description="Resources of one kind; more are told RESOURCE_EXHAUSTED.")
    sweep_interval_s: float = Field(
        30.0, gt=0, description="Seconds between two comparisons of the target with the state."
    )
    notifications_s: float = Field(2.0, gt=0, description="Seconds between two looks at the target's notifications.")
    drain_s: float = Field(10.0, gt=0, description="How long a shutdown waits for requests at work, in seconds.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How it is logged: for people, as JSON, or by whether it goes to a terminal."
    )
    metrics_ttl_s: float = Field(5.0, ge=0, description="How long an answer of /metrics is good for, in seconds.")
    config: Path | None = Field(None, description="A TOML file with these settings.")

    @field_validator("listen", "http")
    @classmethod
    def _can_be_listened_on(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for address in filter(None, addresses):
                Listener.parse(address)
        except errors.InvalidArgument as problem:
            raise ValueError(problem.message) from None
        return addresses

    @field_validator("spdk", "qmp")
    @classmethod
    def _can_be_connected_to(cls, address: str | None) -> str | None:
        problem = too_long(address) if address is not None and "/" in address else ""
        if problem:
            raise ValueError(problem)
        return address

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = init_settings().get("config") or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
        if given and not Path(given).is_file():
            raise FileNotFoundError(f"there is no file {given}")
        file = (TomlConfigSettingsSource(settings_cls, Path(given)),) if given else ()
        return (init_settings, env_settings, *file)
