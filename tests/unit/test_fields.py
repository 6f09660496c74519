from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import fields
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeSubsystem

TCP = opi.NVME_TRANSPORT_TYPE_TCP
PCIE = opi.NVME_TRANSPORT_TYPE_PCIE
IPV4 = opi.NVME_ADDRESS_FAMILY_IPV4


def subsystem(**spec: Any) -> NvmeSubsystem:
    return NvmeSubsystem(spec={"nqn": "nqn.2022-09.io.spdk:a", **spec})


def controller(**spec: Any) -> NvmeController:
    address = {"traddr": "127.0.0.1", "trsvcid": "4420", "adrfam": IPV4}
    return NvmeController(spec={"trtype": TCP, "fabrics_id": address, **spec})


def pci(port: int = 0, physical: int = 0, virtual: int = 0) -> opi.PciEndpoint:
    wrapped = [wrappers_pb2.Int32Value(value=value) for value in (port, physical, virtual)]
    return opi.PciEndpoint(port_id=wrapped[0], physical_function=wrapped[1], virtual_function=wrapped[2])


# Behaviours


def test_a_complete_resource_passes_the_check() -> None:
    fields.check(subsystem(), "nvme_subsystem")
    fields.check(controller(), "nvme_controller")
    fields.check(NullVolume(block_size=512, blocks_count=1), "null_volume")


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        (NullVolume(blocks_count=1), "block_size"),
        (NullVolume(block_size=512), "blocks_count"),
        (NvmeSubsystem(), "spec"),
        (NvmeSubsystem(spec={}), "spec.nqn"),
        (controller(trtype=0), "spec.trtype"),
    ],
)
def test_a_missing_required_field_is_named_by_its_path(resource: Any, path: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="is required") as refused:
        fields.check(resource, "resource")
    assert refused.value.field == f"resource.{path}"


def test_a_required_field_below_a_message_that_is_left_out_is_not_missed() -> None:
    fields.check(NvmeController(spec={"trtype": TCP}), "nvme_controller")


def test_required_wrappers_may_hold_zero_but_not_be_absent() -> None:
    fields.check(controller(trtype=PCIE, pcie_id=pci()), "c")
    absent = opi.PciEndpoint(port_id=wrappers_pb2.Int32Value())
    with pytest.raises(errors.InvalidArgument) as refused:
        fields.check(controller(trtype=PCIE, pcie_id=absent), "c")
    assert refused.value.field == "c.spec.pcie_id.physical_function"


def test_a_number_that_the_enum_does_not_know_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="no value numbered 99") as refused:
        fields.check(controller(trtype=99), "c")
    assert refused.value.field == "c.spec.trtype"


def test_the_name_and_outputs_are_stripped_and_the_rest_stays() -> None:
    resource = subsystem()
    wanted = subsystem()
    resource.name = "nvmeSubsystems/a"
    resource.status.firmware_revision = "made up"
    fields.strip_outputs(resource)
    assert resource == wanted


def test_outputs_are_not_checked() -> None:
    resource = controller()
    resource.status.SetInParent()
    fields.check(resource, "c")


# Access by path


def test_has_tells_what_is_populated_through_messages_that_are_not_there() -> None:
    resource = NvmeController()
    assert not fields.has(resource, "spec.fabrics_id.traddr")
    assert not resource.HasField("spec"), "asking changes nothing"
    assert fields.has(controller(), "spec.fabrics_id.traddr")


def test_a_wrapper_that_holds_zero_is_populated() -> None:
    resource = controller(pcie_id=pci())
    assert fields.has(resource, "spec.pcie_id.port_id")


def test_a_value_is_put_read_and_cleared_by_its_path() -> None:
    resource = NvmeSubsystem()
    fields.put(resource, "spec.serial_number", "S")
    assert fields.get(resource, "spec.serial_number") == "S"
    fields.put(resource, "spec.serial_number", None)
    assert not fields.has(resource, "spec.serial_number")


def test_clearing_what_is_not_there_makes_nothing() -> None:
    resource = NvmeSubsystem()
    fields.clear(resource, "spec.psk")
    assert resource == NvmeSubsystem()


