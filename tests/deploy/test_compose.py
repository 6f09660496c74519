"""The containers: what compose starts is what the programs take, and the image is built as it should be."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DOCKER, ROOT, document, require_accepted, tool
from tests.http.web import Web, web
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.program import started
from tests.support.target import Target, wait_until

COMPOSE = document(DOCKER / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
HEALTHCHECK = DOCKER / "healthcheck.py"
START = DOCKER / "spdk" / "start.sh"
ARRAY = "nqn.2016-06.io.spdk:cnode1"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and what they say."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


class TestCompose:
    def test_every_profile_of_the_guide_is_there(self) -> None:
        profiles = {profile for service in SERVICES.values() for profile in service["profiles"]}
        assert profiles == {"emulated", "spdk", "observability", "test"}

    @pytest.mark.parametrize("name", OURS)
    def test_our_programs_take_their_command_lines(self, name: str) -> None:
        require_accepted(SERVICES[name]["command"])

    @pytest.mark.parametrize("name", SERVICES)
    def test_no_container_may_become_more_than_it_is(self, name: str) -> None:
        service = SERVICES[name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
        assert service.get("read_only") or name == "spdk"

    @pytest.mark.parametrize("name", SERVICES)
    def test_images_are_of_a_version_and_ports_are_published_to_this_machine_alone(self, name: str) -> None:
        image = SERVICES[name]["image"]
        assert ":" in image.rpartition("/")[2]
        assert not image.endswith(":latest")
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))

    def test_mounted_files_exist_and_volumes_are_declared(self) -> None:
        for service in SERVICES.values():
            for mount in service.get("volumes", []):
                source = mount.partition(":")[0]
                if source.startswith("."):
                    assert (DOCKER / source).exists(), source
                elif not source.startswith("/"):
                    assert source in COMPOSE["volumes"]

    def test_what_a_service_waits_for_can_be_told_well(self) -> None:
        for service in SERVICES.values():
            for other in service.get("depends_on", {}):
                assert "healthcheck" in SERVICES[other] or other in OURS  # the image has one

    def test_bridge_and_target_run_as_one_user(self) -> None:
        assert SERVICES["spdk"]["user"] == SERVICES["spdk-bridge"]["user"]

    def test_compose_itself_accepts_the_file(self) -> None:
        docker = tool("docker", "compose files are not checked by it")
        if subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
            pytest.skip("docker is there without its compose plug-in")
        command = [docker, "compose", "-f", str(DOCKER / "compose.yaml"), "--profile", "*", "config", "--quiet"]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


class TestDockerfile:
    def test_what_it_copies_is_not_ignored_and_is_in_the_repository(self) -> None:
        allowed = [
            line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
        ]
        copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
        sources = [word for word in copied if not word.startswith(("--", "/"))]
        assert set(sources) == set(allowed)
        assert all((ROOT / source).exists() for source in sources if source != "requirements.lock")

    def test_it_ends_as_an_ordinary_user_with_a_health_check_and_labels(self) -> None:
        final = instructions()[[name for name, _ in instructions()].index("FROM", 2) :]
        said = dict(final)
        assert said["USER"] == "10001:10001"
        assert "healthcheck.py" in said["HEALTHCHECK"]
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}=" in said["LABEL"]
        assert json.loads(said["ENTRYPOINT"]) == ["opi-spdk-bridge"]
        require_accepted(json.loads(said["CMD"]))

    def test_nothing_is_compiled_installed_unpinned_or_fetched_by_hand(self) -> None:
        said = " ".join(rest for name, rest in instructions() if name == "RUN")
        assert "--require-hashes" in said
        assert "--only-binary :all:" in said
        assert re.search(r"pip uninstall [^&]*\bgrpcio-tools\b[^&]*&& pip check", said), "protoc stays in the image"
        assert not re.search(r"\b(gcc|build-essential|curl|wget|apt-get|sudo)\b", said)
        assert not any(name == "ADD" for name, _ in instructions())

    def test_base_images_are_slim_of_a_version_and_not_of_one_machine(self) -> None:
        (base,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("BASE=")]
        assert re.search(r":3\.\d+-slim-\w+$", base)
        assert "--platform" not in DOCKERFILE.replace("buildx build --platform", "")
        assert {rest.split()[0] for name, rest in instructions() if name == "FROM"} == {"${BASE}"}


def healthcheck(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(HEALTHCHECK), f"--timeout-s={PATIENCE_S}", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(tmp_path_factory.mktemp("healthcheck"), spdk="/nonexistent/spdk.sock", state="memory:") as daemon:
        yield daemon


class TestHealthcheck:
    def test_a_bridge_whose_target_is_away_is_alive_but_not_ready(self, served: Web) -> None:
        at = served.url.removeprefix("http://")
        assert healthcheck("--at", at).returncode == 0
        unready = healthcheck("/readyz", "--at", at)
        assert unready.returncode == 1
        assert "503" in unready.stderr
        assert "does not answer" in unready.stderr

    @pytest.mark.parametrize("at", ["127.0.0.1:1", "unix:/nonexistent/http.sock"])
    def test_nobody_there_is_a_failure_with_a_reason(self, at: str) -> None:
        failed = healthcheck("--at", at)
        assert failed.returncode == 1
        assert at in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.fixture
def ports() -> list[int]:
    """Where the array listens: plain, and with TLS."""
    return free_ports(2)


@pytest.fixture
def script(tmp_path: Path, ports: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """docker/spdk/start.sh, with an emulator for the target and SPDK's own rpc.py."""
    rpc = Path(sys.executable).with_name("spdk-rpc")
    if not rpc.exists():
        pytest.skip("SPDK's rpc.py is not installed (PyPI: spdk)")
    read = "while [ $# -gt 0 ]; do case $1 in -r) socket=$2;; -S) folder=$2;; esac; shift; done"
    emulate = f"exec {shlex.quote(sys.executable)} -m opi_spdk_bridge emulate"
    target = tmp_path / "spdk_tgt"
    target.write_text(f'#!/bin/sh\n{read}\n{emulate} --socket "$socket" --vhost-dir "$folder"\n')
    target.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "SPDK_RUN": str(tmp_path / "run"),
        "SPDK_AIO_FILE": str(tmp_path / "aio"),
        "SPDK_ADDRESS": "127.0.0.1",
        "SPDK_PORT": str(ports[0]),
        "SPDK_TLS_PORT": str(ports[1]),
        "SPDK_TGT": str(target),
        "SPDK_RPC": str(rpc),
        "SPDK_ARGS": "-m 0x1 -s 512",
    }
    with (tmp_path / "target.log").open("wb") as log:
        process = subprocess.Popen(["/bin/sh", str(START)], env=environment, cwd=ROOT, stdout=log, stderr=log)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


