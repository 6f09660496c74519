"""EncryptedVolume: ciphers and keys, the base underneath, and that the data there is AES-XTS with that key."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from tests.kinds.world import World, failing

ENC = "encryptedVolumes/enc"
AES128, AES256 = "ENCRYPTION_TYPE_AES_XTS_128", "ENCRYPTION_TYPE_AES_XTS_256"
KEY32, KEY64, OTHER = bytes(range(32)), bytes(range(64)), bytes(range(100, 132))


@pytest.fixture
def based(world: World) -> World:
    """With two volumes to encrypt."""
    world.malloc_volume("base")
    world.malloc_volume("other")
    return world


@pytest.fixture
def filed(world: World) -> World:
    """With a volume to encrypt of which it can be seen what it holds."""
    world.make("AioVolume", "base", {"filename": world.file("file", 2048), "block_size": 512})
    return world


def b64(key: bytes) -> str:
    """Bytes as a JSON request holds them."""
    return base64.b64encode(key).decode()


def encrypted(world: World, key: bytes = KEY32, cipher: str = AES128, base: str = "base") -> dict[str, Any]:
    """Creates one."""
    return world.make("EncryptedVolume", "enc", {"volume_name_ref": base, "key": b64(key), "cipher": cipher})


def on_target(world: World) -> tuple[str, str, str, str]:
    """The bdev underneath, and cipher and halves of the one key on the target, which the vbdev uses."""
    found = world.target.bdev("enc")
    assert found is not None
    crypto = found["driver_specific"]["crypto"]
    (key,) = world.target.rpc("accel_crypto_keys_get")
    assert key["name"] == crypto["key_name"]
    return crypto["base_bdev_name"], key["cipher"], key["key"], key["key2"]


def stored(world: World, at: int) -> bytes:
    """What block `at` of the base's file holds."""
    return (world.folder / "file").read_bytes()[at * 512 : (at + 1) * 512]


def xts(key: bytes, at: int, block: bytes) -> bytes:
    """The block as AES-XTS has it, the tweak being 8 zero bytes and the block's number."""
    tweak = bytes(8) + at.to_bytes(8, "little")
    return Cipher(AES(key), XTS(tweak)).encryptor().update(block)


# Ciphers and keys


@pytest.mark.parametrize(("cipher", "key"), [(AES128, KEY32), (AES256, KEY64)])
def test_the_target_has_the_key_in_two_halves(based: World, cipher: str, key: bytes) -> None:
    made = encrypted(based, key, cipher)
    half = len(key) // 2
    assert on_target(based) == ("base", "AES_XTS", key[:half].hex(), key[half:].hex())
    assert made == {"name": ENC, "volume_name_ref": "base", "cipher": cipher}
    assert based.get("EncryptedVolume", ENC) == made
    based.delete("EncryptedVolume", ENC)
    assert based.target.rpc("accel_crypto_keys_get") == []
    assert based.target.bdev("enc") is None


@pytest.mark.parametrize("name", ["AES_CBC_128", "AES_CBC_192", "AES_CBC_256", "AES_XTS_192", "UNSPECIFIED"])
def test_other_ciphers_are_refused_with_what_is_supported(based: World, name: str) -> None:
    problem = failing(lambda: encrypted(based, cipher=f"ENCRYPTION_TYPE_{name}"))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "encrypted_volume.cipher")
    if name != "UNSPECIFIED":
        assert AES128 in problem.message
        assert AES256 in problem.message


@pytest.mark.parametrize(
    ("cipher", "key"),
    [
        (AES128, bytes(range(16))), (AES128, KEY64), (AES128, bytes(range(31))), (AES128, bytes(range(33))),
        (AES256, KEY32), (AES256, bytes(range(63))), (AES128, bytes(range(16)) * 2), (AES256, bytes(range(32)) * 2),
    ],
)  # fmt: skip
def test_a_key_of_another_length_or_with_equal_halves_is_refused(based: World, cipher: str, key: bytes) -> None:
    based.quiet()
    problem = failing(lambda: encrypted(based, key, cipher))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "encrypted_volume.key")
    assert b64(key) not in problem.message
    assert key.hex() not in problem.message
    assert based.asked() == []