def test_copying_what_the_source_lacks_clears_it() -> None:
    target = subsystem(hostnqn="nqn.2022-09.io.spdk:host")
    fields.copy(subsystem(), target, "spec.hostnqn")
    assert target == subsystem()
    fields.copy(NvmeSubsystem(), target, "spec.nqn")
    assert target == NvmeSubsystem(spec={})


@given(st.binary(max_size=40), st.text(max_size=10), st.integers(0, 2**31 - 1))
def test_splitting_off_fields_loses_nothing(psk: bytes, serial_number: str, most: int) -> None:
    whole = subsystem(psk=psk, serial_number=serial_number, max_namespaces=most)
    without, only = fields.split(whole, ["spec.psk"])
    assert not without.spec.psk
    assert only == (NvmeSubsystem(spec={"psk": psk}) if psk else NvmeSubsystem())
    without.MergeFrom(only)
    assert without == whole


# Update masks


def updated(current: Any, request: Any, mask: list[str], keep: tuple[str, ...] = ()) -> Any:
    before = current.SerializeToString(), request.SerializeToString()
    result = fields.update(current, request, mask, keep=keep, prefix="resource")
    assert (current.SerializeToString(), request.SerializeToString()) == before, "neither operand is changed"
    return result


def test_without_a_mask_every_populated_field_is_taken() -> None:
    current = subsystem(serial_number="S", max_namespaces=4)
    request = NvmeSubsystem(spec={"max_namespaces": 9, "model_number": "M"})
    assert updated(current, request, []) == subsystem(serial_number="S", max_namespaces=9, model_number="M")


def test_without_a_mask_a_default_value_changes_nothing() -> None:
    current = NullVolume(block_size=512, blocks_count=8)
    assert updated(current, NullVolume(block_size=0, blocks_count=0), []) == current


def test_without_a_mask_a_wrapper_of_zero_is_populated() -> None:
    current = controller(trtype=PCIE, pcie_id=pci(1, 2, 3))
    request = NvmeController(spec={"pcie_id": opi.PciEndpoint(virtual_function=wrappers_pb2.Int32Value(value=0))})
    assert updated(current, request, []) == controller(trtype=PCIE, pcie_id=pci(1, 2, 0))


def test_without_a_mask_the_other_member_of_a_oneof_replaces_the_one_that_was() -> None:
    request = NvmeController(spec={"pcie_id": pci()})
    result = updated(controller(), request, [])
    assert result.spec.WhichOneof("endpoint") == "pcie_id"
    assert result.spec.trtype == TCP


def test_a_star_replaces_the_whole() -> None:
    current = subsystem(serial_number="S", hostnqn="nqn.2022-09.io.spdk:h")
    assert updated(current, subsystem(), ["*"]) == subsystem()


def test_a_star_beside_other_paths_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        updated(subsystem(), subsystem(), ["*", "spec"])
    assert refused.value.field == "update_mask"


def test_only_named_fields_change() -> None:
    current = NullVolume(block_size=512, blocks_count=8, uuid="u")
    request = NullVolume(block_size=4096, blocks_count=9, uuid="v")
    assert updated(current, request, ["blocks_count"]) == NullVolume(block_size=512, blocks_count=9, uuid="u")


def test_a_named_field_that_the_request_leaves_out_is_cleared() -> None:
    current = subsystem(hostnqn="nqn.2022-09.io.spdk:h")
    assert updated(current, NvmeSubsystem(), ["spec.hostnqn"]) == subsystem()


def test_a_named_message_is_replaced_not_merged() -> None:
    current = subsystem(serial_number="S")
    assert updated(current, subsystem(model_number="M"), ["spec"]) == subsystem(model_number="M")


def test_a_path_into_a_message_leaves_its_neighbours() -> None:
    request = NvmeController(spec={"fabrics_id": {"trsvcid": "4421", "traddr": "10.0.0.1"}})
    result = updated(controller(), request, ["spec.fabrics_id.trsvcid"])
    assert result.spec.fabrics_id == opi.FabricsEndpoint(traddr="127.0.0.1", trsvcid="4421", adrfam=IPV4)


