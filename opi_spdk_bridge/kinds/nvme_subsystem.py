"""NvmeSubsystem: an NVMe-oF subsystem, the host that may connect to it and that host's TLS key."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Record, Reservation, Settled
from opi_spdk_bridge.kinds.nvme_controller import address_reservation, is_pcie, listen_address, same_address
from opi_spdk_bridge.kinds.shared import keys, rules
from opi_spdk_bridge.kinds.shared.base import SpdkKind
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeSubsystem, NvmeSubsystemSpec
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import Subsystem
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View


@dataclass(frozen=True)
class Seen:
    """The subsystem on the target, and whether the keyring has its key."""

    subsystem: Subsystem
    has_key: bool


class NvmeSubsystemKind(SpdkKind[NvmeSubsystem, Seen]):
    """Recognised by its serial number: the client's, or one chosen before the first call."""

    message = NvmeSubsystem
    immutable: ClassVar[tuple[str, ...]] = (
        "spec.nqn", "spec.serial_number", "spec.model_number", "spec.max_namespaces",
    )  # fmt: skip
    secrets: ClassVar[tuple[str, ...]] = ("spec.psk",)
    assigned: ClassVar[tuple[str, ...]] = ("spec.serial_number",)

    def check(self, resource: NvmeSubsystem) -> None:
        spec = resource.spec
        rules.nqn(spec.nqn, "spec.nqn")
        rules.printable_ascii(spec.serial_number, 20, "spec.serial_number")
        rules.printable_ascii(spec.model_number, 40, "spec.model_number")
        rules.within(spec.max_namespaces, 0, 2**32 - 2, "spec.max_namespaces")
        if spec.hostnqn:
            rules.nqn(spec.hostnqn, "spec.hostnqn")
        if spec.psk:
            if not spec.hostnqn:
                text = (
                    "spec.psk is the key of one host: it needs spec.hostnqn (to clear it, name spec.psk in update_mask)"
                )
                raise errors.InvalidArgument(text, field="spec.psk")
            rules.psk(spec.psk, "spec.psk")

    async def settle(self, name: str, resource: NvmeSubsystem, before: Record | None) -> Settled:
        assigned: dict[str, str] = dict(before.assigned) if before else {}
        if not resource.spec.serial_number and not assigned:
            assigned["spec.serial_number"] = uuid.uuid4().hex[:20].upper()
        private: dict[str, str] = {}
        if resource.spec.psk:
            same = before is not None and before.desired.spec.psk == resource.spec.psk
            private[keys.NAME] = before.private[keys.NAME] if before and same else f"opi-{uuid.uuid4().hex}"
        return Settled(assigned, private)

    def reserves(self, record: Record) -> Iterable[Reservation]:
        nqn, serial = record.desired.spec.nqn, self._serial_number(record)
        yield Reservation(f"nqn:{nqn}", f"the NQN {nqn}", field="spec.nqn")
        yield Reservation(f"serial:{serial}", f"the serial number {serial}", field="spec.serial_number")

    # On the target

    async def look(self, record: Record, view: View) -> Seen | None:
        key = keys.present(record, self.target, view)
        subsystem, has_key = await asyncio.gather(view.subsystem(record.desired.spec.nqn), key)
        return Seen(subsystem, has_key) if subsystem else None

    def ours(self, record: Record, seen: Seen) -> bool:
        return bool(seen.subsystem.serial_number == self._serial_number(record))

    def together(self, record: Record) -> bool:
        return self.target.nqn_was_free(record.desired.spec.nqn)

    def steps(self, record: Record, seen: Seen | None) -> list[Step]:
        if seen is not None and record.previous is not None:
            return self._finish_amendment(record, record.previous, seen)
        spec: NvmeSubsystemSpec = record.desired.spec
        hosts = _hosts(seen)
        steps: list[Step] = []
        if spec.psk and (seen is None or not seen.has_key or spec.hostnqn not in hosts):
            steps += keys.add(record, self.target, spec.psk)
        if seen is None:
            steps.append(self._create(record))
        elif seen.subsystem.allow_any_host == bool(spec.hostnqn):
            steps.append(self._allow_any_host(spec.nqn, not spec.hostnqn))
        if spec.hostnqn and spec.hostnqn not in hosts:
            steps.append(self._add_host(record))
        other = record.previous  # of an update that was broken off, and then the target lost the subsystem
        if other is not None and other.private.get(keys.NAME) != record.private.get(keys.NAME):
            steps += keys.remove(other, self.target)
        return steps

    def _finish_amendment(self, record: Record, other: Record, seen: Seen) -> list[Step]:
        """From somewhere between two states to the one: hosts do not show their keys, nor listeners whether they are
        secure, so where those differ they are made anew."""
        before, after = other.desired.spec, record.desired.spec
        new_key = other.private.get(keys.NAME) != record.private.get(keys.NAME)
        hosts = _hosts(seen)
        steps = keys.add(record, self.target, after.psk)
        listeners = self._listeners(record) if bool(before.psk) != bool(after.psk) else []
        present = [child for child in listeners if self._listens(child, seen)]
        steps += [self._drop_listener(record, child, bool(before.psk)) for child in present]
        for state in (other, record):
            hostnqn = state.desired.spec.hostnqn
            if hostnqn in hosts and (hostnqn != after.hostnqn or new_key):
                hosts.discard(hostnqn)
                steps.append(self._drop_host(state))
        if after.hostnqn and after.hostnqn not in hosts:
            steps.append(self._add_host(record))
        if seen.subsystem.allow_any_host == bool(after.hostnqn):
            steps.append(self._allow_any_host(after.nqn, not after.hostnqn))
        steps += [self._add_listener(record, child, bool(after.psk)) for child in listeners]
        return [*steps, *(keys.remove(other, self.target) if new_key else [])]

    def removal(self, record: Record, present: bool) -> list[Step]:
        nqn = record.desired.spec.nqn
        delete = Step(f"subsystem {nqn} is still there", methods.nvmf_delete_subsystem(nqn), already=gone)
        other = keys.remove(record.previous, self.target) if record.previous is not None else []
        return [*([delete] if present else []), *keys.remove(record, self.target), *other]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        before, after = old.desired.spec, new.desired.spec
        self._require_fit(new)
        listeners = self._listeners(new) if bool(before.psk) != bool(after.psk) else []
        hosts_change = before.hostnqn != after.hostnqn or old.private.get(keys.NAME) != new.private.get(keys.NAME)
        new_key = old.private.get(keys.NAME) != new.private.get(keys.NAME)
        steps = keys.add(new, self.target, after.psk) if after.psk and new_key else []
        steps += [self._drop_listener(new, child, bool(before.psk)) for child in listeners]
        if hosts_change:
            if not after.hostnqn:
                steps.append(self._allow_any_host(after.nqn, True))
            if before.hostnqn:
                steps.append(self._drop_host(old))
            if after.hostnqn:
                steps.append(self._add_host(new))
            if not before.hostnqn:
                steps.append(self._allow_any_host(after.nqn, False))
        steps += [self._add_listener(new, child, bool(after.psk)) for child in listeners]
        return [*steps, *(keys.remove(old, self.target) if before.psk and new_key else [])]

    def _listeners(self, record: Record) -> list[Record]:
        return [child for child in self.graph.dependents(record.name) if isinstance(child.desired, NvmeController)]

    def _listens(self, child: Record, seen: Seen) -> bool:
        wanted = listen_address(child.desired, self.target.shared)
        return any(same_address(address, wanted) for address in seen.subsystem.listen_addresses)

    def _require_fit(self, new: Record) -> None:
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

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        spec = record.desired.spec
        if await self.target.view().subsystem(spec.nqn) is None and failure.step.says.startswith("host"):
            text = f"subsystem {spec.nqn} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.name)
        if isinstance(failure.error, errors.BridgeError):
            return failure.error
        text = f"the target would not have it that {failure.step.says.partition(':')[0]}: {failure.error.message}"
        return errors.TargetFailure(text, resource=record.name)

    def foreign(self, record: Record) -> errors.BridgeError:
        text = f"the target already has a subsystem {record.desired.spec.nqn} that this bridge did not make"
        return errors.AlreadyExists(text, field="spec.nqn", resource=record.name)

    def shown(self, record: Record, seen: Seen | None) -> Facts:
        return {"status.firmware_revision": self.target.release.version}

    def shown_when_ready(self, record: Record) -> Facts:
        return self.shown(record, None)

    async def measure(self, record: Record) -> Counters:
        return await self.namespace_counters(record.name)

    def _serial_number(self, record: Record) -> str:
        return str(record.desired.spec.serial_number or record.assigned["spec.serial_number"])

    # The steps

    def _create(self, record: Record) -> Step:
        spec: NvmeSubsystemSpec = record.desired.spec
        create = methods.nvmf_create_subsystem(
            spec.nqn, self._serial_number(record), spec.model_number, spec.max_namespaces or None, not spec.hostnqn
        )
        return Step(f"subsystem {spec.nqn} is missing", create, methods.nvmf_delete_subsystem(spec.nqn))

    def _allow_any_host(self, nqn: str, allow: bool) -> Step:
        says = "only listed hosts may connect" if allow else "any host may connect"
        change, undo = (methods.nvmf_subsystem_allow_any_host(nqn, value) for value in (allow, not allow))
        return Step(says, change, undo, guarded=True)

    def _add_host(self, record: Record) -> Step:
        spec: NvmeSubsystemSpec = record.desired.spec
        add = methods.nvmf_subsystem_add_host(spec.nqn, spec.hostnqn, keys.reference(record, self.target))
        remove = methods.nvmf_subsystem_remove_host(spec.nqn, spec.hostnqn)
        return Step(f"host {spec.hostnqn} may not connect", add, remove, guarded=True)

    def _drop_host(self, record: Record) -> Step:
        added = self._add_host(record)
        return Step(f"host {record.desired.spec.hostnqn} may still connect", added.undo or added.do, added.do)

    def _add_listener(self, record: Record, child: Record, secure: bool) -> Step:
        address = listen_address(child.desired, self.target.shared)
        nqn = record.desired.spec.nqn
        add = methods.nvmf_subsystem_add_listener(nqn, address, secure)
        remove = methods.nvmf_subsystem_remove_listener(nqn, address)
        # Guarded: in one write with the removal it would take over the old socket, secure or not as that was.
        return Step(f"{child.name} does not listen", add, remove, guarded=True)

    def _drop_listener(self, record: Record, child: Record, secure: bool) -> Step:
        added = self._add_listener(record, child, secure)
        return Step(f"{child.name} still listens the old way", added.undo or added.do, added.do)


def _hosts(seen: Seen | None) -> set[str]:
    return {host.nqn for host in seen.subsystem.hosts} if seen is not None else set()
