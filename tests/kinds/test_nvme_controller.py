"""NvmeController: listeners over TCP and RDMA, vfio-user devices, and what of it the target cannot honour."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import HOST_NQN, NQN, World, fabrics, failing, pci, psk
from tests.support.bridge import Bridge
from tests.support.patience import PATIENCE_S
from tests.support.target import Emulator

SUB = "nvmeSubsystems/sub"
TCP, RDMA, PCIE = (f"NVME_TRANSPORT_TYPE_{name}" for name in ("TCP", "RDMA", "PCIE"))


@pytest.fixture
def sub(world: World) -> World:
    """With a subsystem."""
    world.subsystem()
    return world


def controller(world: World, spec: dict[str, Any], resource_id: str = "c0", parent: str = SUB) -> dict[str, Any]:
    """Creates one."""
    return world.make("NvmeController", resource_id, {"spec": spec}, parent)


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), PATIENCE_S):
        return True
    return False


# Fabrics


@pytest.mark.parametrize(
    ("address", "spelling"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::1", "0:0:0:0:0:0:0:1")]
)
def test_the_target_listens_over_tcp(sub: World, address: str, spelling: str) -> None:
    port = sub.ports[0]
    made = controller(sub, {"trtype": TCP, "fabrics_id": fabrics(port, spelling)})
    assert made["spec"]["fabrics_id"]["traddr"] == address
    assert made["status"] == {"active": True}
    found = sub.target.subsystem(NQN)
    assert found is not None
    family = "IPv6" if ":" in address else "IPv4"
    listener = {"trtype": "TCP", "adrfam": family, "traddr": address, "trsvcid": str(port)}
    assert [{name: each[name] for name in listener} for each in found["listen_addresses"]] == [listener]
    assert answers(port, address)
    assert controller(sub, {"trtype": TCP, "fabrics_id": fabrics(port, address)}) == made
    sub.delete("NvmeController", made["name"])
    assert sub.listeners() == []


def test_a_transport_that_is_missing_is_made(own: Bridge, spdk: Emulator, tmp_path: Path) -> None:
    assert spdk.rpc("nvmf_get_transports") == []
    here = World(own, spdk, tmp_path, lambda: spdk)
    here.subsystem()
    here.controller("tcp", here.ports[0])
    here.controller("too", here.ports[1])
    assert [each["trtype"] for each in spdk.rpc("nvmf_get_transports")] == ["TCP"]
    controller(here, {"trtype": PCIE, "pcie_id": pci(1)}, "pcie")
    assert [each["trtype"] for each in spdk.rpc("nvmf_get_transports")] == ["TCP", "VFIOUSER"]


def test_a_target_without_rdma_says_so(sub: World) -> None:
    problem = failing(lambda: controller(sub, {"trtype": RDMA, "fabrics_id": fabrics(sub.ports[0])}))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_controller.spec.trtype")
    assert "RDMA" in problem.message
    assert sub.page("NvmeController", SUB)[0] == []
    assert sub.listeners() == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"trtype": TCP, "pcie_id": pci(1)}, "fabrics_id"),
        ({"trtype": RDMA, "pcie_id": pci(1)}, "fabrics_id"),
        ({"trtype": TCP}, "fabrics_id"),
        ({"trtype": PCIE}, "pcie_id"),
        ({"trtype": PCIE, "fabrics_id": fabrics(4420)}, "pcie_id"),
        ({"trtype": TCP, "fabrics_id": {**fabrics(4420), "adrfam": "NVME_ADDRESS_FAMILY_IPV6"}}, "fabrics_id.traddr"),
        ({"trtype": TCP, "fabrics_id": {**fabrics(4420), "traddr": "::1"}}, "fabrics_id.traddr"),
        ({"trtype": TCP, "fabrics_id": {**fabrics(4420), "traddr": "localhost"}}, "fabrics_id.traddr"),
        ({"trtype": TCP, "fabrics_id": {**fabrics(4420), "adrfam": "NVME_ADDRESS_FAMILY_FC"}}, "fabrics_id.adrfam"),
        ({"trtype": PCIE, "pcie_id": pci(1, port=1)}, "pcie_id.port_id"),
        ({"trtype": PCIE, "pcie_id": pci(1, virtual=2)}, "pcie_id.virtual_function"),
        ({"trtype": PCIE, "pcie_id": pci(-1)}, "pcie_id.physical_function"),
        ({"trtype": PCIE, "pcie_id": {"port_id": 0, "physical_function": 1}}, "pcie_id.virtual_function"),
        ({"trtype": "NVME_TRANSPORT_TYPE_CUSTOM", "fabrics_id": fabrics(4420)}, "trtype"),
        ({"trtype": PCIE, "pcie_id": pci(1), "max_limit": {"rw_iops_kiops": 1}}, "max_limit"),
        ({"trtype": PCIE, "pcie_id": pci(1), "min_limit": {"rw_iops_kiops": 1}}, "min_limit"),
    ],
)
def test_an_endpoint_that_does_not_fit_or_a_limit_is_refused(sub: World, spec: dict[str, Any], field: str) -> None:
    sub.quiet()
    problem = failing(lambda: controller(sub, spec))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"nvme_controller.spec.{field}")
    assert sub.asked() == []


def test_an_address_of_another_machine_is_refused(sub: World) -> None:
    problem = failing(lambda: controller(sub, {"trtype": TCP, "fabrics_id": fabrics(sub.ports[0], "192.0.2.1")}))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_controller.spec.fabrics_id.traddr")
    assert "192.0.2.1" in problem.message
    assert sub.listeners() == []


def test_a_port_that_another_program_has_is_refused(sub: World) -> None:
    port = sub.ports[-1]
    with socket.create_server(("127.0.0.1", port)):
        problem = failing(lambda: sub.controller("c0", port))
    assert problem.code == "FAILED_PRECONDITION"
    assert str(port) in problem.message
    assert sub.listeners() == []
    sub.controller("c0", port)
    assert answers(port)


def test_a_port_is_one_however_it_is_spelt(sub: World) -> None:
    port, zeros = str(sub.ports[0]), f"00{sub.ports[0]}"
    made = controller(sub, {"trtype": TCP, "fabrics_id": {**fabrics(sub.ports[0]), "trsvcid": zeros}})
    assert made["spec"]["fabrics_id"]["trsvcid"] == port
    assert sub.listeners() == [("127.0.0.1", port, False)]
    sub.quiet()
    assert sub.controller("c0", sub.ports[0]) == made
    moved = {"fabrics_id": {**fabrics(sub.ports[0]), "trsvcid": zeros}}
    assert sub.update("NvmeController", {"name": made["name"], "spec": {**made["spec"], **moved}}, "*") == made
    assert sub.asked() == []
    problem = failing(lambda: controller(sub, {"trtype": TCP, **moved}, "c1"))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "nvme_controller.spec.fabrics_id")
    sub.subsystem("other", f"{NQN}:other", hostnqn=HOST_NQN, psk=psk())
    problem = failing(lambda: controller(sub, {"trtype": TCP, **moved}, "c1", "nvmeSubsystems/other"))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_controller.spec.fabrics_id")


@pytest.mark.parametrize("port", ["+4420", " 4420", "4420\n", "٤٤٢٠", "0", "65536", "4" * 5000])
def test_what_is_no_port_is_refused(sub: World, port: str) -> None:
    problem = failing(lambda: controller(sub, {"trtype": TCP, "fabrics_id": {**fabrics(4420), "trsvcid": port}}))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_controller.spec.fabrics_id.trsvcid")


def test_one_listener_is_one_controller(sub: World) -> None:
    first = sub.controller("c0", sub.ports[0])["name"]
    problem = failing(lambda: sub.controller("c1", sub.ports[0]))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "nvme_controller.spec.fabrics_id")
    assert first in problem.message


# Secure or plain


@pytest.mark.parametrize("first_is_secure", [True, False])
def test_an_address_is_all_secure_or_all_plain(world: World, first_is_secure: bool) -> None:
    key = {"hostnqn": HOST_NQN, "psk": psk()}
    world.subsystem("first", f"{NQN}:first", **(key if first_is_secure else {}))
    world.subsystem("other", f"{NQN}:other", **({} if first_is_secure else key))
    world.subsystem("alike", f"{NQN}:alike", **(key if first_is_secure else {}))
    port = world.ports[0]
    holder = world.controller("c0", port, "nvmeSubsystems/first")["name"]
    problem = failing(lambda: world.controller("c0", port, "nvmeSubsystems/other"))
    assert problem.code == "FAILED_PRECONDITION"
    assert holder in problem.message
    assert world.listeners(f"{NQN}:other") == []
    world.controller("c0", port, "nvmeSubsystems/alike")
    assert world.listeners(f"{NQN}:alike") == [("127.0.0.1", str(port), first_is_secure)]


def test_a_key_cannot_be_given_to_one_of_two_that_share_an_address(world: World) -> None:
    for name in ("one", "two"):
        world.subsystem(name, f"{NQN}:{name}", hostnqn=HOST_NQN)
        world.controller("c0", world.ports[0], f"nvmeSubsystems/{name}")
    one = {"name": "nvmeSubsystems/one", "spec": {"psk": psk()}}
    problem = failing(lambda: world.update("NvmeSubsystem", one, "spec.psk"))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_subsystem.spec.psk")
    assert "nvmeSubsystems/two/nvmeControllers/c0" in problem.message
    world.delete("NvmeController", "nvmeSubsystems/two/nvmeControllers/c0")
    world.update("NvmeSubsystem", one, "spec.psk")
    assert world.listeners(f"{NQN}:one") == [("127.0.0.1", str(world.ports[0]), True)]


# PCIe


def test_a_pcie_controller_is_a_vfio_user_device_in_a_folder_of_its_own(sub: World, shared_bridge: KeptBridge) -> None:
    folders = shared_bridge.shared / "vfio-user"
    made = controller(sub, {"trtype": PCIE, "pcie_id": pci(3)})
    assert made["status"] == {"active": True}
    (folder,) = folders.iterdir()
    assert (folder / "cntrl").is_socket()
    assert sub.listeners() == [(str(folder), "", False)]
    sub.delete("NvmeController", made["name"])
    assert list(folders.iterdir()) == []
    assert sub.listeners() == []


def test_a_function_is_for_one_front_end_of_whatever_sort(sub: World) -> None:
    taken = controller(sub, {"trtype": PCIE, "pcie_id": pci(3)})["name"]
    sub.null_volume("v0")
    sub.subsystem("other", f"{NQN}:other")
    attempts = (
        partial(controller, sub, {"trtype": PCIE, "pcie_id": pci(3)}, "c1"),
        partial(controller, sub, {"trtype": PCIE, "pcie_id": pci(3)}, "c0", "nvmeSubsystems/other"),
        partial(sub.make, "VirtioBlk", "blk", {"volume_name_ref": "v0", "pcie_id": pci(3)}),
        partial(sub.make, "VirtioScsiController", "scsi", {"pcie_id": pci(3)}),
    )
    for attempt in attempts:
        problem = failing(attempt)
        assert problem.code == "ALREADY_EXISTS"
        assert "pcie_id" in problem.field
        assert taken in problem.message
    sub.delete("NvmeController", taken)
    controller(sub, {"trtype": PCIE, "pcie_id": pci(3)}, "c0", "nvmeSubsystems/other")


# What is only kept, and what is seen


def test_what_the_target_cannot_honour_is_kept_and_can_be_updated(sub: World) -> None:
    first: dict[str, Any] = {
        "nvme_controller_id": 2,
        "max_nsq": 5,
        "max_ncq": 6,
        "sqes": 7,
        "cqes": 8,
        "max_namespaces": 9,
    }
    made = sub.controller("c0", sub.ports[0], **first)
    assert {name: made["spec"][name] for name in first} == first
    sub.quiet()
    for name, value in first.items():
        sub.update("NvmeController", {"name": made["name"], "spec": {name: value + 10}}, f"spec.{name}")
    kept = sub.get("NvmeController", made["name"])["spec"]
    assert {name: kept[name] - 10 for name in first} == first
    assert sub.asked() == []


def test_active_is_whether_the_target_listens(sub: World) -> None:
    made = sub.controller("c0", sub.ports[0])
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(sub.ports[0])}
    sub.target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address)
    assert sub.get("NvmeController", made["name"]).get("status", {}) == {}
    sub.target.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address)
    assert sub.get("NvmeController", made["name"])["status"] == {"active": True}


def test_a_listener_that_somebody_else_added_is_left_alone(sub: World) -> None:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(sub.ports[0])}
    sub.target.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address)
    problem = failing(lambda: sub.controller("c0", sub.ports[0]))
    assert problem.code == "ALREADY_EXISTS"
    assert sub.listeners() == [("127.0.0.1", str(sub.ports[0]), False)]


def test_its_counters_are_those_of_the_namespaces_behind_it(sub: World) -> None:
    name = sub.controller("c0", sub.ports[0])["name"]
    assert sub.stats("NvmeController", name) == {}
    for number in range(2):
        sub.null_volume(f"v{number}")
        sub.namespace(f"n{number}", f"v{number}")
    before = sub.stats("NvmeController", name)
    for number in range(2):
        with sub.io(f"v{number}") as io:
            io.run(writes=number + 1)
    after = sub.stats("NvmeController", name)
    assert after["write_ops_count"] - before.get("write_ops_count", 0) == 3
