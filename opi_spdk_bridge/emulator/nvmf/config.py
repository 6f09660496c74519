"""The calls that would bring the target's NVMe-oF side into its present state (save_config)."""

from collections.abc import Iterator
from typing import Any

from .members import Host, Namespace, SubsystemListener
from .subsystem import Subsystem
from .target import MAX_SUBSYSTEMS_DEFAULT, NvmfTarget

Call = dict[str, Any]

PASSTHRU = (
    "identify_ctrlr",
    "identify_uuid_list",
    "get_log_page",
    "get_set_features",
    "sanitize",
    "security_send_recv",
    "fw_update",
    "nvme_mi",
    "vendor_specific",
)
DHCHAP_DIGESTS = ("sha256", "sha384", "sha512")
DHCHAP_DHGROUPS = ("null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192")


def nvmf_config(target: NvmfTarget) -> list[Call | list[Call]]:
    """A list among the calls is a batch: calls of one kind for all subsystems."""
    subsystems = [subsystem for subsystem in target if not subsystem.discovery]
    namespaces = [(subsystem, namespace) for subsystem in subsystems for namespace in subsystem.namespaces()]
    batches: list[list[Call]] = [
        [_create(subsystem) for subsystem in subsystems],
        [_add_host(subsystem, host) for subsystem in subsystems for host in subsystem.hosts],
        [_add_namespace(subsystem, namespace) for subsystem, namespace in namespaces],
        [
            _call("nvmf_ns_add_host", nqn=subsystem.nqn, nsid=namespace.nsid, host=host)
            for subsystem, namespace in namespaces
            for host in namespace.hosts
        ],
        [_add_listener(subsystem, listener) for subsystem in target for listener in subsystem.listeners],
    ]
    return [*_options(target), *(batch for batch in batches if batch)]


def _call(method: str, **params: Any) -> Call:
    return {"method": method, "params": params}


def _options(target: NvmfTarget) -> Iterator[Call]:
    defaults = {
        "discovery_filters": [],
        "admin_cmd_passthru": dict.fromkeys(PASSTHRU, False),
        "dhchap_digests": list(DHCHAP_DIGESTS),
        "dhchap_dhgroups": list(DHCHAP_DHGROUPS),
        "dup_host_policy": "allow",
    }
    options = target.options
    yield _call("nvmf_set_config", **(defaults | options.settings))
    yield _call("nvmf_set_max_subsystems", max_subsystems=options.max_subsystems or MAX_SUBSYSTEMS_DEFAULT)
    yield _call("nvmf_set_crdt", **{f"crdt{number}": value for number, value in enumerate(options.crdt, 1)})
    for transport in target.transports:
        yield _call("nvmf_create_transport", **transport.describe())
    for referral in target.referrals:
        yield _call("nvmf_discovery_add_referral", **referral.describe())


def _create(subsystem: Subsystem) -> Call:
    options = dict(vars(subsystem.options))
    if not options["admin_label"]:
        del options["admin_label"]
    return _call("nvmf_create_subsystem", nqn=subsystem.nqn, **options)


def _add_host(subsystem: Subsystem, host: Host) -> Call:
    info = host.describe()
    psk = {"psk": host.psk_key.name} if host.psk_key else {}
    return _call("nvmf_subsystem_add_host", nqn=subsystem.nqn, host=info.pop("nqn"), **info, **psk)


def _add_namespace(subsystem: Subsystem, namespace: Namespace) -> Call:
    info = namespace.describe(ana_reporting=subsystem.options.ana_reporting)
    del info["name"]
    if namespace.ptpl_file is not None:
        info["ptpl_file"] = namespace.ptpl_file
    info["no_auto_visible"] = not namespace.always_visible
    return _call("nvmf_subsystem_add_ns", nqn=subsystem.nqn, namespace=info)


def _add_listener(subsystem: Subsystem, listener: SubsystemListener) -> Call:
    sock_impl = {"sock_impl": listener.sock_impl} if listener.sock_impl else {}
    return _call(
        "nvmf_subsystem_add_listener",
        nqn=subsystem.nqn,
        listen_address=listener.trid.describe(),
        secure_channel=listener.secure,
        **sock_impl,
    )
