"""NvmeSubsystem on SPDK: a subsystem, its one host or any, and the host's key."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph
from opi_spdk_bridge.core.record import AnyRecord, Facts, Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.nvme_subsystem import SubsystemOwn, serial_number_of
from opi_spdk_bridge.kinds.shared.addresses import address_reservation, is_pcie
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeSubsystem, NvmeSubsystemSpec
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Host, Subsystem
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.target import TRANSPORT_METHODS, Target
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk import keys
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.discovery import Discovery
from opi_spdk_bridge.targets.spdk.hotplug import Host as HostMachine
from opi_spdk_bridge.targets.spdk.listening import listen_address, same_address, why_not_listening


@dataclass(frozen=True)
class Seen:
    """The subsystem on the target, the host's key there, and whether the TCP transport got that with the host."""

    subsystem: Subsystem
    key: keys.Seen
    key_given: bool

    @property
    def hosts(self) -> list[str]:
        """The NQNs of the hosts that may connect."""
        return _nqns(self.subsystem.hosts)


class NvmeSubsystemSide(SpdkSide[NvmeSubsystem, SubsystemOwn, Seen]):
    """Recognised by its serial number."""

    def __init__(self, target: Target, graph: Graph, host: HostMachine) -> None:
        super().__init__(target, graph, host)
        self._discovery = Discovery(target, graph)

    async def look(self, record: Record[NvmeSubsystem, SubsystemOwn], view: View) -> Seen | None:
        spec = record.desired.spec
        subsystem, key = await asyncio.gather(view.subsystem(spec.nqn), keys.look(record, self.target, view, spec.psk))
        if subsystem is None:
            return None
        given = key.in_use if key.in_use is not None else record.own.psk_given
        listed = spec.hostnqn in _nqns(subsystem.hosts)
        if not given and listed and key.in_use is None and record.previous is None:
            # An older bridge took no note, and the release does not show it: whoever is connected has the key.
            given = spec.hostnqn in await view.connected_hosts(spec.nqn)
        return Seen(subsystem, key, given)

    def ours(self, record: Record[NvmeSubsystem, SubsystemOwn], seen: Seen) -> bool:
        return self._is_ours(record, seen.subsystem)

    def _is_ours(self, record: Record[NvmeSubsystem, SubsystemOwn], subsystem: Subsystem) -> bool:
        return bool(subsystem.serial_number == serial_number_of(record))

    def together(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> bool:
        return self.target.nqn_was_free(record.desired.spec.nqn)

    def steps(self, record: Record[NvmeSubsystem, SubsystemOwn], seen: Seen | None) -> list[Step]:
        if seen is not None:
            return self._changes(record, seen, record.previous)
        other = record.previous  # of an update that was broken off, and then the target lost the subsystem
        return [
            *self._key(record, None),
            self._create(record),
            *([self._add_host(record)] if record.desired.spec.hostnqn else []),
            *(keys.remove(other, self.target) if other is not None and _other_key(record, other) else []),
        ]

    def _changes(
        self, record: Record[NvmeSubsystem, SubsystemOwn], seen: Seen, other: Record[NvmeSubsystem, SubsystemOwn] | None
    ) -> list[Step]:
        """From what is there to the record, all of it or in part still as `other` has it.

        Hosts do not show their keys, nor listeners whether they are secure: where those may differ they are made anew.
        """
        wanted = record.desired.spec
        before = (other or record).desired.spec
        listeners = self._listeners(record) if bool(before.psk) != bool(wanted.psk) else []
        unlisten = [child for child in listeners if self._listens(child, seen)]
        new_key = other is not None and _other_key(record, other)
        stays = wanted.hostnqn == before.hostnqn and wanted.hostnqn in seen.hosts
        stays = stays and (seen.key_given if wanted.psk else not new_key)
        leaves = [host for host in seen.hosts if host != wanted.hostnqn or not stays]
        comes = bool(wanted.hostnqn) and not stays
        return [
            *(self._key(record, seen) if comes else keys.add(record, self.target, wanted.psk, seen.key)),
            *(self._drop_listener(record, child, bool(before.psk)) for child in unlisten),
            *(step for child in listeners if wanted.psk for step in self._discovery.drop(child)),
            *(self._drop_host(record, host, other) for host in leaves),
            *([self._add_host(record)] if comes else []),
            *self._admission(wanted, seen),
            *(self._add_listener(record, child, bool(wanted.psk)) for child in listeners),
            *(step for child in listeners if not wanted.psk for step in self._discovery.restore(child, ())),
            *(keys.remove(other, self.target) if other is not None and new_key else []),
        ]

    def _key(self, record: Record[NvmeSubsystem, SubsystemOwn], seen: Seen | None) -> list[Step]:
        """The key where the target finds it, and the transport that takes it when the host is added.

        The target hands it to no transport that is made later. The transport comes right before the first call: what
        follows goes to the same target, in the same write.
        """
        spec = record.desired.spec
        if not spec.psk:
            return []
        given = (seen.key,) if seen is not None else ()
        says = f"the TCP transport has not got the key of host {spec.hostnqn}"
        transport = Step(says, functools.partial(self.target.make_transport, "TCP"))
        return [
            *keys.write(record, self.target, spec.psk, *given),
            transport,
            *keys.enlist(record, self.target, *given),
        ]

    def _admission(self, wanted: NvmeSubsystemSpec, seen: Seen) -> list[Step]:
        """Whether hosts that are not listed may connect."""
        if seen.subsystem.allow_any_host != bool(wanted.hostnqn):
            return []
        return [self._allow_any_host(wanted.nqn, not wanted.hostnqn)]

    def removal(self, record: Record[NvmeSubsystem, SubsystemOwn], present: bool) -> list[Step]:
        nqn = record.desired.spec.nqn
        delete = Step(f"subsystem {nqn} is still there", methods.nvmf_delete_subsystem(nqn), already=gone)
        other = keys.remove(record.previous, self.target) if record.previous is not None else []
        return [*([delete] if present else []), *keys.remove(record, self.target), *other]

    async def amend(
        self, old: Record[NvmeSubsystem, SubsystemOwn], new: Record[NvmeSubsystem, SubsystemOwn]
    ) -> SubsystemOwn:
        """Looks first: a host that somebody else has added there may have another key."""
        self._require_fit(new)
        if new.desired.spec.psk and not old.desired.spec.psk:
            await self._discovery.require_none_of_others(self._listeners(new), self.target.view())
        seen = await self.look(new, self.target.view())
        if seen is None:
            raise self._lost(new)
        if not self.ours(new, seen):
            raise self.foreign(new)
        return await self._try(new, self._changes(new, seen, old))

    def _listeners(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> list[AnyRecord]:
        return [child for child in self.graph.dependents(record.name) if isinstance(child.desired, NvmeController)]

    def _listens(self, child: AnyRecord, seen: Seen) -> bool:
        wanted = listen_address(child, self.target.shared)
        return any(same_address(address, wanted) for address in seen.subsystem.listen_addresses)

    def _require_fit(self, new: Record[NvmeSubsystem, SubsystemOwn]) -> None:
        """Refuses a host or key that a controller of the subsystem cannot have."""
        spec = new.desired.spec
        for child in self._listeners(new):
            if is_pcie(child.desired) and spec.hostnqn:
                text = f"{child.name} is a PCIe controller, which knows neither host nor key: delete it first"
                raise errors.FailedPrecondition(text, field="spec.hostnqn", resource=child.name)
            wanted = address_reservation(child.desired, bool(spec.psk))
            for holder in self.graph.holders(wanted.key) if wanted else ():
                other = self.graph.record(holder.parent)
                if other is not None and other.name != new.name and bool(other.desired.spec.psk) != bool(spec.psk):
                    text = f"{child.name} and {holder.name} share an address: its listeners are all secure or all plain"
                    raise errors.FailedPrecondition(text, field="spec.psk", resource=holder.name)

    async def diagnose(self, record: Record[NvmeSubsystem, SubsystemOwn], failure: StepFailed) -> errors.BridgeError:
        error, spec = failure.error, record.desired.spec
        if isinstance(error, errors.BridgeError):
            return error
        if error.method in TRANSPORT_METHODS:
            text = f"the target cannot make the TCP transport, which takes the key of a host: {error.message}"
            return errors.FailedPrecondition(text, field="spec.psk")
        refused = keys.why_not_taken(record, self.target, error, "spec.psk")
        if refused is not None:
            return refused
        subsystem = await self.target.view().subsystem(spec.nqn)
        if error.method == "nvmf_create_subsystem":
            return self._why_not_made(record, subsystem, failure)
        if error.gone or (subsystem is None and error.is_invalid_parameters):
            return self._lost(record)
        if error.method == "nvmf_subsystem_add_host":
            return self._why_no_host(record, subsystem, error)
        if error.method == "nvmf_subsystem_add_listener" and subsystem is not None:
            return self._why_no_listener(record, subsystem, failure.step, error) or failure.undiagnosed()
        return failure.undiagnosed()

    def _why_no_listener(
        self, record: Record[NvmeSubsystem, SubsystemOwn], subsystem: Subsystem, step: Step, error: SpdkError
    ) -> errors.BridgeError | None:
        """For the controller, of those whose listeners are made anew, whose address the target refused."""
        for child in self._listeners(record):
            if self._add_listener(record, child, bool(record.desired.spec.psk)).do == step.do:
                cause = why_not_listening(error, listen_address(child, self.target.shared), subsystem)
                return cause and type(cause)(f"{child.name}: {cause.message}", field="spec.psk", resource=child.name)
        return None

    def _why_not_made(
        self, record: Record[NvmeSubsystem, SubsystemOwn], subsystem: Subsystem | None, failure: StepFailed
    ) -> errors.BridgeError:
        spec = record.desired.spec
        if subsystem is not None and not self._is_ours(record, subsystem):
            return self.foreign(record)
        if isinstance(failure.error, SpdkError) and failure.error.message.startswith("Unable to create subsystem"):
            text = (
                f"the target cannot make subsystem {spec.nqn}: it has as many as it may have"
                f" (nvmf_set_max_subsystems), or no memory for max_namespaces {spec.max_namespaces or 'by its default'}"
            )
            return errors.ResourceExhausted(text, resource=record.name)
        return failure.undiagnosed()

    def _why_no_host(
        self, record: Record[NvmeSubsystem, SubsystemOwn], subsystem: Subsystem | None, error: SpdkError
    ) -> errors.BridgeError:
        spec = record.desired.spec
        before = record.previous.desired.spec.hostnqn if record.previous is not None else ""
        if spec.hostnqn != before and subsystem is not None and spec.hostnqn in _nqns(subsystem.hosts):
            text = f"somebody else has just added host {spec.hostnqn} to {spec.nqn}: try again"
            return errors.Aborted(text, resource=record.name)
        key = " with its TLS key" if spec.psk else ""
        text = f"the target would not add host {spec.hostnqn}{key} to {spec.nqn}: {error.message}"
        return errors.FailedPrecondition(text, field="spec.psk" if spec.psk else "spec.hostnqn", resource=record.name)

    def _lost(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> errors.BridgeError:
        nqn = record.desired.spec.nqn
        text = f"subsystem {nqn} is not on the target any more: the bridge will restore it, try again then"
        return errors.Aborted(text, resource=record.name)

    def foreign(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> errors.BridgeError:
        text = f"the target already has a subsystem {record.desired.spec.nqn} that this bridge did not make"
        return errors.AlreadyExists(text, field="spec.nqn", resource=record.name)

    def shown(self, record: Record[NvmeSubsystem, SubsystemOwn], seen: Seen | None) -> Facts:
        return {"status.firmware_revision": self.target.release.version}

    def shown_when_ready(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Facts:
        return self.shown(record, None)

    async def measure(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Counters:
        return await self.namespace_counters(record.name)

    def _create(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Step:
        spec = record.desired.spec
        create = methods.nvmf_create_subsystem(
            spec.nqn, serial_number_of(record), spec.model_number, spec.max_namespaces or None, not spec.hostnqn
        )
        return Step(f"subsystem {spec.nqn} is missing", create, methods.nvmf_delete_subsystem(spec.nqn))

    def _allow_any_host(self, nqn: str, allow: bool) -> Step:
        says = "only listed hosts may connect" if allow else "any host may connect"
        change, undo = (methods.nvmf_subsystem_allow_any_host(nqn, value) for value in (allow, not allow))
        return Step(says, change, undo, guarded=True)

    def _add_host(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Step:
        spec = record.desired.spec
        add = methods.nvmf_subsystem_add_host(spec.nqn, spec.hostnqn, keys.reference(record, self.target))
        remove = methods.nvmf_subsystem_remove_host(spec.nqn, spec.hostnqn)
        learn = _key_given if spec.psk and not self.target.release.keyring else None
        return Step(f"host {spec.hostnqn} may not connect", add, remove, learn=learn, guarded=True)

    def _drop_host(
        self, record: Record[NvmeSubsystem, SubsystemOwn], host: str, other: Record[NvmeSubsystem, SubsystemOwn] | None
    ) -> Step:
        """Of `other` it can be undone, and of the record itself; what somebody else has added does not come back."""
        remove = methods.nvmf_subsystem_remove_host(record.desired.spec.nqn, host)
        known = [state for state in (other, record) if state is not None and state.desired.spec.hostnqn == host]
        undo = self._add_host(known[0]).do if known else None
        says = f"host {host} is to be added anew" if host == record.desired.spec.hostnqn else f"host {host} may connect"
        return Step(says, remove, undo, already=_host_is_off, guarded=True)

    def _add_listener(self, record: Record[NvmeSubsystem, SubsystemOwn], child: AnyRecord, secure: bool) -> Step:
        address = listen_address(child, self.target.shared)
        nqn = record.desired.spec.nqn
        add = methods.nvmf_subsystem_add_listener(nqn, address, secure)
        remove = methods.nvmf_subsystem_remove_listener(nqn, address)
        # Guarded: in one write with the removal it would take over the old socket, secure or not as that was.
        return Step(f"{child.name} does not listen", add, remove, guarded=True)

    def _drop_listener(self, record: Record[NvmeSubsystem, SubsystemOwn], child: AnyRecord, secure: bool) -> Step:
        added = self._add_listener(record, child, secure)
        return Step(f"{child.name} still listens the old way", added.undo or added.do, added.do)


def _nqns(hosts: Iterable[Host]) -> list[str]:
    return [host.nqn for host in hosts]


def _other_key(record: Record[NvmeSubsystem, SubsystemOwn], other: Record[NvmeSubsystem, SubsystemOwn]) -> bool:
    return record.own.psk_key != other.own.psk_key


def _host_is_off(error: SpdkError) -> bool:
    """For removing a host: it was not listed, or is off the list and the target waits no longer for its connections."""
    return error.message in ("Internal error", "Timeout reached during host removal")


def _key_given(_added: bool) -> Callable[[SubsystemOwn], SubsystemOwn]:
    return lambda own: replace(own, psk_given=True)
