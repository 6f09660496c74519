"""The image, built and walked through: where buildah is, and a base image can be had or made with debootstrap."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.test_readme import WITH_CALL
from tests.deploy.files import DOCKER, ROOT
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.target import wait_until

BUILDAH = shutil.which("buildah")
BASE = os.environ.get("BASE_IMAGE", "localhost/opi-spdk-bridge-base:bookworm")
IMAGE = "localhost/opi-spdk-bridge:test"
_HEALTH = "/opt/opi-spdk-bridge/healthcheck.py"
_SYSTEM = "python3,python3-venv,python-is-python3,ca-certificates"
_LONGEST_BUILD_S = 900

pytestmark = pytest.mark.skipif(BUILDAH is None, reason="buildah is not installed: the image is not built")


def buildah(*arguments: str, timeout_s: float = PATIENCE_S) -> str:
    """Runs buildah without privileges of a daemon; returns what it prints."""
    assert BUILDAH is not None
    environment = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot", **os.environ}
    done = subprocess.run(
        [BUILDAH, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
    )
    assert done.returncode == 0, f"buildah {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small system with Python: BASE_IMAGE, or one made of Debian's packages, which is kept."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return BASE
    if "BASE_IMAGE" in os.environ:
        buildah("pull", "--quiet", BASE, timeout_s=_LONGEST_BUILD_S)
        return BASE
    debootstrap = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin")
    if debootstrap is None or os.geteuid() != 0:
        pytest.skip("no base image: set BASE_IMAGE, or be root and install debootstrap")
    system = tmp_path_factory.mktemp("base") / "system"
    made = subprocess.run(
        [debootstrap, "--variant=minbase", f"--include={_SYSTEM}", "bookworm", str(system)],
        capture_output=True, text=True, timeout=_LONGEST_BUILD_S, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"no base image: debootstrap failed: {made.stdout[-300:]}")
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(system), "/", timeout_s=_LONGEST_BUILD_S)
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", "--rm", container, BASE, timeout_s=_LONGEST_BUILD_S)
    return BASE


@pytest.fixture(scope="module")
def container(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of the image, built as docker/Dockerfile says."""
    pip = _pip_as_here(tmp_path_factory.mktemp("pip"))
    buildah(
        "build", "--quiet", "--format=docker", f"--build-arg=BASE={base}", *pip,
        f"--ignorefile={DOCKER / 'Dockerfile.dockerignore'}", f"--file={DOCKER / 'Dockerfile'}", f"--tag={IMAGE}",
        str(ROOT), timeout_s=_LONGEST_BUILD_S,
    )  # fmt: skip
    made = buildah("from", IMAGE)
    yield made
    buildah("rm", made)
    buildah("rmi", IMAGE)


def _pip_as_here(folder: Path) -> list[str]:
    """Lets pip find packages in the build where it finds them here, whatever is configured."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines())
    config, mounts = configparser.ConfigParser(interpolation=None), set[str]()
    config["global"] = {}
    for name, value in settings.items():
        config["global"][name.strip("':").split(".", 1)[1]] = value.strip("'")
        mounts |= {each for each in value.strip("'").split() if Path(each).is_absolute() and Path(each).exists()}
    path = folder / "pip.conf"
    with path.open("w") as file:
        config.write(file)
    return [f"--volume={path}:/etc/pip.conf:ro", *(f"--volume={each}:{each}:ro" for each in sorted(mounts))]


@pytest.fixture(scope="module")
def address(container: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the image's own entry point serves gRPC, as the image's own user."""
    assert BUILDAH is not None
    grpc, http = free_ports(2)
    log = tmp_path_factory.mktemp("served") / "log"
    environment = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot", **os.environ}
    command = [
        BUILDAH, "run", container, "--", "opi-spdk-bridge", "serve", f"--listen=127.0.0.1:{grpc}",
        f"--http=127.0.0.1:{http}",
    ]  # fmt: skip
    with log.open("wb") as output:
        serving = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        wait_until(lambda: "serves gRPC" in log.read_text() or serving.poll() is not None, "it serves")
        assert serving.poll() is None, log.read_text()
        ready = ["run", container, "--", "python", _HEALTH, "/readyz", f"--at=127.0.0.1:{http}"]
        wait_until(lambda: not subprocess.run([BUILDAH, *ready], env=environment).returncode, "it is ready")
        yield f"127.0.0.1:{grpc}"
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(PATIENCE_S)


def test_the_walk_of_the_readme_in_the_image(container: str, address: str) -> None:
    script = WITH_CALL.replace("127.0.0.1:50051", address).replace('"4420"', f'"{free_ports(1)[0]}"')
    told = buildah("run", f"--env=OPI_BRIDGE_ADDRESS={address}", container, "--", "bash", "-euxc", script)
    assert "nvmeSubsystems/subsys0/nvmeNamespaces/ns0  NSID 1  online" in told
    assert "OPER_STATE_ONLINE" in told


def test_it_runs_as_nobody_in_particular(container: str, address: str) -> None:
    assert buildah("run", container, "--", "id", "-u") == "10001"


@pytest.mark.parametrize("tool", ["gcc", "cc", "pip", "pip3"])
def test_nothing_in_it_compiles_or_installs(container: str, tool: str) -> None:
    assert buildah("run", container, "--", "sh", "-c", f"command -v {tool} || echo none") == "none"


def test_what_only_building_takes_is_not_in_it(container: str) -> None:
    probe = "import importlib.util as u; print([m for m in ('grpc_tools', 'hatchling', 'pip') if u.find_spec(m)])"
    assert buildah("run", container, "--", "/opt/opi-spdk-bridge/bin/python", "-c", probe) == "[]"


def test_it_says_what_it_is_and_how_it_is_checked(container: str) -> None:
    told = buildah(
        "inspect", "--type=image", "--format={{.Docker.Config.Labels}} {{.Docker.Config.Healthcheck}}", IMAGE
    )
    assert "org.opencontainers.image.title:opi-spdk-bridge" in told
    assert _HEALTH in told
