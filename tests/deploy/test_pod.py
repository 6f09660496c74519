"""The settings and the policy of the Kubernetes manifests, served: who gets in, and what the probes see."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from opi_spdk_bridge.pb.storage import backend_null_pb2 as null
from tests.deploy.files import DOCKER, KUBERNETES
from tests.support.certificates import Authority
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.program import program, started
from tests.support.target import Emulator, wait_until

CREATE = "/opi_api.storage.v1.NullVolumeService/CreateNullVolume"


@dataclass(frozen=True)
class Pod:
    """A bridge with the pod's settings, its folders and ports moved."""

    folder: Path
    grpc_port: int
    http_port: int
    authority: Authority

    def channel(self, subject: str) -> grpc.Channel:
        """A connection with the certificate of that subject."""
        own, ca = self.authority.issue(subject), self.authority.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(ca, own.key.read_bytes(), own.certificate.read_bytes())
        target = [("grpc.ssl_target_name_override", "opi-spdk-bridge")]
        return grpc.secure_channel(f"127.0.0.1:{self.grpc_port}", credentials, target)

    def create(self, subject: str, volume: str) -> null.NullVolume:
        """Asks for a volume."""
        resource = null.NullVolume(block_size=512, blocks_count=2048)
        request = null.CreateNullVolumeRequest(null_volume_id=volume, null_volume=resource)
        with self.channel(subject) as channel:
            call = channel.unary_unary(
                CREATE,
                request_serializer=null.CreateNullVolumeRequest.SerializeToString,
                response_deserializer=null.NullVolume.FromString,
            )
            answer: null.NullVolume = call(request, timeout=PATIENCE_S)
            return answer


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    for name in ("spdk", "etc/tls", "run", "state"):
        (folder / name).mkdir(parents=True)
    tls = folder / "etc" / "tls"
    authority = Authority(tls, "ca")
    authority.issue("opi-spdk-bridge").put(tls / "tls.crt", tls / "tls.key")
    ports = free_ports(2)
    text = (KUBERNETES / "base" / "bridge.toml").read_text()
    for there, here in (
        ("/var/run/spdk", folder / "spdk"),
        ("/etc/opi-spdk-bridge", folder / "etc"),
        ("/var/run/opi-spdk-bridge", folder / "run"),
        ("0.0.0.0:50051", f"127.0.0.1:{ports[0]}"),
        ("0.0.0.0:8082", f"127.0.0.1:{ports[1]}"),
    ):
        text = text.replace(there, str(here))
    (folder / "etc" / "bridge.toml").write_text(text)
    (folder / "etc" / "policy.toml").write_text((KUBERNETES / "base" / "policy.toml").read_text())
    target = Emulator(folder / "spdk", "spdk")
    target.start()
    log = folder / "pod.log"
    flags = [f"--config={folder}/etc/bridge.toml", f"--state=sqlite:{folder}/state/state.sqlite"]
    process = started("serve", *flags, log=log)
    try:
        wait_until(lambda: "serves gRPC on" in log.read_text() or process.poll() is not None, "the pod serves")
        assert process.poll() is None, log.read_text()
        yield Pod(folder, ports[0], ports[1], authority)
    finally:
        process.kill()
        process.wait()
        target.kill()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_the_probes_get_their_answers(pod: Pod, path: str) -> None:
    environment = {"OPI_BRIDGE_HEALTH_AT": f"unix:{pod.folder}/run/http.sock"}
    command = [sys.executable, "-I", str(DOCKER / "healthcheck.py"), path]
    wait_until(lambda: subprocess.run(command, env=environment).returncode == 0, f"{path} is well")


def test_the_csi_node_plug_in_may_make_volumes(pod: Pod) -> None:
    assert pod.create("spdk-csi-node", "of-csi").name == "nullVolumes/of-csi"


@pytest.mark.parametrize(("subject", "code"), [("prometheus", "PERMISSION_DENIED"), ("somebody", "UNAUTHENTICATED")])
def test_others_may_not(pod: Pod, subject: str, code: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        pod.create(subject, "of-another")
    problem: grpc.Call = refused.value  # type: ignore[assignment]
    assert problem.code().name == code


def test_prometheus_scrapes_with_its_certificate_and_nobody_without(pod: Pod) -> None:
    context = pod.authority.client()
    context.check_hostname = False
    url = f"https://127.0.0.1:{pod.http_port}/metrics"
    with pytest.raises(httpx.HTTPError):
        httpx.get(url, verify=context, timeout=PATIENCE_S)
    own = pod.authority.issue("prometheus")
    context.load_cert_chain(own.certificate, own.key)
    scraped = httpx.get(url, verify=context, timeout=PATIENCE_S).text
    assert re.search(r"^opi_bridge_spdk_connected 1", scraped, re.MULTILINE)


def test_whoever_is_in_the_pod_sees_everything(pod: Pod) -> None:
    seen = program("call", "ListNullVolumes", "--address", f"unix:{pod.folder}/run/grpc.sock")
    assert seen.returncode == 0, seen.stderr
