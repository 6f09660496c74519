"""`python -m tools.graph [PACKAGE ...]`: what imports what in opi_spdk_bridge, or in the packages of it that are named.

Every line is a box and what it imports, each box above what it imports. Imports for type checkers count. Exit code 1
when modules import each other in a circle.
"""

import argparse
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter

import grimp

ROOT = "opi_spdk_bridge"

Import = tuple[str, str]
"""The importing module and the imported one."""


def box_of(module: str, package: str) -> str | None:
    """The child of `package` that the module is or is in."""
    inside = module.removeprefix(f"{package}.")
    return None if inside == module else inside.partition(".")[0]


def boxes(graph: grimp.ImportGraph, package: str) -> dict[str, set[str]]:
    """The boxes of a package, the lowest first, with what each imports; imports upwards are left out."""
    upwards = graph.nominate_cycle_breakers(package)
    arrows: dict[str, set[str]] = {child.rpartition(".")[2]: set() for child in graph.find_children(package)}
    for module in graph.find_descendants(package):
        box = box_of(module, package)
        for imported in graph.find_modules_directly_imported_by(module):
            below = box_of(imported, package)
            if box and below and box != below and (module, imported) not in upwards:
                arrows[box].add(below)
    sorter = TopologicalSorter({box: sorted(arrows[box]) for box in sorted(arrows)})
    return {box: arrows[box] for box in sorter.static_order()}


def imports_upwards(graph: grimp.ImportGraph) -> Iterator[Import]:
    """The fewest imports whose absence would let the boxes of every package import one way."""
    for package in sorted(graph.modules):
        if graph.find_children(package):
            yield from sorted(graph.nominate_cycle_breakers(package))


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """The groups of modules each of which imports, by way of others, all of its group."""
    imported = {module: graph.find_upstream_modules(module) for module in graph.modules}
    groups = {
        frozenset({module, *(other for other in imported[module] if module in imported[other])})
        for module in graph.modules
    }
    return sorted(sorted(group) for group in groups if len(group) > 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.graph", description="Print what imports what.")
    parser.add_argument("packages", nargs="*", default=[ROOT], metavar="PACKAGE", help=f"{ROOT}, or a package in it")
    packages: list[str] = parser.parse_args().packages
    graph = grimp.build_graph(ROOT, cache_dir=None)
    unknown = [package for package in packages if not graph.modules.issuperset({package})]
    if unknown:
        parser.error(f"no such package: {', '.join(unknown)}; packages are named as {ROOT}.emulator is")
    for package in packages:
        arrows = boxes(graph, package)
        width = max((len(box) for box in arrows), default=0)
        print(package)
        for box, below in reversed(arrows.items()):
            print(f"  {box:{width}} -> {', '.join(sorted(below))}" if below else f"  {box}")
        print()
    for importing, imported in imports_upwards(graph):
        print(f"upwards: {importing} -> {imported}")
    found = circles(graph)
    for circle in found:
        print(f"circle: {', '.join(circle)}")
    print(f"{len(graph.modules)} modules, {graph.count_imports()} imports, {len(found)} circles")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
