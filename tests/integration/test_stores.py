"""State at rest: SQLite and Redis under a bridge, and what an operator does with it."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opi_spdk_bridge.cli import offline
from opi_spdk_bridge.core.archive import FORMAT
from opi_spdk_bridge.store import redis as redis_store
from opi_spdk_bridge.store.seal import write_key_file
from tests.kinds.cases import KEY
from tests.kinds.world import HOST_NQN, NQN, PSK, World, failing, free_ports
from tests.support.array import TEST_PSK_BASE64
from tests.support.bridge import Bridge, CallError
from tests.support.late import time_out
from tests.support.patience import HOUR_S, PATIENCE_S
from tests.support.program import program, started
from tests.support.target import Emulator, Target, wait_until

SECRETS = (PSK, TEST_PSK_BASE64, KEY, bytes(range(16)).hex(), bytes(range(16, 32)).hex())


@pytest.fixture
def start(tmp_path: Path, target: Target) -> Iterator[Callable[..., Bridge]]:
    """Starts bridges; each in a folder of its own unless told otherwise."""
    started: list[Bridge] = []

    def one(folder: Path | None = None, **flags: Any) -> Bridge:
        place = folder or tmp_path / f"bridge{len(started)}"
        place.mkdir(exist_ok=True)
        given = {"spdk": target.socket, "state": f"sqlite:{place}/state.sqlite", "connect_grace_s": 0.5, **flags}
        daemon = Bridge(place, **given)
        started.append(daemon)
        daemon.start()
        return daemon

    yield one
    for daemon in started:
        if daemon.running:
            daemon.kill()


@pytest.fixture
def make(tmp_path: Path, target: Target) -> Callable[[Bridge], World]:
    """Short ways to make resources on a bridge."""
    return lambda daemon: World(daemon, target, tmp_path, lambda: target)


def fill(world: World) -> list[str]:
    """Resources with and without secrets; their names."""
    world.malloc_volume("m0")
    world.null_volume("v0")
    cipher = "ENCRYPTION_TYPE_AES_XTS_128"
    world.make("EncryptedVolume", "e0", {"volume_name_ref": "m0", "key": KEY, "cipher": cipher})
    world.subsystem(hostnqn=HOST_NQN, psk=TEST_PSK_BASE64)
    world.namespace("n0", "v0", host_nsid=4)
    return sorted(name for _, name in world.everything())


def names(world: World) -> list[str]:
    """What the bridge lists."""
    return sorted(name for _, name in world.everything())


def refused(daemon: Callable[[], Bridge | None]) -> str:
    """What a bridge says that does not start."""
    with pytest.raises(AssertionError, match="the bridge ended at its start") as ended:
        daemon()
    return str(ended.value)


# Redis


class Redis:
    """A redis-server that a test can stop and start again on its data."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("needs redis-server, which is not installed")
        self._program = found
        self._folder = folder
        self.port = free_ports(1)[0]
        self.address = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it listens."""
        options = ["--port", str(self.port), "--dir", str(self._folder), "--save", "", "--appendonly", "yes"]
        options += ["--appendfsync", "always", "--bind", "127.0.0.1"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log)
        wait_until(self._pongs, "redis-server answers")

    def _pongs(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") == b"+PONG\r\n"
        return False

    def ask(self, *words: str) -> bytes:
        """One command's answer as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            parts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            return connection.recv(1 << 20)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A running redis-server of the test's own, that syncs each change."""
    (tmp_path / "redis").mkdir()
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A master key for states in Redis."""
    path = tmp_path / "master.key"
    write_key_file(path, [os.urandom(32)])
    return path


def on_redis(redis: Redis, key: Path, folder: Path) -> dict[str, Any]:
    """The flags of a bridge whose state is there."""
    return {"state": redis.address, "master_key_file": key, "spdk_shared_dir": folder / "shared"}