class TestTargets:
    def test_the_script_sets_up_what_the_compliance_client_expects_and_ends_with_a_signal(
        self, script: subprocess.Popen[bytes], tmp_path: Path, ports: list[int]
    ) -> None:
        target = Target(str(tmp_path / "run" / "spdk.sock"))
        done = tmp_path / "run" / "set-up"
        wait_until(lambda: done.exists() or script.poll() is not None, "the target is set up")
        assert script.poll() is None, (tmp_path / "target.log").read_text()
        expect_array(target, ports)
        assert [key["name"] for key in target.rpc("keyring_get_keys")] == ["array-psk"]
        assert (tmp_path / "aio").stat().st_size >= 12 * 512
        script.terminate()
        script.wait(PATIENCE_S)
        with pytest.raises(OSError, match=r"refused|No such file"):
            target.rpc("spdk_get_version")

    def test_the_emulated_target_starts_with_the_same(self, tmp_path: Path, ports: list[int]) -> None:
        configuration = tmp_path / "target.json"
        configuration.write_text((DOCKER / "spdk" / "emulated.json").read_text().replace("4444", str(ports[0])))
        target = Target(str(tmp_path / "spdk.sock"))
        flags = [f"--socket={target.socket}", f"--config={configuration}"]
        with started("emulate", *flags, log=tmp_path / "target.log", cwd=ROOT) as process:
            try:
                wait_until(lambda: listens(target), "the target is up")
                expect_array(target, ports[:1])
            finally:
                process.kill()


def listens(target: Target) -> bool:
    """Whether the target has loaded its configuration: its last call makes the listener."""
    try:
        subsystem = target.subsystem(ARRAY)
    except OSError:
        return False
    return subsystem is not None and bool(subsystem["listen_addresses"])


def expect_array(target: Target, ports: list[int]) -> None:
    """The array of the compliance client, and a volume that is free."""
    subsystem = target.subsystem(ARRAY)
    assert subsystem is not None
    assert not subsystem["allow_any_host"]
    assert [host["nqn"].rpartition(":")[2] for host in subsystem["hosts"]] == ["feb98abe-d51f-40c8-b348-2753f3571d3c"]
    assert {address["trsvcid"] for address in subsystem["listen_addresses"]} == {str(port) for port in ports}
    (namespace,) = subsystem["namespaces"]
    assert (namespace["bdev_name"], namespace["nguid"]) == ("Malloc2", "ABCDEF0123456789ABCDEF0123456789")
    free = target.bdev("Malloc1")
    assert free is not None
    assert not free["claimed"]
    assert {transport["trtype"] for transport in target.rpc("nvmf_get_transports")} == {"TCP", "VFIOUSER"}
