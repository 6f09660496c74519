"""NvmePath: the multipath modes, the initiator's side, arrays that do not answer, and volumes in use."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.kinds.world import FAR_NQN, HOST_NQN, NQN, World, failing, free_ports, path_to
from tests.support.late import let_go_later, time_out
from tests.support.target import wait_until

ARRAY = "nvmeRemoteControllers/array"
P0, P1 = f"{ARRAY}/nvmePaths/p0", f"{ARRAY}/nvmePaths/p1"
OTHER_HOST = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"


def controller(world: World, mode: str = "MULTIPATH") -> None:
    """An array with three addresses, and its controller here."""
    world.array(listeners=3)
    world.remote_controller(multipath=f"NVME_MULTIPATH_{mode}")


def ctrlrs(world: World) -> list[dict[str, Any]]:
    """The target's connections to the array."""
    found = world.target.remote_controller("array")
    return found["ctrlrs"] if found is not None else []


def connected(world: World) -> list[str]:
    """The ports of the array that are connected to."""
    return sorted(each["trid"]["trsvcid"] for each in ctrlrs(world))


def texts(ports: list[int]) -> list[str]:
    """Ports as the target has them."""
    return sorted(map(str, ports))


# Modes


def test_the_first_path_makes_the_controller_and_the_last_takes_it_away(world: World) -> None:
    controller(world)
    assert world.target.remote_controller("array") is None
    world.path("p0", world.ports[0])
    world.path("p1", world.ports[1])
    assert connected(world) == texts(world.ports[:2])
    assert world.target.bdev("arrayn1") is not None
    world.delete("NvmePath", P0)
    assert connected(world) == texts(world.ports[1:2])
    assert world.target.bdev("arrayn1") is not None
    world.delete("NvmePath", P1)
    assert world.target.remote_controller("array") is None
    assert world.target.bdev("arrayn1") is None


def test_in_failover_the_second_path_stands_by(world: World) -> None:
    controller(world, "FAILOVER")
    world.path("p0", world.ports[0])
    world.path("p1", world.ports[1])
    (only,) = ctrlrs(world)
    assert only["trid"]["trsvcid"] == str(world.ports[0])
    assert [trid["trsvcid"] for trid in only["alternate_trids"]] == [str(world.ports[1])]
    world.delete("NvmePath", P1)
    (only,) = ctrlrs(world)
    assert only.get("alternate_trids", []) == []


def test_with_multipath_disabled_there_is_one_path(world: World) -> None:
    controller(world, "DISABLE")
    world.path("p0", world.ports[0])
    problem = failing(lambda: world.path("p1", world.ports[1]))
    assert problem.code == "FAILED_PRECONDITION"
    assert P0 in problem.message
    assert connected(world) == texts(world.ports[:1])
    world.delete("NvmePath", P0)
    world.path("p1", world.ports[1])
    assert connected(world) == texts(world.ports[1:2])


def test_an_equal_path_is_refused_naming_the_other(world: World) -> None:
    controller(world)
    world.path("p0", world.ports[0])
    problem = failing(lambda: world.path("p1", world.ports[0]))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "nvme_path.traddr")
    assert P0 in problem.message


# The initiator's side, and the subsystem


def test_the_connection_comes_from_the_source_address_that_was_given(world: World) -> None:
    controller(world)
    made = world.path("p0", world.ports[0], source_traddr="127.0.0.2", hostnqn=HOST_NQN)
    (only,) = ctrlrs(world)
    assert (only["host"]["nqn"], only["host"]["addr"]) == (HOST_NQN, "127.0.0.2")
    assert world.path("p0", world.ports[0], source_traddr="127.0.0.2", hostnqn=HOST_NQN) == made
    world.delete("NvmePath", P0)
    assert ctrlrs(world) == []


def test_one_source_port_for_all_queues_of_a_tcp_path_is_refused(world: World) -> None:
    controller(world)
    (port,) = free_ports(1)
    problem = failing(lambda: world.path("p0", world.ports[0], source_traddr="127.0.0.2", source_trsvcid=port))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_path.fabrics.source_trsvcid")
    assert ctrlrs(world) == []
    world.path("p0", world.ports[0])
    moved = {"name": P0, **path_to(world.ports[0], source_trsvcid=port)}
    problem = failing(lambda: world.update("NvmePath", moved))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_path.fabrics.source_trsvcid")
    assert connected(world) == texts(world.ports[:1])