def test_a_bridge_on_redis_keeps_what_it_was_asked_for(
    redis: Redis, key: Path, tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    daemon = start(**on_redis(redis, key, tmp_path))
    world = make(daemon)
    wanted = fill(world)
    answers = [world.get(noun, name) for noun, name in world.everything()]
    daemon.stop()
    daemon.start()
    world = make(daemon)
    assert names(world) == wanted
    assert [world.get(noun, name) for noun, name in world.everything()] == answers
    everything = redis.ask("HGETALL", "{opi-spdk-bridge}:records")
    assert b"nvmeSubsystems/sub" in everything
    assert not [secret for secret in SECRETS if secret.encode() in everything]
    world.clear()
    assert world.leftovers() == {}


def test_two_bridges_cannot_share_a_state_in_redis(
    redis: Redis, key: Path, tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    first = start(**on_redis(redis, key, tmp_path))
    said = refused(lambda: start(**on_redis(redis, key, tmp_path)))
    assert f"another bridge has the state in {redis.address}" in said
    make(first).null_volume("v0")
    first.stop()
    second = start(**on_redis(redis, key, tmp_path))
    assert names(make(second)) == ["nullVolumes/v0"]


def test_while_redis_is_away_reads_are_answered_and_changes_refused_and_then_all_goes_on(
    redis: Redis, key: Path, tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World],
    target: Target,
) -> None:  # fmt: skip
    daemon = start(**on_redis(redis, key, tmp_path), sweep_interval_s=0.5)
    world = make(daemon)
    wanted = fill(world)
    redis.stop(signal.SIGKILL)
    assert names(world) == wanted
    problem = failing(lambda: world.null_volume("v1"))
    assert problem.code == "UNAVAILABLE"
    assert redis.address in problem.message
    assert failing(lambda: world.delete("NvmeNamespace", "nvmeSubsystems/sub/nvmeNamespaces/n0")).code == "UNAVAILABLE"
    assert names(world) == wanted
    redis.start()
    wait_until(lambda: can_change(world), "the state can be changed again")
    world.null_volume("v1")
    wanted = sorted([*wanted, "nullVolumes/v1"])
    assert names(world) == wanted
    daemon.kill()
    redis.ask("DEL", "{opi-spdk-bridge}:lease")
    daemon.start()
    assert names(make(daemon)) == wanted
    wait_until(lambda: target.bdev("v1"), "the target has it")


def can_change(world: World) -> bool:
    """Whether changes are not refused any more."""
    try:
        world.delete("NullVolume", "nullVolumes/v1", allow_missing=True)
        world.null_volume("v1")
        world.delete("NullVolume", "nullVolumes/v1")
    except CallError as problem:
        if problem.code != "UNAVAILABLE":
            raise
        return False
    return True


def test_a_bridge_whose_lease_was_taken_over_ends_and_changes_nothing_more(
    redis: Redis, key: Path, tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World],
    target: Target,
) -> None:  # fmt: skip
    daemon = start(**on_redis(redis, key, tmp_path))
    world = make(daemon)
    world.null_volume("v0")
    redis.ask("SET", "{opi-spdk-bridge}:lease", "another", "EX", str(round(HOUR_S)))
    problem = failing(lambda: world.null_volume("v1"))
    assert problem.code == "UNAVAILABLE"
    assert "another bridge has taken it over" in problem.message
    assert target.bdev("v1") is None
    wait_until(lambda: not daemon.running, "it ends")
    assert "another bridge has taken over the state" in daemon.log
    assert redis.ask("GET", "{opi-spdk-bridge}:lease") == b"$7\r\nanother\r\n"


def test_a_bridge_that_finds_no_redis_says_so(
    redis: Redis, key: Path, tmp_path: Path, start: Callable[..., Bridge]
) -> None:
    redis.stop()
    said = refused(lambda: start(**on_redis(redis, key, tmp_path)))
    assert f"the state in {redis.address} cannot be reached" in said
    assert "Traceback" not in said


def test_the_lease_outlives_a_few_missed_renewals() -> None:
    assert redis_store.LEASE_S >= 3 * redis_store._RENEWAL_S


# SQLite


