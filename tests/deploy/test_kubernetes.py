"""The Kubernetes manifests: valid by the schemas, and true to the program that they run."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from opi_spdk_bridge import __version__
from opi_spdk_bridge.api.policy import Peer, Policy
from tests.deploy.files import (
    KUBERNETES,
    containers,
    document,
    documents,
    output_of,
    require_accepted,
    settings_of,
    yaml,
)

jsonschema: Any = importlib.import_module("jsonschema")  # has no types
OVERLAYS = ("node-target", "sidecar")
KUBERNETES_VERSION = "1.31"
FILES = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
CUSTOM = json.loads((Path(__file__).parent / "custom_resources.json").read_text())


def check(resource: dict[str, Any], partial: bool = False) -> None:
    """Against the Kubernetes schemas, or ours for custom resources; patches may lack what they do not change."""
    kind = f"{resource['apiVersion']}/{resource['kind']}"
    if kind in CUSTOM:
        jsonschema.validate(resource["spec"], CUSTOM[kind])
        return
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validate: Any = importlib.import_module("kubernetes_validate")
    try:
        validate.validate(resource, KUBERNETES_VERSION, strict=True)
    except validate.ValidationError as problem:
        if not (partial and problem.validator == "required"):
            raise


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What kustomize makes of an overlay, by kind and name."""
    path = str(KUBERNETES / "overlays" / request.param)
    if kustomize := shutil.which("kustomize"):
        text = output_of(kustomize, "build", path)
    elif kubectl := shutil.which("kubectl"):
        text = output_of(kubectl, "kustomize", path)
    else:
        pytest.skip("neither kustomize nor kubectl is installed: overlays are not rendered")
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(text)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_each_manifest_is_valid(path: Path) -> None:
    for resource in documents(path):
        check(resource, partial="overlays" in path.parts)


def test_rendered_overlays_are_valid(overlay: dict[str, Any]) -> None:
    for resource in overlay.values():
        check(resource)
    kinds = {name.partition("/")[0] for name in overlay}
    assert kinds >= {"Namespace", "ServiceAccount", "ConfigMap", "DaemonSet", "NetworkPolicy", "PodMonitor"}


def test_each_kustomization_names_files_that_exist() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        read = document(path)
        named = [*read.get("resources", []), *read.get("components", [])]
        named += [patch["path"] for patch in read.get("patches", [])]
        named += [file for made in read.get("configMapGenerator", []) for file in made["files"]]
        assert all((path.parent / name).exists() for name in named), path


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_run_this_version(name: str) -> None:
    images = document(KUBERNETES / "overlays" / name / "kustomization.yaml")["images"]
    assert images == [{"name": "opi-spdk-bridge", "newTag": __version__}]


def test_the_settings_are_those_of_the_bridge() -> None:
    settings = settings_of(KUBERNETES / "base" / "bridge.toml")
    assert settings.tls_cert is not None
    assert settings.tls_client_ca is not None
    assert not settings.insecure


def test_the_policy_knows_the_certificates_that_are_made() -> None:
    policy = Policy.load(KUBERNETES / "base" / "policy.toml")
    made = documents(KUBERNETES / "components" / "cert-manager" / "certificates.yaml")
    clients = [item["spec"]["commonName"] for item in made if "client auth" in item["spec"]["usages"]]
    roles = {name: policy.identify(Peer(certificate=[name])).role.name for name in clients}
    assert roles == {"spdk-csi-node": "operator", "prometheus": "viewer"}
    assert policy.identify(Peer(listener="pod")).role.name == "admin"


def test_no_container_may_become_more_than_it_is(overlay: dict[str, Any]) -> None:
    pod = overlay["DaemonSet/opi-spdk-bridge"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not any(pod.get(shared) for shared in ("hostPID", "hostIPC"))
    for container in containers(pod):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert not context.get("privileged")
        assert "limits" in container["resources"]


def test_mounts_and_volumes_fit(overlay: dict[str, Any]) -> None:
    pod = overlay["DaemonSet/opi-spdk-bridge"]["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
    assert mounted == volumes


def test_the_bridge_finds_what_its_settings_name(overlay: dict[str, Any]) -> None:
    pod = overlay["DaemonSet/opi-spdk-bridge"]["spec"]["template"]["spec"]
    (bridge,) = [container for container in pod["containers"] if container["name"] == "bridge"]
    require_accepted(bridge["args"])
    settings = settings_of(KUBERNETES / "base" / "bridge.toml")
    mounts = [mount["mountPath"] for mount in bridge["volumeMounts"]]
    local = [text.removeprefix("unix:").partition(",")[0] for text in settings.listen if text.startswith("unix:")]
    for path in (settings.spdk, settings.spdk_shared_dir, str(settings.tls_key), str(settings.policy), *local):
        assert any(str(path).startswith(f"{mount}/") for mount in mounts), path
    ports = {port["name"]: port["containerPort"] for port in bridge["ports"]}
    assert f"0.0.0.0:{ports['grpc']}" in settings.listen
    assert f"0.0.0.0:{ports['https']}" in settings.http
    (asked,) = [entry["value"] for entry in bridge["env"] if entry["name"] == "OPI_BRIDGE_HEALTH_AT"]
    assert any(text.partition(",")[0] == asked for text in settings.http)


def test_policy_and_monitor_find_the_pods_and_their_ports(overlay: dict[str, Any]) -> None:
    template = overlay["DaemonSet/opi-spdk-bridge"]["spec"]["template"]
    ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}
    monitor = overlay["PodMonitor/opi-spdk-bridge"]["spec"]
    network = overlay["NetworkPolicy/opi-spdk-bridge"]["spec"]
    for labels in (monitor["selector"]["matchLabels"], network["podSelector"]["matchLabels"]):
        assert labels.items() <= template["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
    assert {port["port"] for rule in network["ingress"] for port in rule["ports"]} <= ports


def test_secrets_that_are_used_are_made_by_cert_manager_or_told_in_the_guide(overlay: dict[str, Any]) -> None:
    made = {item["spec"]["secretName"] for name, item in overlay.items() if name.startswith("Certificate/")}
    pod = overlay["DaemonSet/opi-spdk-bridge"]["spec"]["template"]["spec"]
    projected = next(volume["projected"]["sources"] for volume in pod["volumes"] if "projected" in volume)
    used = {source["secret"]["name"] for source in projected if "secret" in source}
    used |= {overlay["PodMonitor/opi-spdk-bridge"]["spec"]["podMetricsEndpoints"][0]["tlsConfig"]["keySecret"]["name"]}
    assert used <= made
    assert "opi-spdk-bridge-master-key" in (KUBERNETES.parents[1] / "docs" / "kubernetes.md").read_text()


def test_the_sidecar_starts_before_the_bridge_and_shares_its_socket_and_user() -> None:
    patch = document(KUBERNETES / "overlays" / "sidecar" / "target.yaml")["spec"]["template"]["spec"]
    (target,) = [container for container in patch["initContainers"] if container["name"] == "target"]
    assert target["restartPolicy"] == "Always"
    assert target["resources"]["requests"] == target["resources"]["limits"]
    settings = settings_of(KUBERNETES / "base" / "bridge.toml")
    assert f"--rpc-socket={settings.spdk}" in target["command"]
    assert patch["securityContext"]["runAsNonRoot"] is True
    assert "runAsUser" not in target["securityContext"]