def test_the_target_passes_no_io_through_one_source_port(world: World) -> None:
    """Why it is refused."""
    controller(world)
    world.path("p0", world.ports[0])
    (port,) = free_ports(1)
    theirs = {"name": "array", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "subnqn": FAR_NQN}
    for number, source in ((1, {}), (2, {"hostsvcid": str(port)})):
        path = {**theirs, "trsvcid": str(world.ports[number]), "hostaddr": "127.0.0.2"}
        world.target.rpc("bdev_nvme_attach_controller", **path, **source)
    world.subsystem()
    world.namespace("n0", "arrayn1")  # opens the bdev

    def passable() -> list[str]:
        (group,) = world.target.rpc("bdev_nvme_get_io_paths", name="arrayn1")["poll_groups"]
        return sorted(path["transport"]["trsvcid"] for path in group["io_paths"] if path["connected"])

    wait_until(lambda: passable() == texts(world.ports[:2]), "the paths from ports of the system's choice take I/O")
    assert connected(world) == texts(world.ports[:3])
    world.target.rpc("bdev_nvme_detach_controller", name="array")


def test_a_source_of_another_family_is_refused(world: World) -> None:
    controller(world)
    problem = failing(lambda: world.path("p0", world.ports[0], source_traddr="::1"))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_path.fabrics.source_traddr")


@pytest.mark.parametrize("field", ["subnqn", "hostnqn"])
def test_all_paths_lead_to_one_subsystem_for_one_host(world: World, field: str) -> None:
    controller(world)
    world.path("p0", world.ports[0])
    problem = failing(lambda: world.make("NvmePath", "p1", path_to(world.ports[1], **{field: OTHER_HOST}), ARRAY))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"nvme_path.fabrics.{field}")
    assert P0 in problem.message
    assert connected(world) == texts(world.ports[:1])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ({"trtype": "NVME_TRANSPORT_TYPE_TCP", "traddr": "127.0.0.1"}, "fabrics"),
        ({"trtype": "NVME_TRANSPORT_TYPE_RDMA", "traddr": "127.0.0.1"}, "fabrics"),
        ({**path_to(4420), "trtype": "NVME_TRANSPORT_TYPE_PCIE", "traddr": "0000:01:00.0"}, "fabrics"),
        ({"trtype": "NVME_TRANSPORT_TYPE_PCIE", "traddr": "127.0.0.1"}, "traddr"),
        ({"trtype": "NVME_TRANSPORT_TYPE_PCIE", "traddr": "0000:01:00.8"}, "traddr"),
        (path_to(0), "fabrics.trsvcid"),
    ],
)
def test_an_address_that_does_not_fit_its_transport_is_refused(world: World, path: dict[str, Any], field: str) -> None:
    world.remote_controller()
    world.quiet()
    problem = failing(lambda: world.make("NvmePath", "p0", path, ARRAY))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"nvme_path.{field}")
    assert world.asked() == []


@pytest.mark.parametrize(
    "path",
    [
        {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "traddr": "0000:7f:1f.7"},
        {**path_to(4420, source_trsvcid=4421), "trtype": "NVME_TRANSPORT_TYPE_RDMA"},
    ],
    ids=["PCIe", "RDMA"],
)
def test_what_the_targets_host_has_not_is_a_clear_error(world: World, path: dict[str, Any]) -> None:
    world.remote_controller()
    problem = failing(lambda: world.make("NvmePath", "p0", path, ARRAY))
    assert problem.code in ("UNAVAILABLE", "FAILED_PRECONDITION")
    assert path["traddr"] in problem.message
    assert ctrlrs(world) == []
    assert world.page("NvmePath", ARRAY)[0] == []