def test_two_bridges_cannot_share_a_state_file(
    tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    state = f"sqlite:{tmp_path}/state.sqlite"
    first = start(state=state)
    said = refused(lambda: start(state=state))
    assert f"another bridge has the state file {tmp_path}/state.sqlite open: stop it, or give another --state" in said
    make(first).null_volume("v0")


@pytest.mark.parametrize("damage", ["text", "middle", "cut"])
def test_a_damaged_file_is_refused_saying_what_to_do_and_left_as_it_is(
    start: Callable[..., Bridge], make: Callable[[Bridge], World], damage: str
) -> None:
    daemon = start()
    world = make(daemon)
    for number in range(40):
        world.null_volume(f"v{number}")
    daemon.stop()
    file = daemon._folder / "state.sqlite"
    content = bytearray(file.read_bytes())
    if damage == "text":
        content[:] = b"this is no database, whatever its name says. " * 50
    elif damage == "middle":
        content[4096:12288] = bytes(8192)
    else:
        del content[len(content) // 2 :]
    file.write_bytes(content)
    said = refused(daemon.start)
    assert f"the state file {file} is damaged or not one of this bridge" in said
    assert "Put back a copy of it, or move it away to start empty" in said
    assert "Traceback" not in said
    assert file.read_bytes() == content


def test_a_full_disk_refuses_changes_and_loses_nothing(
    start: Callable[..., Bridge], make: Callable[[Bridge], World], target: Target
) -> None:
    daemon = start()
    world = make(daemon)
    world.null_volume("v0")
    assert daemon._process is not None
    pid = daemon._process.pid
    size = max(f.stat().st_size for f in daemon._folder.glob("state.sqlite*"))
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))  # as a disk that has no room for more
    made, problems, unknown = [], [], []
    for number in range(30):
        try:
            made.append(world.null_volume(f"x{number}")["name"])
        except CallError as problem:
            problems.append(problem)
            unknown += [f"nullVolumes/x{number}"] if "it was carried out but not stored" in problem.message else []
    assert problems
    assert {problem.code for problem in problems} == {"UNAVAILABLE"}
    assert all("state.sqlite" in problem.message for problem in problems)
    assert daemon.running
    assert names(world) == sorted(["nullVolumes/v0", *made])
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    made.append(world.null_volume("after")["name"])
    daemon.kill()
    daemon.start()
    left = set(names(make(daemon)))
    assert left >= {"nullVolumes/v0", *made}
    assert left <= {"nullVolumes/v0", *made, *unknown}, "what was refused is absent"
    wait_until(lambda: len(target.inventory()["bdevs"]) == len(names(make(daemon))), "the target has the same")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, start: Callable[..., Bridge]) -> None:
    place = tmp_path / "file"
    place.write_text("where a folder should be")
    said = refused(lambda: start(state=f"sqlite:{place}/state.sqlite"))
    assert str(place) in said
    assert "Traceback" not in said


def test_a_folder_on_a_read_only_disk_is_named(tmp_path: Path, target: Target) -> None:
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
    under = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    place = tmp_path / "state"
    place.mkdir()
    tried = subprocess.run([*under, mount, place], capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr if tried else 'unshare is not installed'}")
    flags = ("--spdk", target.socket, "--state", f"sqlite:{place}/state.sqlite", "--listen", "127.0.0.1:0")
    ended = program("serve", *flags, under=[*under, f'{mount} && exec "$@"', str(place)])
    assert ended.returncode == 1
    assert f"{place}/state.sqlite" in ended.stderr
    assert "Read-only file system" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_password_of_redis_is_told_to_nobody(
    redis: Redis, tmp_path: Path, key: Path, start: Callable[..., Bridge]
) -> None:
    password = "open-sesame-0123456789"
    redis.ask("CONFIG", "SET", "requirepass", password)
    state = {"OPI_BRIDGE_STATE": redis.address.replace("//", f"//:{password}@")}
    wrong = {"OPI_BRIDGE_STATE": redis.address.replace("//", f"//:not-{password}@")}
    (tmp_path / "archive.json").write_text(json.dumps({"format": FORMAT, "records": []}))
    for env, arguments, told in (
        (state, ["import", str(tmp_path / "archive.json")], "imported 0 resources into redis://[secret]@127.0.0.1"),
        (wrong, ["export"], f"the state in {redis.address} cannot be reached"),
    ):
        done = program("state", *arguments, "--master-key-file", str(key), env=env)
        assert told in done.stdout + done.stderr
        assert password not in done.stdout + done.stderr
    daemon = start(state=state["OPI_BRIDGE_STATE"], master_key_file=key)
    assert f"state     {redis.address}" in daemon.log
    assert password not in daemon.log


