"""What a bridge manages, as lines of a tree: front ends, what they show to hosts, and the volumes below."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

Node = tuple[str, list["Node"]]
Resource = dict[str, Any]

_VOLUMES = ("MallocVolume", "NullVolume", "AioVolume", "EncryptedVolume", "QosVolume")


class Bridge(Protocol):
    """A way to call a bridge's methods with JSON."""

    def call(self, name: str, request: str) -> dict[str, Any]: ...


def lines(bridge: Bridge) -> Iterator[str]:
    """The tree's lines."""
    roots = _Forest(bridge).roots()
    if not roots:
        yield "(nothing yet)"
    for root in roots:
        yield from _draw(root, "", "")


class _Forest:
    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._volumes = {item["name"]: item for kind in _VOLUMES for item in self._list(kind)}
        self._shown: set[str] = set()

    def roots(self) -> list[Node]:
        """Front ends first, then remote controllers, then the volumes that nothing stands on."""
        luns = self._list("VirtioScsiLun")
        roots = [self._subsystem(item) for item in self._list("NvmeSubsystem")]
        roots += [(f"{item['name']}  {_function(item)}", [self._volume(item)]) for item in self._list("VirtioBlk")]
        for item in (*self._list("VirtioScsiController"), *self._list("VirtioScsiTarget")):
            below = [
                (lun["name"], [self._volume(lun)]) for lun in luns if _id(lun["target_name_ref"]) == _id(item["name"])
            ]
            roots.append((f"{item['name']}  {_function(item)}".rstrip(), below))
        roots += [self._remote(item) for item in self._list("NvmeRemoteController")]
        stacked = [self._stack(item) for item in self._volumes.values() if "volume_name_ref" in item]
        stacked += [self._stack(item) for item in self._volumes.values() if "volume_name_ref" not in item]
        return roots + [(text, below) for text, below in stacked if text.partition("  ")[0] not in self._shown]

    def _subsystem(self, item: Resource) -> Node:
        name, spec = item["name"], item["spec"]
        children = [_controller(child) for child in self._list("NvmeController", name)]
        for child in self._list("NvmeNamespace", name):
            state = child.get("status", {}).get("oper_state", "unknown").removeprefix("OPER_STATE_").lower()
            text = f"{child['name']}  NSID {child['spec'].get('host_nsid', '?')}  {state}"
            children.append((text, [self._volume(child["spec"])]))
        host = f"host {spec['hostnqn']}" if "hostnqn" in spec else "any host"
        return f"{name}  {spec['nqn']}  {host}", children

    def _remote(self, item: Resource) -> Node:
        paths: list[Node] = []
        for path in self._list("NvmePath", item["name"]):
            at = f"{path['traddr']} {path.get('fabrics', {}).get('trsvcid', '')}".rstrip()
            paths.append((f"{path['name']}  {_last_word(path['trtype'])} {at}", []))
        return f"{item['name']}  multipath {_last_word(item['multipath']).lower()}", paths

    def _volume(self, item: Resource) -> Node:
        """What a resource stands on: a managed volume, by any of its spellings, or something of the target's."""
        reference = item["volume_name_ref"]
        for name, volume in self._volumes.items():
            if reference in (name, f"volumes/{_id(name)}", _id(name), volume.get("uuid")):
                self._shown.add(name)
                return self._stack(volume)
        return reference, []

    def _stack(self, volume: Resource) -> Node:
        size = f"{volume['blocks_count']} blocks of {volume['block_size']} bytes" if "blocks_count" in volume else ""
        below = [self._volume(volume)] if "volume_name_ref" in volume else []
        return f"{volume['name']}  {size}".rstrip(), below

    def _list(self, kind: str, parent: str = "") -> list[Resource]:
        """Every resource of a kind, all pages."""
        items: list[Resource] = []
        token = ""
        while True:
            request = {"page_size": 1000, "page_token": token, **({"parent": parent} if parent else {})}
            answer = self._bridge.call(f"List{kind}s", json.dumps(request))
            items += next((value for value in answer.values() if isinstance(value, list)), [])
            token = answer.get("next_page_token", "")
            if not token:
                return items


def _controller(item: Resource) -> Node:
    spec = item["spec"]
    if "fabrics_id" in spec:
        at = f"{spec['fabrics_id']['traddr']} port {spec['fabrics_id']['trsvcid']}"
    else:
        at = f"PCI function {spec['pcie_id'].get('physical_function', 0)}"
    active = "active" if item.get("status", {}).get("active") else "not active"
    return f"{item['name']}  {_last_word(spec['trtype'])} {at}  {active}", []


def _function(item: Resource) -> str:
    return f"PCI function {item['pcie_id'].get('physical_function', 0)}" if "pcie_id" in item else ""


def _last_word(value: str) -> str:
    return value.rpartition("_")[2]


def _id(name: str) -> str:
    return name.rpartition("/")[2]


def _draw(node: Node, first: str, rest: str) -> Iterator[str]:
    text, children = node
    yield first + text
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield from _draw(child, rest + ("└── " if last else "├── "), rest + ("    " if last else "│   "))