@contextlib.contextmanager
def renamed(port: int, nqn: str) -> Iterator[int]:
    """A port that leads to the array at the other one, where its subsystem has that name: one of as many bytes."""
    assert len(nqn) == len(FAR_NQN)

    def forward(source: socket.socket, sink: socket.socket, name: bytes = b"-", other: bytes = b"-") -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 20):
                sink.sendall(content.replace(name, other))
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                array = socket.create_connection(("127.0.0.1", port))
                opened.extend([client, array])
                there = (client, array, nqn.encode(), FAR_NQN.encode())
                for each in (there, (array, client)):
                    threading.Thread(target=forward, args=each, daemon=True).start()

    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, args=[listener], daemon=True)
        accepting.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for each in opened:
        each.close()


@pytest.mark.parametrize("nqn", ["testnqn-of-some-array-x", "nqn.2005-10.com.3par:ab", "nqn.2022-13.io:any name"])
@pytest.mark.parametrize("hostnqn", ["", "testhost"])
def test_an_array_and_a_host_may_have_names_of_any_form(world: World, nqn: str, hostnqn: str) -> None:
    controller(world)
    more = {"hostnqn": hostnqn} if hostnqn else {}
    with renamed(world.ports[0], nqn) as port:
        made = world.make("NvmePath", "p0", path_to(port, nqn=nqn, **more), ARRAY)
        assert made["fabrics"]["subnqn"] == nqn
        (only,) = ctrlrs(world)
        assert only["trid"]["subnqn"] == nqn
        assert not hostnqn or only["host"]["nqn"] == hostnqn
        assert world.target.bdev("arrayn1") is not None
        assert world.make("NvmePath", "p0", path_to(port, nqn=nqn, **more), ARRAY) == made
        world.delete("NvmePath", P0)
        assert ctrlrs(world) == []


@pytest.mark.parametrize("nqn", ["nqn.2014-08.org.nvmexpress.discovery", "nqn.2014-08.org.nvmexpress.discovery:x"])
def test_a_discovery_subsystem_is_refused_for_it_has_no_volumes(world: World, nqn: str) -> None:
    world.remote_controller()
    problem = failing(lambda: world.make("NvmePath", "p0", path_to(world.ports[0], nqn=nqn), ARRAY))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_path.fabrics.subnqn")
    assert "it has no volumes" in problem.message


# Arrays that do not answer


def test_an_array_that_is_not_there_is_named_and_nothing_is_left(world: World) -> None:
    controller(world)
    (port,) = free_ports(1)
    problem = failing(lambda: world.path("p0", port))
    assert (problem.code, problem.field) == ("UNAVAILABLE", "nvme_path.traddr")
    assert f"127.0.0.1 {port}" in problem.message
    assert FAR_NQN in problem.message
    assert ctrlrs(world) == []
    assert world.leftovers() == {}
    assert world.page("NvmePath", ARRAY)[0] == []
    world.path("p0", world.ports[0])


def test_a_subsystem_that_the_array_has_not_is_named_and_nothing_is_left(world: World) -> None:
    controller(world)
    problem = failing(lambda: world.make("NvmePath", "p0", path_to(world.ports[0], nqn=f"{NQN}:missing"), ARRAY))
    assert problem.code == "UNAVAILABLE"
    assert f"{NQN}:missing" in problem.message
    assert ctrlrs(world) == []


def test_a_host_that_the_array_does_not_admit_is_told(world: World) -> None:
    controller(world)
    world.far.rpc("nvmf_subsystem_allow_any_host", nqn=FAR_NQN, allow_any_host=False)
    world.far.rpc("nvmf_subsystem_add_host", nqn=FAR_NQN, host=HOST_NQN)
    problem = failing(lambda: world.path("p0", world.ports[0], hostnqn=OTHER_HOST))
    assert problem.code == "UNAVAILABLE"
    assert "host" in problem.message
    world.path("p0", world.ports[0], hostnqn=HOST_NQN)
    assert connected(world) == texts(world.ports[:1])


def test_an_array_that_is_silent_takes_no_longer_than_the_deadline(world: World) -> None:
    world.remote_controller()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = {"parent": ARRAY, "nvme_path_id": "p0", "nvme_path": path_to(silent.getsockname()[1])}
        problem = failing(lambda: world.opi.call("CreateNvmePath", path, timeout_s=1.0))
        assert problem.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    world.delete("NvmePath", P0, allow_missing=True)
    assert ctrlrs(world) == []


