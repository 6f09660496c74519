"""Generates opi_spdk_bridge/pb from proto/ when the package is built or installed (a hatchling build hook)."""

import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# protoc names modules after the .proto files; in the package they live below opi_spdk_bridge.pb.
_LOCAL_IMPORT = re.compile(r"^from (storage|inventory) import", re.MULTILINE)


class GenerateProtobufModules(BuildHookInterface[Any]):
    """Compiles every contract file to `*_pb2.py` and `*_pb2.pyi`, and all of them with comments to contract.binpb."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        generate(root / "proto", root / "opi_spdk_bridge" / "pb")


def generate(source: Path, target: Path) -> None:
    """Replaces the folder `target` by the modules made from all `.proto` files below `source`; raises RuntimeError."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    includes = [
        source,
        Path(str(files("grpc_tools") / "_proto")),
        Path(str(files("google.api") / "http.proto")).parents[2],
    ]
    protos = sorted(str(path.relative_to(source)) for path in source.rglob("*.proto"))
    outputs = [f"--python_out={target}", f"--pyi_out={target}", f"--descriptor_set_out={target}/contract.binpb"]
    arguments = ["protoc", *(f"-I{path}" for path in includes), *outputs, "--include_source_info", *protos]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc could not compile the files in {source}")
    for module in [*target.rglob("*_pb2.py"), *target.rglob("*_pb2.pyi")]:
        module.write_text(_LOCAL_IMPORT.sub(r"from opi_spdk_bridge.pb.\1 import", module.read_text()))
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text(
            '"""Generated from proto/ by hatch_build.py; not edited, not committed."""\n'
        )
