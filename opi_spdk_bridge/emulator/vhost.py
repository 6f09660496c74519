"""The vhost-user controllers of a target, and their methods (lib/vhost)."""

from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from errno import EBUSY, EEXIST, EINVAL, ENODEV
from pathlib import Path
from typing import Any

from .bdev.layer import BdevLayer
from .cpumask import CORE_MASK, parse_cpumask
from .reactor import Work
from .registry import INTERNAL_ERROR, NVMF_FAILURE, VHOST_FAILURE, Failure, MethodTable, errno_error
from .schema import I32, U32
from .vhost_controllers import BLK_TRANSPORT, SCSI_TARGETS_MAX, BlkController, Controller, ScsiController, ScsiTarget

methods = MethodTable["Vhost"](VHOST_FAILURE)

GET_FAILURE = Failure(INTERNAL_ERROR, VHOST_FAILURE.message, errno_code=INTERNAL_ERROR)
IOPS_THRESHOLD_MIN = 100
"""Below it less than one I/O falls into the 10 ms in which the target counts them."""
DELAY_US_MAX = 2**32 * 1_000_000 // 2_600_000_000


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

    async def delete_later(self, name: str) -> None:
        """Waits for guests to hang up, as a target does since 24.09. Raises OSError."""
        while self.find(name).sessions:
            await self.find(name).left.wait()
        self.delete(name)

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
def create_blk_controller(vhost: Vhost, params: CreateBlk) -> None:
    vhost.create_blk(params)


@methods.rpc("vhost_create_scsi_controller", CreateScsi)
def create_scsi_controller(vhost: Vhost, params: CreateScsi) -> None:
    vhost.create_scsi(params)


@methods.rpc("vhost_start_scsi_controller", NamedController)
def start_scsi_controller(vhost: Vhost, params: NamedController) -> None:
    vhost.find_scsi(params.ctrlr).start()


@methods.rpc("vhost_scsi_controller_add_target", AddTarget)
def scsi_controller_add_target(vhost: Vhost, params: AddTarget) -> int:
    return vhost.add_target(params)


@methods.rpc("vhost_scsi_controller_remove_target", RemoveTarget)
def scsi_controller_remove_target(vhost: Vhost, params: RemoveTarget) -> Work[None]:
    return vhost.remove_target(params.ctrlr, params.scsi_target_num)


@methods.rpc("vhost_delete_controller", NamedController)
def delete_controller(vhost: Vhost, params: NamedController) -> Coroutine[Any, Any, None] | None:
    if vhost.find(params.ctrlr).sessions:
        return vhost.delete_later(params.ctrlr)
    vhost.delete(params.ctrlr)
    return None


@methods.rpc("vhost_get_controllers", GetControllers, failure=GET_FAILURE)
def get_controllers(vhost: Vhost, params: GetControllers) -> list[dict[str, Any]]:
    if params.name is not None:
        return [vhost.find(params.name).describe()]
    return [controller.describe() for controller in vhost]


@methods.rpc("vhost_controller_set_coalescing", SetCoalescing)
def controller_set_coalescing(vhost: Vhost, params: SetCoalescing) -> None:
    controller = vhost.find(params.ctrlr)
    if params.delay_base_us >= DELAY_US_MAX or params.iops_threshold < IOPS_THRESHOLD_MIN:
        raise errno_error(EINVAL)
    controller.delay_base_us, controller.iops_threshold = params.delay_base_us, params.iops_threshold


@methods.rpc("virtio_blk_get_transports", GetTransports, failure=NVMF_FAILURE)
def get_transports(vhost: Vhost, params: GetTransports) -> list[dict[str, str]]:
    if params.name not in (None, BLK_TRANSPORT):
        raise errno_error(ENODEV)
    return [{"name": BLK_TRANSPORT}]
