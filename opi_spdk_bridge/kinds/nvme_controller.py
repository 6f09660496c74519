"""NvmeController: a listener of a subsystem, over TCP, RDMA or (vfio-user) PCIe."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Record, Reservation, Settled
from opi_spdk_bridge.kinds import rules
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.kinds.hotplug import Function
from opi_spdk_bridge.kinds.pci import check_function, function_reservation
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeControllerSpec
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import ListenAddress
from opi_spdk_bridge.spdk.shared import VFIO_USER_SOCKET, SharedFolder
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.view import View

_FABRICS = {opi.NVME_TRANSPORT_TYPE_TCP: "TCP", opi.NVME_TRANSPORT_TYPE_RDMA: "RDMA"}
_FAMILIES = {opi.NVME_ADDRESS_FAMILY_IPV4: ("IPv4", 4), opi.NVME_ADDRESS_FAMILY_IPV6: ("IPv6", 6)}


class NvmeControllerKind(SpdkKind[NvmeController, ListenAddress]):
    """SPDK has no use for nvme_controller_id, max_nsq, max_ncq, sqes, cqes, max_namespaces: kept and returned only."""

    message = NvmeController
    immutable: ClassVar[tuple[str, ...]] = ("spec.trtype", "spec.fabrics_id", "spec.pcie_id")

    def normalise(self, resource: NvmeController) -> None:
        fabrics = resource.spec.fabrics_id
        if resource.spec.HasField("fabrics_id") and fabrics.adrfam in _FAMILIES:
            fabrics.traddr = rules.address(fabrics.traddr, _FAMILIES[fabrics.adrfam][1], "spec.fabrics_id.traddr")

    def check(self, resource: NvmeController) -> None:
        spec = resource.spec
        if spec.trtype in _FABRICS:
            _check_fabrics(spec)
        elif is_pcie(resource):
            if not spec.HasField("pcie_id"):
                text = "spec.pcie_id is required: trtype is NVME_TRANSPORT_TYPE_PCIE"
                raise errors.InvalidArgument(text, field="spec.pcie_id")
            check_function(spec.pcie_id, "spec.pcie_id")
            self.host.check(spec.pcie_id, "spec.pcie_id")
        else:
            name = opi.NvmeTransportType.Name(spec.trtype)
            raise errors.InvalidArgument(f"spec.trtype {name} is not served: TCP, RDMA or PCIE", field="spec.trtype")
        for limit in ("min_limit", "max_limit"):
            if spec.HasField(limit):
                text = f"spec.{limit}: the target cannot limit a controller; limit its volumes with a QosVolume"
                raise errors.InvalidArgument(text, field=f"spec.{limit}")

    async def settle(self, name: str, resource: NvmeController, before: Record | None) -> Settled:
        parent = self.graph.record(name.rsplit("/", 2)[0])
        if parent is not None and is_pcie(resource) and parent.desired.spec.hostnqn:
            text = f"{parent.name} is for one host only (hostnqn), which a PCIe controller cannot enforce"
            raise errors.FailedPrecondition(text, field="spec.trtype", resource=parent.name)
        return Settled(stands_on=(parent.name,) if parent is not None else ())

    def reserves(self, record: Record) -> Iterable[Reservation]:
        controller: NvmeController = record.desired
        if is_pcie(controller):
            return (function_reservation(controller.spec.pcie_id, "spec.pcie_id"),)
        parent = self.parent(record).desired.spec
        at = _place(controller.spec)
        own = Reservation(
            f"listener:{parent.nqn} {at}", f"the listener of {parent.nqn} at {at}", field="spec.fabrics_id"
        )
        address = address_reservation(controller, bool(parent.psk))
        return (own, address) if address else (own,)

    # On the target

    async def look(self, record: Record, view: View) -> ListenAddress | None:
        subsystem = await view.subsystem(self.parent(record).desired.spec.nqn)
        if subsystem is None:
            return None
        wanted = listen_address(record.desired, self.target.shared)
        return next((address for address in subsystem.listen_addresses if same_address(address, wanted)), None)

    def steps(self, record: Record, seen: ListenAddress | None) -> list[Step]:
        function = self._function(record) if is_pcie(record.desired) else None
        if seen is not None:
            return self.host.plug(record, function) if function is not None else []
        parent, address = self.parent(record).desired.spec, listen_address(record.desired, self.target.shared)
        steps: list[Step] = []
        plug: list[Step] = []
        if function is not None:
            shared, folder = self.target.shared, _folder(record.desired)
            shared.require_socket_fits(folder)
            plug = [*self.host.bereaved(function), *self.host.plug(record, function)]
            steps.append(
                Step(
                    f"the folder {folder} is missing",
                    lambda: shared.make_socket_folder(folder),
                    lambda: shared.remove_socket_folder(folder),
                )
            )
        if not self.target.has_transport(address.trtype):
            make = functools.partial(self.target.make_transport, address.trtype)
            steps.append(Step(f"transport {address.trtype} is missing", make))
        listen = Step(
            f"{parent.nqn} does not listen at {_at(address)}",
            methods.nvmf_subsystem_add_listener(parent.nqn, address, bool(parent.psk)),
            methods.nvmf_subsystem_remove_listener(parent.nqn, address),
        )
        return [*steps, listen, *plug]

    def removal(self, record: Record, present: bool) -> list[Step]:
        pcie = is_pcie(record.desired)
        steps = self.host.unplug(self._function(record)) if pcie else []
        if present:
            address = listen_address(record.desired, self.target.shared)
            remove = methods.nvmf_subsystem_remove_listener(self.parent(record).desired.spec.nqn, address)
            steps.append(Step(f"the listener at {_at(address)} is still there", remove))
        if pcie:
            shared, folder = self.target.shared, _folder(record.desired)
            steps.append(Step(f"the folder {folder} is still there", lambda: shared.remove_socket_folder(folder)))
        return steps

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        if isinstance(failure.error, errors.BridgeError):
            return failure.error
        address, nqn = listen_address(record.desired, self.target.shared), self.parent(record).desired.spec.nqn
        if failure.step.says.startswith("transport"):
            text = f"the target cannot make the {address.trtype} transport: {failure.error.message}"
            return errors.FailedPrecondition(text, field="spec.trtype")
        if await self.target.view().subsystem(nqn) is None:
            text = f"subsystem {nqn} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.parent)
        if failure.error.is_invalid_parameters and is_pcie(record.desired):
            text = (
                f"the target cannot make a socket in {address.traddr}: it does not see that folder, or may not write it"
                " (--spdk-shared-dir BRIDGE_PATH:TARGET_PATH)"
            )
            return errors.FailedPrecondition(text, resource=record.name)
        if failure.error.is_invalid_parameters:
            text = (
                f"the target cannot listen at {_at(address)}: the address is not one of its own,"
                " or another program there has the port"
            )
            return errors.FailedPrecondition(text, field="spec.fabrics_id.traddr")
        return failure.undiagnosed()

    def foreign(self, record: Record) -> errors.BridgeError:
        at = _at(listen_address(record.desired, self.target.shared))
        text = f"{record.parent} already listens at {at}, by somebody else's doing"
        return errors.AlreadyExists(text, field="spec.fabrics_id", resource=record.name)

    def shown(self, record: Record, seen: ListenAddress | None) -> Facts:
        return {"status.active": seen is not None}

    def shown_when_ready(self, record: Record) -> Facts:
        return {"status.active": True}

    async def measure(self, record: Record) -> Counters:
        return await self.namespace_counters(record.parent)

    def _function(self, record: Record) -> Function:
        async def socket() -> str:
            return f"{listen_address(record.desired, self.target.shared).traddr}/{VFIO_USER_SOCKET}"

        return Function(record.desired.spec.pcie_id.physical_function.value, record.id, True, socket)


def is_pcie(controller: NvmeController) -> bool:
    """Whether hosts see it as a PCIe function."""
    return controller.spec.trtype == opi.NVME_TRANSPORT_TYPE_PCIE


def listen_address(controller: NvmeController, shared: SharedFolder) -> ListenAddress:
    """Where the target is to listen for it."""
    spec = controller.spec
    if is_pcie(controller):
        return ListenAddress(trtype="VFIOUSER", traddr=shared.target_socket_folder(_folder(controller)))
    fabrics = spec.fabrics_id
    family, _ = _FAMILIES[fabrics.adrfam]
    return ListenAddress(trtype=_FABRICS[spec.trtype], adrfam=family, traddr=fabrics.traddr, trsvcid=fabrics.trsvcid)


def address_reservation(controller: NvmeController, secure: bool) -> Reservation | None:
    """One address and port is all secure or all plain: the target would take it over as the first listener made it."""
    if is_pcie(controller):
        return None
    at = _place(controller.spec)
    what = f"{at} as a {'plain' if secure else 'secure'} address"
    tag = "secure" if secure else "plain"
    return Reservation(f"address:{at}", what, tag, errors.FailedPrecondition, "spec.fabrics_id")


def _check_fabrics(spec: NvmeControllerSpec) -> None:
    fabrics = spec.fabrics_id
    if not spec.HasField("fabrics_id"):
        text = f"spec.fabrics_id is required: trtype is {opi.NvmeTransportType.Name(spec.trtype)}"
        raise errors.InvalidArgument(text, field="spec.fabrics_id")
    if fabrics.adrfam not in _FAMILIES:
        text = "spec.fabrics_id.adrfam must be IPV4 or IPV6"
        raise errors.InvalidArgument(text, field="spec.fabrics_id.adrfam")
    if not (fabrics.trsvcid.isascii() and fabrics.trsvcid.isdigit() and 1 <= int(fabrics.trsvcid) <= 65535):
        text = f"spec.fabrics_id.trsvcid {fabrics.trsvcid[:80]!r} is not a port, 1 to 65535"
        raise errors.InvalidArgument(text, field="spec.fabrics_id.trsvcid")


def _place(spec: NvmeControllerSpec) -> str:
    return f"{_FABRICS[spec.trtype]} [{spec.fabrics_id.traddr}]:{int(spec.fabrics_id.trsvcid)}"


def _folder(controller: NvmeController) -> str:
    return f"pf{controller.spec.pcie_id.physical_function.value}"


def _at(address: ListenAddress) -> str:
    return f"{address.trtype} {address.traddr} {address.trsvcid}".rstrip()


def same_address(one: ListenAddress, other: ListenAddress) -> bool:
    """Whether two listeners are one, whatever the case of letters."""
    return one.trsvcid == other.trsvcid and (one.trtype.upper(), one.traddr.lower()) == (
        other.trtype.upper(),
        other.traddr.lower(),
    )
