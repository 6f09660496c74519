"""The reckoning: what was acknowledged, what the bridge has, what is in the store and what is on the target."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.message import Message

from opi_spdk_bridge.cli import offline
from tests.chaos.ledger import Ledger, State, describe
from tests.kinds.world import NOUNS, parent_noun, plural, singular
from tests.support.bridge import METHODS, Client
from tests.support.target import Target

Record = dict[str, Any]


@dataclass
class Findings:
    """`lost`: what was acknowledged and is not so. `orphans`: what is there and should not be."""

    lost: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.orphans)


def exported(state: str) -> list[Record]:
    """The records of the store, beside the bridge that has it open."""
    records: list[Record] = asyncio.run(offline.export(state, None, with_secrets=True))["records"]
    return records


def reckon(ledger: Ledger, bridge: Client, state: str, target: Target, shared: Path) -> Findings:
    """Compares all four."""
    found = Findings()
    records = exported(state)
    visible = {record["name"]: record for record in records if record["phase"] != "deleted"}
    for record in visible.values():
        if record["phase"] != "ready":
            found.lost.append(f"{record['name']} was left in phase {record['phase']}")
    _ledger_and_store(ledger, visible, found)
    _store_and_answers(visible, bridge, found)
    world = TargetState(target)
    _store_and_target(list(visible.values()), world, shared, found)
    _nothing_else([*visible.values()], records, world, shared, found)
    return found


def _ledger_and_store(ledger: Ledger, records: dict[str, Record], found: Findings) -> None:
    for name, entry in ledger.entries.items():
        record = records.get(name)
        now = _message(entry.slot.noun, record["resource"]) if record is not None else None
        if now not in [_of_state(entry.slot.noun, state) for state in entry.possible]:
            wanted = " or ".join(str(describe(state)) for state in entry.possible)
            has = describe(record["resource"]) if record is not None else "absent"
            found.lost.append(f"{name}: acknowledged {wanted}; in the store {has}")
    found.orphans += [f"{name} is in the store, nobody asked for it" for name in records if name not in ledger.entries]


def _of_state(noun: str, state: State) -> Message | None:
    return _message(noun, state) if state is not None else None


def _message(noun: str, resource: dict[str, Any]) -> Message:
    message: Message = message_factory.GetMessageClass(METHODS[f"Get{noun}"].output_type)()
    json_format.ParseDict(resource, message)
    return message


def _store_and_answers(records: dict[str, Record], bridge: Client, found: Findings) -> None:
    listed: set[str] = set()
    for noun in NOUNS:
        outer = parent_noun(noun)
        parents = [name for name, record in records.items() if record["kind"] == singular(outer)] if outer else [""]
        for parent in parents:
            answer = bridge.call(f"List{plural(noun)}", {"page_size": 1000, **({"parent": parent} if parent else {})})
            answer.pop("next_page_token", None)
            for item in next(iter(answer.values()), []):
                listed.add(item["name"])
    found.lost += [f"{name} is in the store and in no list" for name in records.keys() - listed]
    found.orphans += [f"{name} is in a list and not in the store" for name in listed - records.keys()]


class TargetState:
    """Everything on the target, read once."""

    def __init__(self, target: Target) -> None:
        self.bdevs = {b["name"]: b for b in target.rpc("bdev_get_bdevs")}
        subsystems = [s for s in target.rpc("nvmf_get_subsystems") if s["subtype"] != "Discovery"]
        self.subsystems = {s["nqn"]: s for s in subsystems}
        self.discovery = [a["trsvcid"] for a in target.discovery_listeners()]
        self.vhost = {v["ctrlr"]: v for v in target.rpc("vhost_get_controllers")}
        self.remote = {c["name"]: c for c in target.rpc("bdev_nvme_get_controllers")}
        self.keys = {k["name"]: k for k in target.rpc("keyring_get_keys") if not k.get("removed")}
        self.crypto_keys = {k["name"]: k for k in target.rpc("accel_crypto_keys_get")}


def _store_and_target(records: list[Record], on: TargetState, shared: Path, found: Findings) -> None:
    for record in records:
        wrong = _compare(record, {r["name"]: r for r in records}, on, shared)
        found.lost += [f"{record['name']}: on the target {text}" for text in wrong]


def _compare(record: Record, records: dict[str, Record], on: TargetState, shared: Path) -> list[str]:
    """What of a record the target does not have as it should."""
    kind, wanted, name = record["kind"], record["resource"], _id(record)
    spec, private = wanted.get("spec", {}), record["private"]
    match kind:
        case "nullVolume" | "mallocVolume" | "aioVolume":
            bdev = on.bdevs.get(name, {})
            unique = wanted.get("uuid") or record["assigned"]["uuid"]
            return _differences(
                bdev,
                uuid=unique,
                block_size=int(wanted["block_size"]),
                **({"num_blocks": int(wanted["blocks_count"])} if "blocks_count" in wanted else {}),
            ) + ([] if kind != "aioVolume" or not bdev else _file(bdev, wanted["filename"]))
        case "encryptedVolume":
            crypto = on.bdevs.get(name, {}).get("driver_specific", {}).get("crypto", {})
            key = on.crypto_keys.get(private["crypto_key"], {})
            material = base64.b64decode(wanted["key"]).hex()
            given = str(key.get("key", "")) + str(key.get("key2", ""))
            wrong = _differences(crypto, base_bdev_name=private["bdev"], key_name=private["crypto_key"])
            return wrong + ([] if given == material else ["has another key"])
        case "qosVolume":
            return _limits(on, private["bdev"], private["qos"])
        case "nvmeSubsystem":
            subsystem = on.subsystems.get(spec["nqn"], {})
            hosts = [h["nqn"] for h in subsystem.get("hosts", [])]
            serial_number = spec.get("serial_number") or record["assigned"]["spec.serial_number"]
            wrong = _differences(subsystem, serial_number=serial_number, allow_any_host="hostnqn" not in spec)
            allowed = [spec["hostnqn"]] if "hostnqn" in spec else []
            wrong += [] if hosts == allowed else [f"the hosts are {hosts}"]
            taken = "psk" not in spec or on.keys.get(private["psk_key"], {}).get("refcnt", 0) > 1
            wrong += [] if taken else ["the TCP transport has not got the key of the host"]
            return wrong + _psk(private, spec.get("psk"), on, shared)
        case "nvmeController":
            parent = records[record["name"].rsplit("/", 2)[0]]["resource"]["spec"]
            listeners = on.subsystems.get(parent["nqn"], {}).get("listen_addresses", [])
            if spec["trtype"] == "NVME_TRANSPORT_TYPE_PCIE":
                at = str(shared / "vfio-user" / f"pf{spec['pcie_id']['physical_function']}")
                there = any(a["traddr"] == at for a in listeners)
            else:
                port = spec["fabrics_id"]["trsvcid"]
                there = any(a["trsvcid"] == port for a in listeners)
                if ("psk" not in parent) != (port in on.discovery):
                    return [f"hosts {'can' if 'psk' in parent else 'cannot'} discover there"]
            return [] if there else ["there is no such listener"]
        case "nvmeNamespace":
            nqn = records[record["name"].rsplit("/", 2)[0]]["resource"]["spec"]["nqn"]
            mine = [
                ns for ns in on.subsystems.get(nqn, {}).get("namespaces", [])
                if ns["nguid"] == record["assigned"]["spec.nguid"]
            ]  # fmt: skip
            if len(mine) != 1:
                return [f"there are {len(mine)} such namespaces"]
            return _differences(mine[0], bdev_name=private["bdev"], nsid=record["assigned"]["spec.host_nsid"])
        case "virtioBlk":
            block = on.vhost.get(name, {}).get("backend_specific", {}).get("block", {})
            wrong = _differences(block, bdev=private["bdev"])
            return wrong + (_limits(on, private["bdev"], private["qos"]) if "qos" in private else [])
        case "virtioScsiTarget" | "virtioScsiController":
            return [] if "scsi" in on.vhost.get(name, {}).get("backend_specific", {}) else ["there is no such device"]
        case "virtioScsiLun":
            device = on.vhost.get(private["ctrlr"], {}).get("backend_specific", {}).get("scsi", [])
            number = private.get("number", 0)  # what is as by default is not kept
            luns = [t["luns"] for t in device if t["scsi_dev_num"] == number]
            there = bool(luns and luns[0] and luns[0][0]["bdev_name"] == private["bdev"])
            return [] if there else [f"SCSI target {number} of {private['ctrlr']} is {luns}"]
        case "nvmeRemoteController":
            return _psk(private, wanted.get("tcp", {}).get("psk"), on, shared)
        case "nvmePath":
            parent = record["name"].split("/")[1]
            paths = on.remote.get(parent, {}).get("ctrlrs", [])
            mine = [p for p in paths if p["trid"]["trsvcid"] == str(wanted["fabrics"]["trsvcid"])]
            return [] if len(mine) == 1 else [f"there are {len(mine)} such paths"]
    raise AssertionError(f"nobody looks at {kind}")


def _id(record: Record) -> str:
    return str(record["name"].rpartition("/")[2])


def _differences(seen: dict[str, Any], **wanted: Any) -> list[str]:
    return [f"{name} is {seen.get(name)!r}, not {value!r}" for name, value in wanted.items() if seen.get(name) != value]


def _file(bdev: dict[str, Any], filename: str) -> list[str]:
    return _differences(bdev["driver_specific"]["aio"], filename=filename)


def _limits(on: TargetState, bdev: str, limits: dict[str, int]) -> list[str]:
    """Limits on a bdev that nothing has open may have to wait until something does (EAGAIN for good)."""
    seen = on.bdevs.get(bdev)
    if seen is None:
        return [f"bdev {bdev} is missing"]
    given = {name: seen["assigned_rate_limits"].get(name, 0) for name in limits}
    return [] if given == limits or not _open(on, bdev) else [f"the limits of {bdev} are {given}, not {limits}"]


def _open(on: TargetState, bdev: str) -> bool:
    """Whether anything has I/O channels to it: a namespace, also one over a crypto vbdev on it."""
    above = [
        name for name, other in on.bdevs.items()
        if other.get("driver_specific", {}).get("crypto", {}).get("base_bdev_name") == bdev
    ]  # fmt: skip
    return any(_open(on, name) for name in above) if above else bool(on.bdevs[bdev]["claimed"])


def _psk(private: dict[str, Any], psk: str | None, on: TargetState, shared: Path) -> list[str]:
    if psk is None:
        return ["there is a key nobody asked for"] if "psk_key" in private else []
    file = shared / "keys" / private["psk_key"]
    wrong = [] if private["psk_key"] in on.keys else ["the key is not in the keyring"]
    if not file.exists() or file.read_bytes() != base64.b64decode(psk):
        return [*wrong, "the key's file does not have it"]
    return (
        wrong if file.stat().st_mode & 0o777 == 0o600 else [*wrong, f"the key's file has mode {file.stat().st_mode:o}"]
    )


def _nothing_else(
    records: list[Record], all_of_store: list[Record], on: TargetState, shared: Path, found: Findings
) -> None:
    """Everything on the target and in the shared folder belongs to a record."""
    by_kind: dict[str, list[Record]] = {}
    for record in records:
        by_kind.setdefault(record["kind"], []).append(record)

    def ids(*kinds: str) -> set[str]:
        return {_id(record) for kind in kinds for record in by_kind.get(kind, [])}

    attached = {record["name"].split("/")[1] for record in by_kind.get("nvmePath", [])}
    keys = {record["private"]["psk_key"] for record in records if "psk_key" in record["private"]}
    namespaces = by_kind.get("nvmeNamespace", [])
    pcie = [r for r in by_kind.get("nvmeController", []) if "pcie_id" in r["resource"]["spec"]]
    folders = {f"pf{r['resource']['spec']['pcie_id']['physical_function']}" for r in pcie}
    volumes = ids("nullVolume", "mallocVolume", "aioVolume", "encryptedVolume") | {f"{name}n1" for name in attached}

    _surplus("bdev", on.bdevs, volumes, found)
    _surplus(
        "subsystem", on.subsystems, {r["resource"]["spec"]["nqn"] for r in by_kind.get("nvmeSubsystem", [])}, found
    )
    _surplus("vhost device", on.vhost, ids("virtioBlk", "virtioScsiTarget", "virtioScsiController"), found)
    _surplus("remote controller", on.remote, attached, found)
    _surplus("key in the keyring", on.keys, keys, found)
    crypto = {r["private"]["crypto_key"] for r in by_kind.get("encryptedVolume", [])}
    _surplus("crypto key", on.crypto_keys, crypto, found)
    _surplus("key file", (path.name for path in (shared / "keys").iterdir()), keys, found)
    _surplus("vfio-user folder", (path.name for path in (shared / "vfio-user").iterdir()), folders, found)
    _count("namespaces", sum(len(s["namespaces"]) for s in on.subsystems.values()), len(namespaces), found)
    listeners = sum(len(s["listen_addresses"]) for s in on.subsystems.values())
    _count("listeners", listeners, len(by_kind.get("nvmeController", [])), found)
    ports = {r["resource"]["spec"]["fabrics_id"]["trsvcid"] for r in by_kind.get("nvmeController", []) if r not in pcie}
    _surplus("discovery listener", on.discovery, ports, found)
    luns = sum(len(v["backend_specific"].get("scsi", [])) for v in on.vhost.values())
    _count("SCSI targets", luns, len(by_kind.get("virtioScsiLun", [])), found)
    paths = sum(len(c["ctrlrs"]) for c in on.remote.values())
    _count("paths", paths, len(by_kind.get("nvmePath", [])), found)
    _limits_of_nobody(records, all_of_store, on, found)


def _limits_of_nobody(records: list[Record], all_of_store: list[Record], on: TargetState, found: Findings) -> None:
    """Limits have a holder, or the store remembers to take them off as soon as something opens the bdev."""
    held = {r["private"]["bdev"] for r in records if "qos" in r["private"]}
    remembered = {r["private"]["bdev"] for r in all_of_store if "qos" in r["private"]}
    remembered |= {volume["bdev"] for r in all_of_store for volume in r["private"].get("owed", ())}
    for name, bdev in on.bdevs.items():
        waits = name in remembered and not _open(on, name)
        if any(bdev["assigned_rate_limits"].values()) and name not in held and not waits:
            found.orphans.append(f"bdev {name} has limits that nobody asked for")


def _surplus(what: str, there: Iterable[str], wanted: set[str], found: Findings) -> None:
    found.orphans += [f"{what} {name}" for name in there if name not in wanted]


def _count(what: str, there: int, wanted: int, found: Findings) -> None:
    if there > wanted:
        found.orphans.append(f"{there - wanted} {what} too many")


def leaks(secrets: Iterable[bytes], logs: Iterable[Path], folder: Path) -> list[str]:
    """The logs in which a secret can be read, in whatever encoding; grep finds thousands of texts at once."""
    forms = {form for secret in set(secrets) for form in spellings(secret) if b"\n" not in form}
    patterns = folder / "secrets.txt"
    patterns.write_bytes(b"\n".join(sorted(forms)))
    command = [
        "grep",
        "--text",
        "--fixed-strings",
        "--only-matching",
        "--byte-offset",
        "-m1",
        "-H",
        f"--file={patterns}",
    ]
    found = subprocess.run([*command, *map(str, logs)], env={"LC_ALL": "C"}, capture_output=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    return [f"a secret is in {line.partition(b':')[0].decode()}" for line in found.stdout.splitlines()]


def spellings(secret: bytes) -> set[bytes]:
    """A secret as it may be written: plain, hexadecimal, base64 (at any offset), escaped."""
    plain = {secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()}
    plain.add("".join(f"\\{byte:03o}" for byte in secret).encode())
    inner = [base64.b64encode(b"x" * pad + secret)[4 * bool(pad) :].rstrip(b"=")[:-1] for pad in range(3)]
    urls = [text.translate(bytes.maketrans(b"+/", b"-_")) for text in inner]
    return plain | {text for text in (*inner, *urls) if len(text) > 12}


def tracebacks(logs: Iterable[Path]) -> list[str]:
    """The logs in which something failed in a way that nobody foresaw."""
    found = []
    for path in logs:
        text = path.read_text(errors="replace")
        at = max(
            text.find(mark) for mark in ("Traceback (most recent call last)", "<traceback object", "this is a bug")
        )
        if at >= 0:
            found.append(f"{path.name}: {text[max(0, at - 300) : at + 3000]}")
    return found
