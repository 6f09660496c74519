"""A module whose devices survive the target, in small: what CONTRIBUTING.md says of how to emulate one."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from opi_spdk_bridge.emulator.bdev import aio
from opi_spdk_bridge.emulator.bdev.aio import AioBdev, CreateAio
from opi_spdk_bridge.emulator.bdev.device import Bdev, Descriptor
from opi_spdk_bridge.emulator.bdev.layer import BdevLayer
from opi_spdk_bridge.emulator.bdev.rpc import Name
from opi_spdk_bridge.emulator.notifications import Notifications
from opi_spdk_bridge.emulator.reactor import Reactor, Work

LABEL_BYTES = 4096
"""At the start of the bdev below: what the module has to know of its device, padded with zeroes."""


class LabelledBdev(Bdev):
    """What is behind the label, under the UUID that it had when it was made."""

    module = "labelled"
    io_types = frozenset({"read", "write"})

    def __init__(self, name: str, identity: str | None, base: Descriptor, layer: BdevLayer) -> None:
        below = base.bdev
        blocks = below.num_blocks - LABEL_BYTES // below.block_size
        super().__init__(name, below.block_size, blocks, identity=identity)
        self.below = below
        self._base, self._layer = base, layer

    async def read(self, offset: int, length: int) -> bytes:
        return await self._base.bdev.read(LABEL_BYTES + offset, length)

    async def write(self, offset: int, content: bytes) -> None:
        await self._base.bdev.write(LABEL_BYTES + offset, content)

    def destruct(self) -> None:
        """Also of a device whose base is going: the label stays."""
        self._layer.release(self._base)
        self._layer.close(self._base)


class LabelModule:
    """Its devices on AIO bdevs."""

    def __init__(self, layer: BdevLayer) -> None:
        self._layer = layer
        layer.examiners.append(self._examine)

    def create(self, name: str, base: str) -> str:
        """Makes a device and its label; the UUID that was drawn for it."""
        bdev = self._load(name, None, base)
        label = json.dumps({"name": name, "uuid": bdev.uuid}).encode().ljust(LABEL_BYTES, b"\0")
        os.pwrite(self._fd(base), label, 0)
        return bdev.uuid

    def delete(self, name: str) -> Work[None]:
        """Takes the label with it."""
        below = self._layer.find(name).below
        assert below is not None
        os.pwrite(self._fd(below.name), bytes(LABEL_BYTES), 0)
        return self._layer.unregister_by_name(name, LabelledBdev.module)

    def _examine(self, bdev: Bdev) -> None:
        if isinstance(bdev, AioBdev):
            text = os.pread(bdev.fd, LABEL_BYTES, 0).rstrip(b"\0")
            if text.startswith(b"{"):
                label = json.loads(text)
                self._load(label["name"], label["uuid"], bdev.name)

    def _load(self, name: str, identity: str | None, base: str) -> LabelledBdev:
        descriptor = self._layer.open(base, writable=True)
        bdev = LabelledBdev(name, identity, descriptor, self._layer)
        descriptor.on_remove = partial(self._layer.unregister_soon, bdev)
        self._layer.claim(descriptor, LabelledBdev.module)
        self._layer.register(bdev)
        return bdev

    def _fd(self, base: str) -> int:
        bdev = self._layer.find(base)
        assert isinstance(bdev, AioBdev)
        return bdev.fd


async def _target(file: Path) -> tuple[BdevLayer, LabelModule]:
    """A target that has just started, and been given the file as a bdev."""
    layer = BdevLayer(Notifications(), Reactor())
    module = LabelModule(layer)
    assert await aio.create(layer, CreateAio("base", str(file), 512)).outcome() == "base"
    return layer, module


async def test_a_device_is_back_with_its_identity_and_data_when_the_bdev_below_is(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    layer, module = await _target(file)
    drawn = module.create("x", "base")
    await layer.find("x").write(512, b"kept".ljust(512))

    layer, module = await _target(file)
    found = layer.find("x")
    assert (found.uuid, layer.find(drawn)) == (drawn, found)
    assert (await found.read(512, 4)) == b"kept"
    assert layer.find("base").claimed_by == LabelledBdev.module

    await aio.delete(layer, Name("base")).outcome()
    assert list(layer) == []
    layer, module = await _target(file)
    await module.delete("x").outcome()
    layer, module = await _target(file)
    assert [bdev.name for bdev in layer] == ["base"]