# Export, import, rotation


def exported(state: str, *more: str) -> dict[str, Any]:
    """What `state export` writes."""
    done = program("state", "export", "--state", state, *more)
    assert done.returncode == 0, done.stderr
    archive: dict[str, Any] = json.loads(done.stdout)
    return archive


def test_a_state_is_exported_beside_a_running_bridge_and_imported_elsewhere(
    tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World], target: Target
) -> None:
    daemon = start()
    world = make(daemon)
    wanted = fill(world)
    state = f"sqlite:{daemon._folder}/state.sqlite"
    file = tmp_path / "archive.json"
    done = program("state", "export", "--state", state, "--with-secrets", "-o", str(file))
    assert done.returncode == 0, done.stderr
    answers = [world.get(noun, name) for noun, name in world.everything()]
    elsewhere = f"sqlite:{tmp_path}/elsewhere/state.sqlite"
    done = program("state", "import", "--state", elsewhere, str(file))
    assert f"imported {len(wanted)} resources" in done.stdout
    daemon.stop()
    target.clean()
    second = start(state=elsewhere, spdk_shared_dir=daemon._folder / "shared")
    world = make(second)
    wait_until(lambda: (target.subsystem(NQN) or {}).get("namespaces"), "the target has it, too")
    wait_until(lambda: [world.get(*each) for each in world.everything()] == answers, "the same answers as before")
    assert {item["nsid"] for item in (target.subsystem(NQN) or {})["namespaces"]} == {4}


