"""All attached controllers by name (module/bdev/nvme/bdev_nvme.c)."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from errno import EALREADY, EEXIST, EINVAL, ENODEV, ENXIO, ERANGE
from typing import Any

from ..bdev.layer import BdevLayer
from ..fabric.trid import TransportId
from ..keyring import Keyring
from ..registry import errno_error
from .bdev import NvmeBdev
from .connection import HostIdentity, connect, describe_trid, read_psk
from .controller import CONNECT_TIMEOUT_S, NvmeController
from .options import ControllerOptions, ModuleOptions

HOTPLUG_PERIOD_US_DEFAULT = 100_000

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
Operation = Callable[[NvmeController], Coroutine[Any, Any, None]]
Matches = Callable[[TransportId, HostIdentity], bool]


@dataclass(eq=False)
class ControllerGroup:
    """The controllers that were attached under one name, and the bdevs that they share (struct nvme_bdev_ctrlr)."""

    name: str
    module: "NvmeModule"
    controllers: list[NvmeController] = field(default_factory=list)
    bdevs: dict[int, NvmeBdev] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "ctrlrs": [controller.describe() for controller in self.controllers]}

    def join(self, controller: NvmeController) -> None:
        """Raises OSError EINVAL for a controller that does not fit to the others."""
        for other in self.controllers:
            if (
                other.data.cntlid == controller.data.cntlid
                or other.options.multipath != controller.options.multipath
                or other.options.multipath_opts != controller.options.multipath_opts
            ):
                raise errno_error(EINVAL)
        self.controllers.append(controller)
        controller.start(self)

    async def forget(self, controller: NvmeController) -> None:
        await controller.destruct()
        self.controllers.remove(controller)
        self.module.released(self, controller)

    def forget_soon(self, controller: NvmeController) -> None:
        self.module.spawn(self.forget(controller))


class NvmeModule:
    def __init__(self, bdevs: BdevLayer, keyring: Keyring, spawn: Spawn) -> None:
        self.options = ModuleOptions()
        self.hotplug = (False, HOTPLUG_PERIOD_US_DEFAULT)
        self.groups: dict[str, ControllerGroup] = {}
        self.spawn = spawn
        self.hostid = str(uuid.uuid4())
        self.default_hostnqn = f"nqn.2014-08.org.nvmexpress:uuid:{uuid.uuid4()}"
        self.bdevs = bdevs
        self.keyring = keyring

    def __iter__(self) -> Iterator[NvmeController]:
        return (controller for group in self.groups.values() for controller in group.controllers)

    def group(self, name: str) -> ControllerGroup:
        """Raises OSError ENODEV."""
        if name not in self.groups:
            raise errno_error(ENODEV)
        return self.groups[name]

    def attach(
        self, name: str, trid: TransportId, host: HostIdentity, options: ControllerOptions, bdevs_max: int
    ) -> Coroutine[Any, Any, list[str]]:
        """Connects, and answers the bdevs of the controller once each was examined.

        The host's keys are the controller's from here on.

        Raises OSError: EEXIST for a path of another name, EINVAL for another mode than the name's, ENODEV for a
        transport that this target cannot connect over; later EIO, EINVAL, EALREADY or ERANGE.
        """
        try:
            for other in self:
                if other.host.nqn == host.nqn and other.trids[0].canonical() == trid.canonical():
                    raise errno_error(EEXIST)
            group = self.groups.get(name)
            if group and group.controllers[0].options.multipath != options.multipath:
                raise errno_error(EINVAL)
            if trid.trtype != "TCP":
                raise errno_error(ENODEV)
        except OSError:
            self.put_keys(host)
            raise
        return self._attach(name, trid, host, options, bdevs_max)

    async def _attach(
        self, name: str, trid: TransportId, host: HostIdentity, options: ControllerOptions, bdevs_max: int
    ) -> list[str]:
        attached = False
        failover = name in self.groups and not options.multipath
        timeout_s = self.options.tcp_connect_timeout_ms / 1000 or CONNECT_TIMEOUT_S
        try:
            host = replace(host, psk_bytes=read_psk(host))
            connection = await connect(trid, host, timeout_s)
            if failover:
                try:
                    self.group(name).controllers[0].add_alternate(trid, connection)
                finally:
                    await connection.close()
                return []
            controller = NvmeController(trid, host, options, connection, self.bdevs)
            group = self.groups.setdefault(name, ControllerGroup(name, self))
            try:
                group.join(controller)
            except OSError:
                await connection.close()
                raise
            attached = True
        finally:
            if not attached:
                self.put_keys(host)
        bdevs = [group.bdevs[nsid] for nsid in sorted(controller.paths)]
        names = [bdev.name for bdev in bdevs]
        for bdev in bdevs:
            await bdev.examined.wait()
        if len(names) > bdevs_max:
            raise errno_error(ERANGE)
        return names

    def put_keys(self, host: HostIdentity) -> None:
        for key in host.held_keys():
            self.keyring.put(key)

    def detach(self, name: str, matches: Matches) -> Coroutine[Any, Any, None]:
        """Removes the paths that match. Raises OSError: ENODEV for an unknown name, ENXIO when no path matches."""
        group = self.group(name)
        steps: list[Coroutine[Any, Any, None]] = []
        matched = False
        for controller in group.controllers:
            alternates = [trid for trid in controller.trids[1:] if matches(trid, controller.host)]
            for trid in alternates:
                controller.trids.remove(trid)
            active = matches(controller.trids[0], controller.host)
            matched = matched or active or bool(alternates)
            if active and len(controller.trids) > 1:
                del controller.trids[0]
                steps.append(controller.fail_over())
            elif active and not controller.destructing:
                controller.begin_destruct()
                steps.append(group.forget(controller))
        if not matched:
            raise errno_error(ENXIO)
        return self._detach(steps)

    async def _detach(self, steps: list[Coroutine[Any, Any, None]]) -> None:
        for step in steps:
            await step

    def released(self, group: ControllerGroup, controller: NvmeController) -> None:
        """Forgets what belonged to a controller that is gone."""
        self.put_keys(controller.host)
        if not group.controllers and self.groups.get(group.name) is group:
            del self.groups[group.name]

    def operate(self, controllers: list[NvmeController], operation: Operation) -> Coroutine[Any, Any, None]:
        """Resets, enables or disables one controller after the other; one that is so already is passed over.

        The first is begun at once. Raises OSError as `operation` does, EALREADY excepted.
        """
        first = self._begin(controllers[0], operation)
        return self._operate(first, controllers[1:], operation)

    async def _operate(
        self, begun: Coroutine[Any, Any, None] | None, others: list[NvmeController], operation: Operation
    ) -> None:
        if begun is not None:
            await begun
        for controller in others:
            begun = self._begin(controller, operation)
            if begun is not None:
                await begun

    @staticmethod
    def _begin(controller: NvmeController, operation: Operation) -> Coroutine[Any, Any, None] | None:
        try:
            return operation(controller)
        except OSError as error:
            if error.errno != EALREADY:
                raise
            return None

    def config(self) -> list[Any]:
        attachments = [
            _attach_call(group.name, controller, trid)
            for group in self.groups.values()
            for controller in group.controllers
            for trid in controller.trids
        ]
        enabled, period_us = self.hotplug
        hotplug = {"method": "bdev_nvme_set_hotplug", "params": {"period_us": period_us, "enable": enabled}}
        return [self.options.config(), *([attachments] if attachments else []), hotplug]

    async def close(self) -> None:
        await asyncio.gather(*(controller.destruct() for controller in self))


def _attach_call(name: str, controller: NvmeController, trid: TransportId) -> dict[str, Any]:
    options, host = controller.options, controller.host
    keys = {
        "psk": host.psk,
        "dhchap_key": host.dhchap_key,
        "dhchap_ctrlr_key": host.dhchap_ctrlr_key,
    }
    source = {"hostaddr": host.addr, "hostsvcid": host.svcid}
    params = {
        "name": name,
        **describe_trid(trid),
        "prchk_reftag": options.prchk_reftag,
        "prchk_guard": options.prchk_guard,
        "ctrlr_loss_timeout_sec": options.ctrlr_loss_timeout_sec,
        "reconnect_delay_sec": options.reconnect_delay_sec,
        "fast_io_fail_timeout_sec": options.fast_io_fail_timeout_sec,
        **{member: key.name for member, key in keys.items() if key is not None},
        "hostnqn": host.nqn,
        "hdgst": options.hdgst,
        "ddgst": options.ddgst,
        **{member: value for member, value in source.items() if value},
        **({"multipath": "multipath"} if options.multipath else {}),
        "fabrics_connect_timeout_us": options.fabrics_connect_timeout_us,
        "num_io_queues": options.num_io_queues,
        "disable_sq_flow_control": options.disable_sq_flow_control,
        "multipath_opts": vars(options.multipath_opts),
    }
    return {"method": "bdev_nvme_attach_controller", "params": params}
