"""What a bridge manages, as lines of a tree: subsystems, their controllers and namespaces, the volumes below."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

Node = tuple[str, list["Node"]]


class Bridge(Protocol):
    """A way to call a bridge's methods with JSON."""

    def methods(self) -> dict[str, Any]: ...

    def call(self, name: str, request: str) -> dict[str, Any]: ...


def lines(bridge: Bridge) -> Iterator[str]:
    """The tree's lines."""
    offered = {method.name for method in bridge.methods().values()}
    everything = _Lists(bridge, offered)
    used: set[str] = set()
    roots = [_subsystem(everything, item, used) for item in everything.of("NvmeSubsystem")]
    for kind in ("MallocVolume", "NullVolume"):
        volumes = [item for item in everything.of(kind) if _id(item) not in used]
        roots += [_volume(item) for item in volumes]
    if not roots:
        yield "(nothing yet)"
    for root in roots:
        yield from _draw(root, "", "")


class _Lists:
    def __init__(self, bridge: Bridge, offered: set[str]) -> None:
        self._bridge = bridge
        self._offered = offered

    def of(self, kind: str, parent: str = "") -> list[dict[str, Any]]:
        """Every resource of a kind, all pages."""
        method = f"List{kind}s"
        if method not in self._offered:
            return []
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            request = {"page_size": 1000, "page_token": token, **({"parent": parent} if parent else {})}
            answer = self._bridge.call(method, json.dumps(request))
            items += next((value for value in answer.values() if isinstance(value, list)), [])
            token = answer.get("next_page_token", "")
            if not token:
                return items


def _subsystem(everything: _Lists, item: dict[str, Any], used: set[str]) -> Node:
    name, spec = item["name"], item["spec"]
    children = [_controller(child) for child in everything.of("NvmeController", name)]
    for child in everything.of("NvmeNamespace", name):
        reference = child["spec"]["volume_name_ref"]
        used.add(reference.rpartition("/")[2])
        state = child.get("status", {}).get("oper_state", "OPER_STATE_UNSPECIFIED").removeprefix("OPER_STATE_").lower()
        children.append((f"{child['name']}  NSID {child['spec'].get('host_nsid', '?')}  {state}", [(reference, [])]))
    host = f"  host {spec['hostnqn']}" if "hostnqn" in spec else "  any host"
    return f"{name}  {spec['nqn']}{host}", children


def _controller(item: dict[str, Any]) -> Node:
    spec = item["spec"]
    if "fabrics_id" in spec:
        at = f"{spec['fabrics_id']['traddr']} port {spec['fabrics_id']['trsvcid']}"
    else:
        at = f"PCI function {spec['pcie_id'].get('physical_function', 0)}"
    kind = spec["trtype"].removeprefix("NVME_TRANSPORT_TYPE_")
    active = "active" if item.get("status", {}).get("active") else "not active"
    return f"{item['name']}  {kind} {at}  {active}", []


def _volume(item: dict[str, Any]) -> Node:
    return f"{item['name']}  {item['blocks_count']} blocks of {item['block_size']} bytes", []


def _id(item: dict[str, Any]) -> str:
    return str(item["name"]).rpartition("/")[2]


def _draw(node: Node, first: str, rest: str) -> Iterator[str]:
    text, children = node
    yield first + text
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield from _draw(child, rest + ("└── " if last else "├── "), rest + ("    " if last else "│   "))
