"""vhost-user controllers (lib/vhost): virtio-blk on a bdev, virtio-scsi with up to eight targets."""

import contextlib
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bdev.device import Descriptor
from .bdev.layer import BdevLayer
from .cpumask import CORE_MASK, parse_cpumask
from .reactor import Work
from .registry import INTERNAL_ERROR, NVMF_FAILURE, VHOST_FAILURE, Failure, MethodTable, errno_error
from .schema import I32, U32

if TYPE_CHECKING:
    from .target import Target

methods = MethodTable(VHOST_FAILURE)

GET_FAILURE = Failure(INTERNAL_ERROR, VHOST_FAILURE.message, errno_code=INTERNAL_ERROR)
BLK_TRANSPORT = "vhost_user_blk"
SCSI_TARGETS_MAX = 8
IOPS_THRESHOLD_DEFAULT = 60000
IOPS_THRESHOLD_MIN = 100
"""Below it less than one I/O falls into the 10 ms in which the target counts them."""
DELAY_US_MAX = 2**32 * 1_000_000 // 2_600_000_000
SOCKET_PATH_MAX = 107


@dataclass(eq=False)
class Controller:
    """What the two kinds of controllers have in common; `listener` is the vhost-user socket once it is there."""

    name: str
    path: Path
    cpumask: int
    listener: socket.socket | None = None
    delay_base_us: int = 0
    iops_threshold: int = IOPS_THRESHOLD_DEFAULT

    def start(self) -> None:
        """Creates the socket; one left over by another process gives way. Raises OSError EIO."""
        if self.listener is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.stat().st_mode):
                raise errno_error(EIO)
            self.path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        try:
            if len(str(self.path)) > SOCKET_PATH_MAX:
                raise errno_error(EIO)
            listener.bind(str(self.path))
            listener.listen()
        except OSError:
            listener.close()
            raise errno_error(EIO) from None
        self.listener = listener

    def stop(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.path.unlink(missing_ok=True)
            self.listener = None

    def release(self, bdevs: BdevLayer) -> None:
        """Closes the bdevs of the controller."""

    def backend(self) -> dict[str, Any]:
        return {}

    def config(self) -> Iterator[dict[str, Any]]:
        yield from ()

    def describe(self) -> dict[str, Any]:
        return {
            "ctrlr": self.name,
            "cpumask": f"{self.cpumask:#x}",
            "delay_base_us": self.delay_base_us,
            "iops_threshold": self.iops_threshold,
            "socket": str(self.path),
            "sessions": [],
            "backend_specific": self.backend(),
        }


@dataclass(eq=False)
class BlkController(Controller):
    """A virtio-blk controller. When its bdev goes it stays, without one."""

    descriptor: Descriptor | None = None
    readonly: bool = False

    def release(self, bdevs: BdevLayer) -> None:
        if self.descriptor is not None:
            bdevs.close(self.descriptor)
            self.descriptor = None

    def backend(self) -> dict[str, Any]:
        bdev = self.descriptor.bdev.name if self.descriptor else None
        return {"block": {"readonly": self.readonly, "bdev": bdev, "transport": BLK_TRANSPORT}}

    def config(self) -> Iterator[dict[str, Any]]:
        if self.descriptor is None:
            return
        yield {
            "method": "vhost_create_blk_controller",
            "params": {
                "ctrlr": self.name,
                "dev_name": self.descriptor.bdev.name,
                "cpumask": f"{self.cpumask:x}",
                "readonly": self.readonly,
                "transport": BLK_TRANSPORT,
            },
        }


@dataclass
class ScsiTarget:
    """One SCSI target with one LUN; `device_id` counts SCSI devices of the whole process.

    It is `present` once the sessions have been told of it, and until they are to be told that it goes.
    """

    device_id: int
    descriptor: Descriptor
    present: bool = False


@dataclass(eq=False)
class ScsiController(Controller):
    """A virtio-scsi controller. When a LUN's bdev goes, the target goes with it."""

    targets: dict[int, ScsiTarget] = field(default_factory=dict)

    def release(self, bdevs: BdevLayer) -> None:
        for number in list(self.targets):
            self.remove_target(bdevs, number)

    def remove_target(self, bdevs: BdevLayer, number: int) -> None:
        target = self.targets.pop(number, None)
        if target is not None:
            bdevs.close(target.descriptor)

    def free_number(self) -> int:
        for number in range(SCSI_TARGETS_MAX):
            if number not in self.targets:
                return number
        raise errno_error(ENOSPC)

    def backend(self) -> dict[str, Any]:
        return {
            "scsi": [
                {
                    "scsi_dev_num": number,
                    "id": target.device_id,
                    "target_name": f"Target {number}",
                    "luns": [{"id": 0, "bdev_name": target.descriptor.bdev.name}],
                }
                for number, target in sorted(self.targets.items())
                if target.present
            ]
        }

    def config(self) -> Iterator[dict[str, Any]]:
        yield {
            "method": "vhost_create_scsi_controller",
            "params": {"ctrlr": self.name, "cpumask": f"{self.cpumask:x}", "delay": True},
        }
        for number, target in sorted(self.targets.items()):
            params = {"ctrlr": self.name, "scsi_target_num": number, "bdev_name": target.descriptor.bdev.name}
            yield {"method": "vhost_scsi_controller_add_target", "params": params}
        yield {"method": "vhost_start_scsi_controller", "params": {"ctrlr": self.name}}


class Vhost:
    """All vhost controllers by name; their sockets are in `folder`."""

    def __init__(self, folder: Path, bdevs: BdevLayer) -> None:
        self._folder = folder
        self._bdevs = bdevs
        self._controllers: dict[str, Controller] = {}

    def __iter__(self) -> Iterator[Controller]:
        return (self._controllers[name] for name in sorted(self._controllers))

    def find(self, name: str) -> Controller:
        """Raises OSError ENODEV."""
        if name not in self._controllers:
            raise errno_error(ENODEV)
        return self._controllers[name]

    def find_scsi(self, name: str) -> ScsiController:
        """Raises OSError: ENODEV, or EINVAL for a controller of the other kind."""
        controller = self.find(name)
        if not isinstance(controller, ScsiController):
            raise errno_error(EINVAL)
        return controller

    def check(self, name: str, cpumask: str | None) -> int:
        """The cores in `cpumask`. Raises OSError: EINVAL for other cores than the target's, EEXIST for a taken name."""
        try:
            mask = CORE_MASK if cpumask is None else parse_cpumask(cpumask)
        except ValueError:
            raise errno_error(EINVAL) from None
        if not mask or mask & ~CORE_MASK:
            raise errno_error(EINVAL)
        if name in self._controllers:
            raise errno_error(EEXIST)
        return mask

    def create_blk(self, params: "CreateBlk") -> None:
        if params.transport != BLK_TRANSPORT:
            raise errno_error(EINVAL)
        descriptor = self._bdevs.open(params.dev_name, writable=True)
        try:
            mask = self.check(params.ctrlr, params.cpumask)
            controller = BlkController(params.ctrlr, self._folder / params.ctrlr, mask, readonly=params.readonly)
            controller.start()
        except OSError:
            self._bdevs.close(descriptor)
            raise
        controller.descriptor = descriptor
        descriptor.on_remove = lambda: Work(self._release(controller))
        self._controllers[params.ctrlr] = controller

    async def _release(self, controller: BlkController) -> None:
        """The bdev is closed once the sessions know that it goes."""
        await self._visit_sessions()
        controller.release(self._bdevs)

    def create_scsi(self, params: "CreateScsi") -> None:
        mask = self.check(params.ctrlr, params.cpumask)
        controller = ScsiController(params.ctrlr, self._folder / params.ctrlr, mask)
        if not params.delay:
            controller.start()
        self._controllers[params.ctrlr] = controller

    def add_target(self, params: "AddTarget") -> int:
        """The number of the new target. Raises OSError."""
        controller = self.find_scsi(params.ctrlr)
        number = params.scsi_target_num
        if number < 0:
            number = controller.free_number()
        if number >= SCSI_TARGETS_MAX:
            raise errno_error(EINVAL)
        if number in controller.targets:
            raise errno_error(EEXIST)
        try:
            descriptor = self._bdevs.open(params.bdev_name, writable=True)
        except OSError:
            raise errno_error(EINVAL) from None
        descriptor.on_remove = lambda: Work(self._remove_target(controller, number))
        controller.targets[number] = ScsiTarget(self._free_device_id(), descriptor)
        Work(self._tell_sessions_of(controller.targets[number]))
        return number

    async def _tell_sessions_of(self, target: ScsiTarget) -> None:
        await self._visit_sessions()
        target.present = True

    async def _visit_sessions(self) -> None:
        """A message to the thread of the controller and one back; both are the application's."""
        await self._bdevs.reactor.message()
        await self._bdevs.reactor.message()

    def _free_device_id(self) -> int:
        taken = {
            target.device_id
            for controller in self._controllers.values()
            if isinstance(controller, ScsiController)
            for target in controller.targets.values()
        }
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def remove_target(self, name: str, number: int) -> Work[None]:
        """Raises OSError: EINVAL, or EBUSY for a target that is not there, not yet or no longer."""
        controller = self.find_scsi(name)
        if number >= SCSI_TARGETS_MAX:
            raise errno_error(EINVAL)
        if number not in controller.targets or not controller.targets[number].present:
            raise errno_error(EBUSY)
        return Work(self._remove_target(controller, number))

    async def _remove_target(self, controller: ScsiController, number: int) -> None:
        controller.targets[number].present = False
        await self._visit_sessions()
        controller.remove_target(self._bdevs, number)

    def delete(self, name: str) -> None:
        controller = self.find(name)
        controller.release(self._bdevs)
        controller.stop()
        del self._controllers[name]

    def close(self) -> None:
        """Removes the sockets of all controllers."""
        for controller in self._controllers.values():
            controller.stop()

    def config(self, kind: type[Controller]) -> list[dict[str, Any]]:
        return [call for controller in self if isinstance(controller, kind) for call in controller.config()]


@dataclass(frozen=True)
class CreateBlk:
    ctrlr: str
    dev_name: str
    readonly: bool = False
    packed_ring: bool = False
    cpumask: str | None = None
    transport: str = BLK_TRANSPORT


@dataclass(frozen=True)
class CreateScsi:
    ctrlr: str
    cpumask: str | None = None
    delay: bool = False


@dataclass(frozen=True)
class AddTarget:
    ctrlr: str
    scsi_target_num: I32
    bdev_name: str


@dataclass(frozen=True)
class RemoveTarget:
    ctrlr: str
    scsi_target_num: U32


@dataclass(frozen=True)
class NamedController:
    ctrlr: str


@dataclass(frozen=True)
class GetControllers:
    name: str | None = None


@dataclass(frozen=True)
class SetCoalescing:
    ctrlr: str
    delay_base_us: U32
    iops_threshold: U32


@dataclass(frozen=True)
class GetTransports:
    name: str | None = None


@methods.rpc("vhost_create_blk_controller", CreateBlk, relaxed=True)
def create_blk_controller(target: "Target", params: CreateBlk) -> None:
    target.vhost.create_blk(params)


@methods.rpc("vhost_create_scsi_controller", CreateScsi)
def create_scsi_controller(target: "Target", params: CreateScsi) -> None:
    target.vhost.create_scsi(params)


@methods.rpc("vhost_start_scsi_controller", NamedController)
def start_scsi_controller(target: "Target", params: NamedController) -> None:
    target.vhost.find_scsi(params.ctrlr).start()


@methods.rpc("vhost_scsi_controller_add_target", AddTarget)
def scsi_controller_add_target(target: "Target", params: AddTarget) -> int:
    return target.vhost.add_target(params)


@methods.rpc("vhost_scsi_controller_remove_target", RemoveTarget)
def scsi_controller_remove_target(target: "Target", params: RemoveTarget) -> Work[None]:
    return target.vhost.remove_target(params.ctrlr, params.scsi_target_num)


@methods.rpc("vhost_delete_controller", NamedController)
def delete_controller(target: "Target", params: NamedController) -> None:
    target.vhost.delete(params.ctrlr)


@methods.rpc("vhost_get_controllers", GetControllers, failure=GET_FAILURE)
def get_controllers(target: "Target", params: GetControllers) -> list[dict[str, Any]]:
    if params.name is not None:
        return [target.vhost.find(params.name).describe()]
    return [controller.describe() for controller in target.vhost]


@methods.rpc("vhost_controller_set_coalescing", SetCoalescing)
def controller_set_coalescing(target: "Target", params: SetCoalescing) -> None:
    controller = target.vhost.find(params.ctrlr)
    if params.delay_base_us >= DELAY_US_MAX or params.iops_threshold < IOPS_THRESHOLD_MIN:
        raise errno_error(EINVAL)
    controller.delay_base_us, controller.iops_threshold = params.delay_base_us, params.iops_threshold


@methods.rpc("virtio_blk_get_transports", GetTransports, failure=NVMF_FAILURE)
def get_transports(target: "Target", params: GetTransports) -> list[dict[str, str]]:
    if params.name not in (None, BLK_TRANSPORT):
        raise errno_error(ENODEV)
    return [{"name": BLK_TRANSPORT}]
