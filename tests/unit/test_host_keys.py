"""Hosts with TLS keys on releases without a keyring, which do not show whether the transport got the key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opi_spdk_bridge.core.record import Phase, Record
from opi_spdk_bridge.kinds.nvme_subsystem import SubsystemOwn
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeSubsystem
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Host, Subsystem
from opi_spdk_bridge.spdk.release import Release
from opi_spdk_bridge.spdk.shared import SharedFolder
from opi_spdk_bridge.targets.spdk.nvme_subsystem import NvmeSubsystemSide

NQN, HOST, SERIAL = "nqn.2022-09.io.spdk:opi", "nqn.2022-09.io.spdk:host", "OURS"
PSK = b"NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"


class View:
    """A subsystem with the host, and who is connected to it."""

    def __init__(self, connected: set[str]) -> None:
        self._connected = connected

    async def subsystem(self, nqn: str) -> Subsystem:
        return Subsystem(nqn=nqn, serial_number=SERIAL, hosts=(Host(nqn=HOST),))

    async def connected_hosts(self, _nqn: str) -> set[str]:
        return self._connected


@pytest.fixture
def side(tmp_path: Path) -> NvmeSubsystemSide:
    """On a target of such a release."""
    shared = SharedFolder(tmp_path, tmp_path)
    shared.prepare()
    (tmp_path / "keys" / "opi-key").write_bytes(PSK)

    async def transport_is_there(_trtype: str) -> None:
        pass

    release = Release("SPDK v24.01", frozenset())
    target: Any = SimpleNamespace(release=release, shared=shared, uid=None, make_transport=transport_is_there)
    unused: Any = None
    return NvmeSubsystemSide(target, unused, unused)


OWN = SubsystemOwn(psk_key="opi-key")


def subsystem(own: SubsystemOwn = OWN) -> Record[NvmeSubsystem, SubsystemOwn]:
    desired = NvmeSubsystem()
    desired.spec.nqn, desired.spec.serial_number, desired.spec.hostnqn, desired.spec.psk = NQN, SERIAL, HOST, PSK
    return Record("nvmeSubsystem", "nvmeSubsystems/sub", desired, Phase.READY, 1, 0.0, 0.0, own)


async def calls(side: NvmeSubsystemSide, record: Record[NvmeSubsystem, SubsystemOwn], connected: set[str]) -> list[str]:
    """What is left to do on the target."""
    view: Any = View(connected)
    seen = await side.look(record, view)
    return [step.do.method for step in side.steps(record, seen) if isinstance(step.do, Call)]


async def test_a_host_of_which_an_earlier_bridge_took_no_note_is_added_anew_unless_it_is_connected(
    side: NvmeSubsystemSide,
) -> None:
    anew = ["nvmf_subsystem_remove_host", "nvmf_subsystem_add_host"]
    assert await calls(side, subsystem(), set()) == anew
    assert await calls(side, subsystem(), {"another"}) == anew
    assert await calls(side, subsystem(), {HOST}) == []


async def test_the_note_is_taken_when_the_host_is_added_and_then_it_is_left_alone(side: NvmeSubsystemSide) -> None:
    steps = side.steps(subsystem(), None)
    assert [step.says for step in steps if not isinstance(step.do, Call)] == [
        "the key's file is missing",
        f"the TCP transport has not got the key of host {HOST}",
    ]
    *_, add_host = steps
    assert isinstance(add_host.do, Call)
    assert add_host.learn is not None
    assert str((add_host.do.params or {})["psk"]).endswith("/keys/opi-key"), "a file's path"
    assert await calls(side, subsystem(add_host.learn(True)(OWN)), set()) == []
