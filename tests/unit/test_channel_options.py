"""gRPC ignores options that it does not know: every name that is given to it anywhere is one of the library's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_OPTION = re.compile(r"grpc\.[a-z0-9_.]*[a-z0-9_]")


def _known() -> set[str]:
    """Every text in the compiled library that looks like an option's name."""
    library = find_spec("grpc._cython.cygrpc")
    assert library is not None
    assert library.origin is not None
    found = re.findall(rb"grpc\.[a-z0-9_.]*[a-z0-9_]", Path(library.origin).read_bytes())
    return {name.decode() for name in found}


def _given() -> Iterator[tuple[str, Path]]:
    """The options in the code, pairs of a name and a value, and the file of each."""
    for path in _ROOT.rglob("*.py"):
        inside = path.relative_to(_ROOT).parts
        if inside[0].startswith(".") or "pb" in inside:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant):
                name = node.elts[0].value
                if isinstance(name, str) and _OPTION.fullmatch(name):
                    yield name, path


def test_every_option_is_one_that_grpc_knows() -> None:
    given = list(_given())
    assert {"grpc.so_reuseport", "grpc.use_local_subchannel_pool"} <= {name for name, _ in given}
    known = _known()
    assert [(name, str(path)) for name, path in given if name not in known] == []


def test_the_library_does_not_know_every_name() -> None:
    assert "grpc.http2.min_recv_ping_interval_without_data_ms" not in _known()
