# ruff: noqa: ASYNC240 - a test may wait for the disk
from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from opi_spdk_bridge import errors
from opi_spdk_bridge.spdk.shared import SharedFolder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> SharedFolder:
    folder = SharedFolder.parse(str(tmp_path / "shared"))
    folder.prepare()
    return folder


def test_the_target_sees_the_folder_at_the_same_place_unless_told_otherwise(tmp_path: Path) -> None:
    same = SharedFolder.parse(str(tmp_path))
    assert (same.path, same.target_path) == (tmp_path, tmp_path)
    other = SharedFolder.parse(f"{tmp_path}:/in/the/container")
    assert (other.path, other.target_path) == (tmp_path, Path("/in/the/container"))
    assert other.target_key_path("k") == "/in/the/container/keys/k"
    assert other.target_socket_folder("s") == "/in/the/container/vfio-user/s"


def test_a_relative_folder_is_told_to_the_target_as_an_absolute_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert SharedFolder.parse("here").target_key_path("k") == f"{tmp_path}/here/keys/k"


def test_the_folders_are_made_for_the_owner_only(shared: SharedFolder) -> None:
    assert [mode(path) for path in (shared.path, shared.path / "keys", shared.path / "vfio-user")] == [0o700] * 3
    assert not any((shared.path / "keys").iterdir()), "nothing is left of the trial"


def test_preparing_again_changes_nothing(shared: SharedFolder) -> None:
    shared.prepare()


@pytest.mark.parametrize("wrong", [0o755, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_refused_with_the_command_to_run(tmp_path: Path, wrong: int) -> None:
    tmp_path.chmod(wrong)
    with pytest.raises(errors.FailedPrecondition, match=rf"mode {wrong:04o}.*chmod 0700 {tmp_path}"):
        SharedFolder.parse(str(tmp_path)).prepare()


def test_a_folder_that_cannot_be_made_is_refused_naming_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FailedPrecondition, match="--spdk-shared-dir"):
        SharedFolder.parse(str(tmp_path / "file" / "shared")).prepare()


@pytest.mark.parametrize("uid", [None, os.geteuid()])
async def test_a_key_is_a_file_for_its_owner_only(shared: SharedFolder, uid: int | None) -> None:
    await shared.write_key("opi-1", b"material", uid)
    path = Path(shared.target_key_path("opi-1"))
    assert (path.read_bytes(), mode(path)) == (b"material", 0o600)


async def test_writing_a_key_again_replaces_the_file(shared: SharedFolder) -> None:
    await shared.write_key("opi-1", b"old", None)
    path = Path(shared.target_key_path("opi-1"))
    path.chmod(0o644)
    await shared.write_key("opi-1", b"new", None)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


async def test_a_key_does_not_go_through_a_link_that_someone_laid(shared: SharedFolder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path = Path(shared.target_key_path("opi-1"))
    path.symlink_to(elsewhere)
    await shared.write_key("opi-1", b"material", None)
    assert elsewhere.read_text() == "precious"
    assert not path.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_a_key_belongs_to_the_targets_user(shared: SharedFolder) -> None:
    os.chown(shared.path, 12345, -1)
    await shared.write_key("opi-1", b"material", 12345)
    assert Path(shared.target_key_path("opi-1")).stat().st_uid == 12345


async def test_a_key_that_the_target_could_not_read_is_refused_and_not_left_behind(shared: SharedFolder) -> None:
    with pytest.raises(errors.FailedPrecondition, match="Run both as one user"):
        await shared.write_key("opi-1", b"material", os.geteuid() + 1)
    assert not Path(shared.target_key_path("opi-1")).exists()


async def test_a_key_that_cannot_be_written_is_refused_saying_where(shared: SharedFolder) -> None:
    (shared.path / "keys").rmdir()
    with pytest.raises(errors.FailedPrecondition, match=f"{shared.path}/keys"):
        await shared.write_key("opi-1", b"material", None)


async def test_a_key_whose_place_is_taken_by_a_folder_is_refused_saying_where(shared: SharedFolder) -> None:
    (shared.path / "keys" / "opi-1").mkdir()
    with pytest.raises(errors.FailedPrecondition, match=f"{shared.path}/keys"):
        await shared.write_key("opi-1", b"material", None)


async def test_removing_a_key_twice_is_success(shared: SharedFolder) -> None:
    await shared.write_key("opi-1", b"material", None)
    await shared.remove_key("opi-1")
    await shared.remove_key("opi-1")
    assert not Path(shared.target_key_path("opi-1")).exists()


async def test_a_socket_folder_is_made_once_and_removed_with_what_is_in_it(shared: SharedFolder) -> None:
    await shared.make_socket_folder("pf0")
    await shared.make_socket_folder("pf0")
    folder = Path(shared.target_socket_folder("pf0"))
    assert mode(folder) == 0o700
    (folder / "cntrl").write_text("")
    await shared.remove_socket_folder("pf0")
    await shared.remove_socket_folder("pf0")
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc/passwd", "../x", "a\n", "a\x00", "é"])
async def test_a_name_that_would_lead_elsewhere_is_refused(shared: SharedFolder, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(name)}$"):
        await shared.write_key(name, b"material", None)
    with pytest.raises(ValueError, match=rf"^{re.escape(name)}$"):
        await shared.make_socket_folder(name)
    assert list((shared.path / "keys").iterdir()) == []