def test_an_export_without_secrets_has_none_and_cannot_be_imported(
    tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    daemon = start()
    fill(make(daemon))
    archive = exported(f"sqlite:{daemon._folder}/state.sqlite")
    text = json.dumps(archive)
    assert not [secret for secret in SECRETS if secret in text]
    omitted = {record["name"]: record["omitted"] for record in archive["records"] if "omitted" in record}
    assert omitted == {"encryptedVolumes/e0": ["key"], "nvmeSubsystems/sub": ["spec.psk"]}
    file = tmp_path / "archive.json"
    file.write_text(text)
    done = program("state", "import", "--state", f"sqlite:{tmp_path}/elsewhere.sqlite", str(file))
    assert done.returncode == 1
    assert "was exported without its secrets" in done.stderr
    assert "--with-secrets" in done.stderr


def test_an_import_refuses_beside_a_bridge_and_over_resources_unless_told(
    tmp_path: Path, start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    daemon = start()
    world = make(daemon)
    world.null_volume("v0")
    state = f"sqlite:{daemon._folder}/state.sqlite"
    file = tmp_path / "archive.json"
    file.write_text(json.dumps(exported(state, "--with-secrets")))
    world.null_volume("v1")
    beside = program("state", "import", "--state", state, "--replace", str(file))
    assert beside.returncode == 1
    assert "another bridge has the state file" in beside.stderr
    daemon.stop()
    over = program("state", "import", "--state", state, str(file))
    assert over.returncode == 1
    assert "has 2 resources: give --replace to have them forgotten" in over.stderr
    assert program("state", "import", "--state", state, "--replace", str(file)).returncode == 0
    daemon.start()
    assert names(make(daemon)) == ["nullVolumes/v0"]


def test_a_rotated_key_opens_the_secrets_and_the_old_one_does_not(
    start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    daemon = start()
    wanted = fill(make(daemon))
    state, file = f"sqlite:{daemon._folder}/state.sqlite", daemon._folder / "state.sqlite.key"
    before = exported(state, "--with-secrets")
    beside = program("state", "rekey", "--state", state)
    assert beside.returncode == 1
    assert "another bridge has the state file" in beside.stderr
    daemon.stop()
    old = file.read_bytes()
    assert program("state", "rekey", "--state", state).returncode == 0
    fresh = file.read_bytes()
    assert len(fresh) == 32
    assert fresh != old
    assert exported(state, "--with-secrets") == before
    write_key_file(file, [old])
    assert "put back the key that belongs to the state" in refused(daemon.start)
    write_key_file(file, [fresh])
    daemon.start()
    assert names(make(daemon)) == wanted


@pytest.mark.parametrize("step", ["both keys are written", "the rows are sealed anew"])
def test_a_rotation_that_dies_between_its_steps_leaves_a_state_that_can_be_read(
    start: Callable[..., Bridge], make: Callable[[Bridge], World], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    daemon = start()
    wanted = fill(make(daemon))
    state, file = f"sqlite:{daemon._folder}/state.sqlite", daemon._folder / "state.sqlite.key"
    before = exported(state, "--with-secrets")
    daemon.stop()

    class Died(BaseException):
        pass

    writes = 0

    def write(path: Path, keys: list[bytes]) -> None:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise Died
        write_key_file(path, keys)
        if step == "both keys are written":
            raise Died

    monkeypatch.setattr(offline, "write_key_file", write)
    with pytest.raises(Died):
        asyncio.run(offline.rekey(state, None))
    assert len(file.read_bytes()) == 64
    assert exported(state, "--with-secrets") == before
    daemon.start()
    assert names(make(daemon)) == wanted
    daemon.stop()
    assert program("state", "rekey", "--state", state).returncode == 0
    assert len(file.read_bytes()) == 32
    assert exported(state, "--with-secrets") == before


# The master key


def _serve(folder: Path, target: Target, env: dict[str, str]) -> str:
    """Starts a bridge with these variables, has it keep a secret, ends it, and returns its log."""
    log = folder / f"bridge-{time.monotonic_ns()}.log"
    flags = ["--spdk", target.socket, "--state", f"sqlite:{folder}/state.sqlite", "--listen", "127.0.0.1:0"]
    flags += ["--http", "127.0.0.1:0"]
    process = started("serve", *flags, log=log, env={**os.environ, **env})
    try:
        wait_until(lambda: process.poll() is not None or "serves gRPC on" in log.read_text(), "it serves")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    return log.read_text()


@pytest.mark.parametrize("place", ["credential", "environment"])
def test_the_master_key_comes_from_where_the_operator_put_it(
    tmp_path: Path, target: Target, start: Callable[..., Bridge], make: Callable[[Bridge], World], place: str
) -> None:
    material = os.urandom(32)
    key = tmp_path / "given.key"
    write_key_file(key, [material])
    daemon = start(master_key_file=key)
    fill(make(daemon))
    daemon.stop()
    assert not (daemon._folder / "state.sqlite.key").exists()
    if place == "credential":
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials" / "opi-spdk-bridge.key").write_bytes(material)
        env = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    else:
        env = {"OPI_BRIDGE_MASTER_KEY": base64.b64encode(material).decode()}
    assert "serves gRPC on" in _serve(daemon._folder, target, env)
    other = {
        name: str(tmp_path) if name == "CREDENTIALS_DIRECTORY" else base64.b64encode(bytes(32)).decode() for name in env
    }
    log = _serve(daemon._folder, target, other)
    assert "cannot be read with this master key" in log


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, start: Callable[..., Bridge]) -> None:
    key = tmp_path / "open.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o644)
    assert f"has mode 0644: run `chmod 0600 {key}`" in refused(lambda: start(master_key_file=key))


def test_files_with_keys_are_for_their_owner_and_go_with_their_resource(
    start: Callable[..., Bridge], make: Callable[[Bridge], World]
) -> None:
    daemon = start()
    world = make(daemon)
    fill(world)
    keys = daemon._folder / "shared" / "keys"

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    files = list(keys.iterdir())
    assert [mode(file) for file in files] == [0o600]
    assert mode(keys) == mode(keys.parent) == 0o700
    assert mode(daemon._folder / "state.sqlite") == mode(daemon._folder / "state.sqlite.key") == 0o600
    world.clear()
    assert list(keys.iterdir()) == []
    stored = b"".join(file.read_bytes() for file in daemon._folder.glob("state.sqlite*"))
    assert not [secret for secret in SECRETS if secret.encode() in stored]


# Load and endings


@pytest.fixture
def slow(tmp_path: Path, spdk: Emulator) -> Iterator[Callable[..., Bridge]]:
    """Bridges on a target of the test's own that can be slowed down."""
    started: list[Bridge] = []

    def one(**flags: Any) -> Bridge:
        daemon = Bridge(tmp_path, spdk=spdk.socket, state=f"sqlite:{tmp_path}/state.sqlite", **flags)
        daemon.start()
        started.append(daemon)
        return daemon

    yield one
    for daemon in started:
        if daemon.running:
            daemon.kill()


def _null(number: int = 0) -> dict[str, Any]:
    return {"null_volume_id": f"v{number}", "null_volume": {"block_size": 512, "blocks_count": 2048}}


def test_sigterm_lets_a_request_at_work_finish(slow: Callable[..., Bridge], spdk: Emulator) -> None:
    daemon = slow()
    spdk.rpc("emulator_inject_fault", action="hold", method="bdev_null_create", when="before", count=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(daemon.call, "CreateNullVolume", _null())
        wait_until(lambda: spdk.rpc("emulator_call_counts")["calls"].get("bdev_null_create"), "it is at work")
        assert daemon._process is not None
        daemon._process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping: finishing the requests at work" in daemon.log, "it is about to stop")
        spdk.rpc("emulator_clear_faults")
        assert request.result()["name"] == "nullVolumes/v0"
    assert daemon._process.wait(PATIENCE_S) == 0
    daemon.start()
    assert daemon.call("GetNullVolume", {"name": "nullVolumes/v0"})["name"] == "nullVolumes/v0"
    assert spdk.bdev("v0") is not None


def test_sighup_reloads_the_log_level(tmp_path: Path, slow: Callable[..., Bridge]) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text('log_level = "error"\n')
    daemon = slow(config=config)
    daemon.call("CreateNullVolume", _null(0))
    requested = [line for line in daemon.log.splitlines() if "nullVolumes/v0" in line or '"request"' in line]
    assert requested == []
    config.write_text('log_level = "info"\n')
    assert daemon._process is not None
    daemon._process.send_signal(signal.SIGHUP)

    def logs() -> bool:
        daemon.call("GetNullVolume", {"name": "nullVolumes/v0"})
        return "GetNullVolume" in daemon.log

    wait_until(logs, "requests are logged")
    config.write_text('log_level = "nonsense"\n')
    daemon._process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the settings stay as they are" in daemon.log, "the mistake is said")
    assert daemon.call("GetNullVolume", {"name": "nullVolumes/v0"})["name"] == "nullVolumes/v0"


def test_requests_past_the_bound_are_told_resource_exhausted(slow: Callable[..., Bridge], spdk: Emulator) -> None:
    daemon = slow(max_requests=4)
    spdk.rpc("emulator_inject_fault", action="hold", method="bdev_null_create", when="before", count=4)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(daemon.call, "CreateNullVolume", _null(number)) for number in range(4)]
        wait_until(lambda: spdk.rpc("emulator_call_counts")["calls"].get("bdev_null_create") == 4, "four at work")
        problem = failing(lambda: daemon.call("CreateNullVolume", _null(9)))
        assert problem.code == "RESOURCE_EXHAUSTED"
        assert "try again" in problem.message
        spdk.rpc("emulator_clear_faults")
        assert len([request.result() for request in requests]) == 4
    daemon.call("CreateNullVolume", _null(9))


def test_the_clients_deadline_bounds_the_targets_calls(slow: Callable[..., Bridge], spdk: Emulator) -> None:
    daemon = slow(call_timeout_s=HOUR_S)
    time_out(spdk, "bdev_null_create", lambda timeout_s: daemon.call("CreateNullVolume", _null(), timeout_s=timeout_s))
    wait_until(lambda: daemon.log.count("DEADLINE_EXCEEDED") + daemon.log.count("CANCELLED"), "the bridge gave up, too")
    spdk.rpc("emulator_clear_faults")
    wait_until(lambda: spdk.bdev("v0"), "the call that had left was carried out")
    assert daemon.call("CreateNullVolume", _null())["name"] == "nullVolumes/v0"


def test_requests_without_a_deadline_have_the_default_one(slow: Callable[..., Bridge], spdk: Emulator) -> None:
    daemon = slow(request_timeout_s=1, call_timeout_s=HOUR_S)
    spdk.rpc("emulator_inject_fault", action="hold", method="bdev_null_create", when="before", count=1)
    problem = failing(lambda: daemon.call("CreateNullVolume", _null()))
    assert problem.code == "DEADLINE_EXCEEDED"
    assert "bdev_null_create" in problem.message, "the bridge says so, not the client"
