"""Cleaning a target leaves nothing on it, whatever sorts of bdevs are there and whatever the release can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.target import RpcError, Target, emulator


class _Scripted(Target):
    """A target that has stacked bdevs, each by (the one below it, the method that deletes it), and little else."""

    def __init__(self, bdevs: dict[str, tuple[str, str]]) -> None:
        super().__init__("")
        self.bdevs = bdevs
        self.deleted: list[str] = []

    def rpc(self, method: str, /, **params: Any) -> Any:
        below = {base for base, _ in self.bdevs.values()}
        match method:
            case "rpc_get_methods":
                return ["bdev_foo_delete", "bdev_get_bdevs", "bdev_lower_delete", "nvmf_get_subsystems"]
            case "bdev_get_bdevs":
                return [{"name": name, "claimed": name in below} for name in self.bdevs]
            case "nvmf_get_subsystems":
                if params:
                    raise RpcError(method, -19, "No such device")
                return []
        name = params["name"]
        if self.bdevs[name][1] != method:
            raise RpcError(method, -19, "No such device")
        del self.bdevs[name]
        self.deleted.append(name)
        return True


def test_bdevs_go_from_the_top_by_whatever_method_deletes_them() -> None:
    target = _Scripted(
        {
            "base": ("", "bdev_lower_delete"),
            "middle": ("base", "bdev_foo_delete"),
            "top": ("middle", "bdev_foo_delete"),
            "arrayn1": ("", "none"),
        }
    )
    target.clean()
    assert target.deleted == ["top", "middle", "base"]
    assert target.inventory()["bdevs"] == ["arrayn1"], "the bdevs of a remote controller go with it"


def test_a_release_without_a_keyring_has_no_keys() -> None:
    target = _Scripted({})
    assert target.inventory() == {
        sort: [] for sort in ("discovery", "subsystems", "vhost", "remote", "bdevs", "keys", "crypto_keys")
    }


def test_an_emulator_is_left_empty(tmp_path: Path) -> None:
    with emulator(tmp_path) as target:
        target.rpc("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
        target.rpc("bdev_null_create", name="n", num_blocks=2048, block_size=512)
        target.rpc("accel_crypto_key_create", name="k", cipher="AES_XTS", key="00" * 16, key2="11" * 16)
        target.rpc("bdev_crypto_create", name="a", base_bdev_name="m", key_name="k")
        target.rpc("nvmf_create_subsystem", nqn="nqn.2022-09.io.spdk:left", allow_any_host=True)
        target.rpc("nvmf_subsystem_add_ns", nqn="nqn.2022-09.io.spdk:left", namespace={"bdev_name": "a"})
        target.rpc("vhost_create_blk_controller", ctrlr="v", dev_name="n")
        target.clean()
        assert {sort: names for sort, names in target.inventory().items() if names} == {}