def test_a_path_may_name_a_wrapper() -> None:
    current = controller(trtype=PCIE, pcie_id=pci(1, 2, 3))
    request = controller(trtype=PCIE, pcie_id=pci(9, 9, 9))
    assert updated(current, request, ["spec.pcie_id.port_id"]) == controller(trtype=PCIE, pcie_id=pci(9, 2, 3))


def test_naming_one_member_of_a_oneof_puts_it_in_the_place_of_the_other() -> None:
    result = updated(controller(), NvmeController(spec={"pcie_id": pci()}), ["spec.pcie_id"])
    assert result.spec.WhichOneof("endpoint") == "pcie_id"


def test_naming_the_member_of_a_oneof_that_neither_has_changes_nothing() -> None:
    assert updated(controller(), controller(), ["spec.pcie_id"]) == controller()


@pytest.mark.parametrize("path", ["name", "status", "status.firmware_revision"])
def test_outputs_in_a_mask_are_ignored(path: str) -> None:
    request = NvmeSubsystem(name="other", status={"firmware_revision": "x"})
    assert updated(subsystem(), request, [path]) == subsystem()


@pytest.mark.parametrize(
    "path", ["", ".", "nope", "spec.nope", "spec.", ".spec", "spec.nqn.nope", "nvme_subsystem.spec", "Spec", "spec nqn"]
)
def test_a_path_that_does_not_exist_is_refused_and_named(path: str) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        updated(subsystem(), subsystem(), ["spec.hostnqn", path])
    assert refused.value.field == "update_mask"
    assert repr(path) in refused.value.message


KEEP = ("spec.serial_number", "spec.psk")


def test_what_get_never_showed_survives_being_sent_back_with_a_star() -> None:
    current = subsystem(serial_number="S", psk=b"secret")
    assert updated(current, subsystem(max_namespaces=5), ["*"], KEEP) == subsystem(
        serial_number="S", psk=b"secret", max_namespaces=5
    )


def test_a_kept_field_survives_the_naming_of_the_message_around_it() -> None:
    current = subsystem(psk=b"secret")
    assert updated(current, subsystem(model_number="M"), ["spec"], KEEP) == subsystem(psk=b"secret", model_number="M")


def test_a_kept_field_goes_when_the_mask_names_it() -> None:
    assert updated(subsystem(psk=b"secret"), subsystem(), ["spec.psk"], KEEP) == subsystem()


def test_a_kept_field_that_the_request_sets_is_replaced() -> None:
    assert updated(subsystem(psk=b"old"), subsystem(psk=b"new"), ["*"], KEEP) == subsystem(psk=b"new")


def test_keeping_makes_nothing_that_was_not_there() -> None:
    assert updated(NvmeSubsystem(), NvmeSubsystem(), ["*"], KEEP) == NvmeSubsystem()


volumes = st.builds(
    NullVolume,
    block_size=st.sampled_from([0, 512, 4096]),
    blocks_count=st.integers(0, 9),
    uuid=st.sampled_from(["", "a", "b"]),
)
paths = st.sampled_from(["block_size", "blocks_count", "uuid"])


@given(volumes, volumes, st.sets(paths, min_size=1))
def test_a_mask_takes_exactly_the_named_fields(current: NullVolume, request: NullVolume, mask: set[str]) -> None:
    result = updated(current, request, sorted(mask))
    for path in ("block_size", "blocks_count", "uuid"):
        assert getattr(result, path) == getattr(request if path in mask else current, path)


@given(volumes, volumes, st.lists(paths, max_size=4))
def test_an_update_repeated_changes_nothing_more(current: NullVolume, request: NullVolume, mask: list[str]) -> None:
    once = updated(current, request, mask)
    assert updated(once, request, mask) == once


@given(volumes, volumes)
def test_no_mask_is_the_mask_of_the_populated_fields(current: NullVolume, request: NullVolume) -> None:
    populated = [field.name for field, _ in request.ListFields()]
    if populated:
        assert updated(current, request, []) == updated(current, request, populated)