# The base


def test_a_missing_base_is_refused_and_no_key_is_left(world: World) -> None:
    problem = failing(lambda: encrypted(world, base="nothing"))
    assert (problem.code, problem.field) == ("NOT_FOUND", "encrypted_volume.volume_name_ref")
    assert world.leftovers() == {}


def test_a_base_that_is_gone_from_the_target_is_refused_and_no_key_is_left(based: World) -> None:
    based.target.rpc("bdev_malloc_create", name="theirs", num_blocks=2048, block_size=512)
    based.target.rpc("bdev_malloc_delete", name="theirs")
    assert failing(lambda: encrypted(based, base="theirs")).code == "NOT_FOUND"
    assert based.target.rpc("accel_crypto_keys_get") == []


def test_a_base_is_for_one_user(based: World) -> None:
    based.subsystem()
    user = based.namespace("n0", "base")["name"]
    problem = failing(lambda: encrypted(based))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "encrypted_volume.volume_name_ref")
    assert user in problem.message
    assert based.target.rpc("accel_crypto_keys_get") == []
    based.delete("NvmeNamespace", user)
    encrypted(based)
    problem = failing(lambda: based.namespace("n0", "base"))
    assert problem.code == "FAILED_PRECONDITION"
    assert ENC in problem.message


# Another key, cipher or base


@pytest.mark.parametrize(
    ("wanted", "after"),
    [
        ({"key": b64(OTHER)}, ("base", OTHER)),
        ({"volume_name_ref": "other"}, ("other", KEY32)),
        ({"key": b64(KEY64), "cipher": AES256}, ("base", KEY64)),
    ],
    ids=["key", "base", "cipher"],
)
def test_it_is_rebuilt_only_while_nothing_stands_on_it(
    based: World, wanted: dict[str, str], after: tuple[str, bytes]
) -> None:
    encrypted(based)
    based.subsystem()
    user = based.namespace("n0", "enc")["name"]
    before = on_target(based)
    change = partial(based.update, "EncryptedVolume", {"name": ENC, **wanted})
    problem = failing(change)
    assert problem.code == "FAILED_PRECONDITION"
    assert user in problem.message
    assert on_target(based) == before
    based.delete("NvmeNamespace", user)
    assert "key" not in change()
    base, key = after
    half = len(key) // 2
    assert on_target(based) == (base, "AES_XTS", key[:half].hex(), key[half:].hex())


def test_an_update_without_the_key_keeps_it(based: World) -> None:
    encrypted(based)
    before = on_target(based)
    based.quiet()
    based.update("EncryptedVolume", based.get("EncryptedVolume", ENC), "*")
    assert on_target(based) == before
    assert based.asked() == []


def test_a_cipher_that_does_not_fit_the_key_is_refused(based: World) -> None:
    encrypted(based)
    before = on_target(based)
    problem = failing(lambda: based.update("EncryptedVolume", {"name": ENC, "cipher": AES256}, "cipher"))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "encrypted_volume.key")
    assert on_target(based) == before


# The data


@pytest.mark.parametrize(("cipher", "key"), [(AES128, KEY32), (AES256, KEY64)])
def test_what_is_written_through_it_is_aes_xts_in_the_base(filed: World, cipher: str, key: bytes) -> None:
    encrypted(filed, key, cipher)
    block = bytes(range(256)) * 2
    with filed.io("enc") as io:
        for at in (0, 1, 2047):
            io.write(at, block)
            assert stored(filed, at) == xts(key, at, block)
            assert io.read(at) == block


def test_after_a_change_of_key_it_is_the_other_keys(filed: World) -> None:
    encrypted(filed)
    filed.update("EncryptedVolume", {"name": ENC, "key": b64(OTHER)}, "key")
    with filed.io("enc") as io:
        io.write(5, bytes(512))
    assert stored(filed, 5) == xts(OTHER, 5, bytes(512))
