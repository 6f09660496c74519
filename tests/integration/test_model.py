"""Bridge and target against a model that fits on a page: random requests have the answers that it foretells."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.kinds.world import NQN, World, pci
from tests.support.bridge import Bridge, CallError
from tests.support.target import Target

IDS = st.sampled_from(["a", "b", "c"])
SIZES = st.sampled_from([2048, 4096, 8192])
NSIDS = st.sampled_from([None, None, 1, 2])


@dataclass
class Model:
    """What exists: sizes of volumes, subsystems, (volume, NSID) of namespaces, volumes of devices."""

    volumes: dict[str, int] = field(default_factory=dict)
    subsystems: set[str] = field(default_factory=set)
    namespaces: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)

    def exported(self, volume: str, but: tuple[str, str] | None = None) -> bool:
        """Whether a namespace, another than `but`, has the volume."""
        return any(used == volume for key, (used, _) in self.namespaces.items() if key != but)

    def attached(self, volume: str, but: str = "") -> bool:
        """Whether a device, another than `but`, has the volume."""
        return any(used == volume for key, used in self.devices.items() if key != but)

    def used(self, volume: str) -> bool:
        """Whether anything stands on the volume."""
        return self.exported(volume) or self.attached(volume)

    def nsids(self, subsystem: str) -> set[int]:
        """The NSIDs that are taken."""
        return {nsid for (owner, _), (_, nsid) in self.namespaces.items() if owner == subsystem}


def machine(world: World) -> type[RuleBasedStateMachine]:
    """The machine over a bridge and its target."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def expect(self, errors: set[str], call: Any) -> dict[str, Any] | None:
            """The answer where none of the errors is due, else None; any of those that are due will do."""
            try:
                answer: dict[str, Any] = call() or {}
            except CallError as problem:
                if problem.code not in errors:
                    raise AssertionError(f"{problem} instead of {errors or 'success'}") from problem
                return None
            assert not errors, f"{answer} instead of {errors}"
            return answer

        # Volumes

        @rule(volume=IDS, blocks=SIZES)
        def create_volume(self, volume: str, blocks: int) -> None:
            had = self.model.volumes.get(volume)
            errors = {"ALREADY_EXISTS"} if had not in (None, blocks) else set()
            answer = self.expect(errors, lambda: world.null_volume(volume, blocks))
            if answer is not None:
                self.model.volumes[volume] = blocks
                assert answer["name"] == f"nullVolumes/{volume}"

        @rule(volume=IDS, blocks=SIZES, missing=st.booleans())
        def resize_volume(self, volume: str, blocks: int, missing: bool) -> None:
            had = self.model.volumes.get(volume)
            errors = set()
            if had is None and not missing:
                errors = {"NOT_FOUND"}
            elif had is not None and blocks < had and self.model.used(volume):
                errors = {"FAILED_PRECONDITION"}
            wanted = {"name": f"nullVolumes/{volume}", "block_size": 512, "blocks_count": blocks}
            if self.expect(errors, lambda: world.update("NullVolume", wanted, "*", allow_missing=missing)) is not None:
                self.model.volumes[volume] = blocks

        @rule(volume=IDS, missing=st.booleans())
        def delete_volume(self, volume: str, missing: bool) -> None:
            errors = {"FAILED_PRECONDITION"} if self.model.used(volume) else set()
            if volume not in self.model.volumes and not missing:
                errors = {"NOT_FOUND"}
            name = f"nullVolumes/{volume}"
            if self.expect(errors, lambda: world.delete("NullVolume", name, allow_missing=missing)) is not None:
                self.model.volumes.pop(volume, None)

        # Subsystems and namespaces

        @rule(subsystem=IDS)
        def create_subsystem(self, subsystem: str) -> None:
            self.expect(set(), lambda: world.subsystem(subsystem, f"{NQN}:{subsystem}"))
            self.model.subsystems.add(subsystem)

        @rule(subsystem=IDS)
        def delete_subsystem(self, subsystem: str) -> None:
            errors = {"FAILED_PRECONDITION"} if self.model.nsids(subsystem) else set()
            errors = errors if subsystem in self.model.subsystems else {"NOT_FOUND"}
            if self.expect(errors, lambda: world.delete("NvmeSubsystem", f"nvmeSubsystems/{subsystem}")) is not None:
                self.model.subsystems.discard(subsystem)

        @rule(subsystem=IDS, namespace=IDS, volume=IDS, nsid=NSIDS)
        def create_namespace(self, subsystem: str, namespace: str, volume: str, nsid: int | None) -> None:
            key, model = (subsystem, namespace), self.model
            had = model.namespaces.get(key)
            errors = set()
            if subsystem not in model.subsystems or (had is None and volume not in model.volumes):
                errors |= {"NOT_FOUND"}
            if had is not None and had[0] != volume:
                errors |= {"ALREADY_EXISTS"}
            if had is None and nsid in model.nsids(subsystem):
                errors |= {"ALREADY_EXISTS"}
            if had is None and model.used(volume):
                errors |= {"FAILED_PRECONDITION"}
            spec = {"host_nsid": nsid} if nsid else {}
            parent = f"nvmeSubsystems/{subsystem}"
            answer = self.expect(errors, lambda: world.namespace(namespace, f"nullVolumes/{volume}", parent, **spec))
            if answer is not None and had is None:
                free = next(number for number in itertools.count(1) if number not in model.nsids(subsystem))
                assert answer["spec"]["host_nsid"] == (nsid or free)
                model.namespaces[key] = (volume, nsid or free)

        @rule(subsystem=IDS, namespace=IDS, volume=IDS)
        def move_namespace(self, subsystem: str, namespace: str, volume: str) -> None:
            key, model = (subsystem, namespace), self.model
            had = model.namespaces.get(key)
            errors = set()
            if had is None or volume not in model.volumes:
                errors |= {"NOT_FOUND"}
            elif model.exported(volume, key) or model.attached(volume):
                errors |= {"FAILED_PRECONDITION"}
            name = f"nvmeSubsystems/{subsystem}/nvmeNamespaces/{namespace}"
            wanted = {"name": name, "spec": {"volume_name_ref": f"nullVolumes/{volume}"}}
            answer = self.expect(errors, lambda: world.update("NvmeNamespace", wanted, "spec.volume_name_ref"))
            if answer is not None and had is not None:
                model.namespaces[key] = (volume, had[1])

        @rule(subsystem=IDS, namespace=IDS)
        def delete_namespace(self, subsystem: str, namespace: str) -> None:
            errors = set() if (subsystem, namespace) in self.model.namespaces else {"NOT_FOUND"}
            name = f"nvmeSubsystems/{subsystem}/nvmeNamespaces/{namespace}"
            if self.expect(errors, lambda: world.delete("NvmeNamespace", name)) is not None:
                del self.model.namespaces[subsystem, namespace]

        # Devices

        @rule(device=IDS, volume=IDS)
        def create_device(self, device: str, volume: str) -> None:
            had = self.model.devices.get(device)
            errors = set()
            if had is not None and had != volume:
                errors |= {"ALREADY_EXISTS"}
            if had is None and volume not in self.model.volumes:
                errors |= {"NOT_FOUND"}
            if had is None and self.model.exported(volume):
                errors |= {"FAILED_PRECONDITION"}
            wanted = {"volume_name_ref": f"nullVolumes/{volume}", "pcie_id": pci(ord(device))}
            if self.expect(errors, lambda: world.make("VirtioBlk", f"blk-{device}", wanted)) is not None:
                self.model.devices[device] = volume

        @rule(device=IDS)
        def delete_device(self, device: str) -> None:
            errors = set() if device in self.model.devices else {"NOT_FOUND"}
            if self.expect(errors, lambda: world.delete("VirtioBlk", f"virtioBlks/blk-{device}")) is not None:
                del self.model.devices[device]

        # What must always hold

        @invariant()
        def lists_have_what_exists(self) -> None:
            model = self.model
            volumes = {item["name"].rpartition("/")[2]: int(item["blocks_count"]) for item in world.all("NullVolume")}
            assert volumes == model.volumes
            assert {item["name"] for item in world.all("NvmeSubsystem")} == {
                f"nvmeSubsystems/{subsystem}" for subsystem in model.subsystems
            }
            for subsystem in model.subsystems:
                found = world.all("NvmeNamespace", f"nvmeSubsystems/{subsystem}")
                assert {
                    (item["name"].rpartition("/")[2], item["spec"]["volume_name_ref"], item["spec"]["host_nsid"])
                    for item in found
                } == {
                    (namespace, f"nullVolumes/{volume}", nsid)
                    for (owner, namespace), (volume, nsid) in model.namespaces.items()
                    if owner == subsystem
                }

        @invariant()
        def the_target_has_what_exists(self) -> None:
            model, target = self.model, world.target
            assert {b["name"]: b["num_blocks"] for b in target.rpc("bdev_get_bdevs")} == model.volumes
            seen = {
                (s["nqn"].rpartition(":")[2], ns["nsid"], ns["bdev_name"])
                for s in target.rpc("nvmf_get_subsystems")
                for ns in s.get("namespaces", [])
            }
            assert seen == {(owner, nsid, volume) for (owner, _), (volume, nsid) in model.namespaces.items()}
            devices = {v["ctrlr"]: v["backend_specific"]["block"]["bdev"] for v in target.rpc("vhost_get_controllers")}
            assert devices == {f"blk-{device}": volume for device, volume in model.devices.items()}

        def teardown(self) -> None:
            world.clear()
            assert world.leftovers() == {}

    return Machine


def test_random_requests_have_the_answers_that_the_model_foretells(
    opi: Bridge, target: Target, tmp_path_factory: Any
) -> None:
    world = World(opi, target, tmp_path_factory.mktemp("model"), lambda: target)
    run_state_machine_as_test(
        machine(world),
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