def test_a_path_that_is_deleted_while_the_target_still_connects_does_not_come_late(frail: World) -> None:
    controller(frail)
    path = {"parent": ARRAY, "nvme_path_id": "p0", "nvme_path": path_to(frail.ports[0])}
    create = partial(frail.opi.call, "CreateNvmePath", path)
    time_out(frail.target, "bdev_nvme_attach_controller", lambda timeout_s: create(timeout_s=timeout_s))
    with let_go_later(frail.target):
        frail.delete("NvmePath", P0)
    assert "array" not in frail.target.inventory()["remote"]
    frail.path("p0", frail.ports[0])


# Another address


def test_a_path_moves_under_a_volume_in_use(world: World) -> None:
    controller(world)
    world.path("p0", world.ports[0])
    world.subsystem()
    world.namespace("n0", "arrayn1")
    answer = world.update("NvmePath", {"name": P0, **path_to(world.ports[1])})
    assert answer["fabrics"]["trsvcid"] == str(world.ports[1])
    assert connected(world) == texts(world.ports[1:2])
    subsystem = world.target.subsystem(NQN)
    assert subsystem is not None
    assert [ns["bdev_name"] for ns in subsystem["namespaces"]] == ["arrayn1"]


def test_an_only_path_moves_where_nothing_stands_on_its_volumes(world: World) -> None:
    controller(world, "DISABLE")
    world.path("p0", world.ports[0])
    world.update("NvmePath", {"name": P0, **path_to(world.ports[1])})
    assert connected(world) == texts(world.ports[1:2])
    world.subsystem()
    user = world.namespace("n0", "arrayn1")["name"]
    problem = failing(lambda: world.update("NvmePath", {"name": P0, **path_to(world.ports[2])}))
    assert problem.code == "FAILED_PRECONDITION"
    assert user in problem.message
    assert connected(world) == texts(world.ports[1:2])


def test_a_path_that_cannot_move_stays(world: World) -> None:
    (port,) = free_ports(1)
    for mode in ("MULTIPATH", "DISABLE"):
        controller(world, mode)
        made = world.path("p0", world.ports[0])
        problem = failing(partial(world.update, "NvmePath", {"name": P0, **path_to(port)}))
        assert problem.code == "UNAVAILABLE"
        assert connected(world) == texts(world.ports[:1])
        assert world.get("NvmePath", P0) == made
        world.clear()


def test_an_equal_update_leaves_the_connection(world: World) -> None:
    controller(world)
    made = world.path("p0", world.ports[0])
    before = ctrlrs(world)
    assert world.update("NvmePath", made, "*") == made
    assert ctrlrs(world) == before


def test_the_last_path_to_volumes_in_use_stays(world: World) -> None:
    controller(world)
    world.path("p0", world.ports[0])
    world.path("p1", world.ports[1])
    world.subsystem()
    user = world.namespace("n0", f"{ARRAY}/nvmeRemoteNamespaces/1")["name"]
    world.delete("NvmePath", P0)
    problem = failing(lambda: world.delete("NvmePath", P1))
    assert problem.code == "FAILED_PRECONDITION"
    assert user in problem.message
    assert connected(world) == texts(world.ports[1:2])


# Counters


@pytest.mark.parametrize(("kept", "moved"), [(True, [7, 0]), (False, [7, 7])], ids=["own", "the volume's"])
def test_a_paths_counters_are_its_own_where_the_target_keeps_them(frail: World, kept: bool, moved: list[int]) -> None:
    frail.target.rpc("bdev_nvme_set_options", io_path_stat=kept)
    controller(frail)
    frail.path("p0", frail.ports[0])
    frail.path("p1", frail.ports[1])
    before = [frail.stats("NvmePath", name).get("write_ops_count", 0) for name in (P0, P1)]
    frail.target.rpc("emulator_run_io", name="arrayn1", writes=7, blocks=1)
    after = [frail.stats("NvmePath", name).get("write_ops_count", 0) for name in (P0, P1)]
    assert [now - then for then, now in zip(before, after, strict=True)] == moved
