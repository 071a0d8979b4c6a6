"""Takes TensorFlow Serving's message definitions out of its client's wheels, without importing TensorFlow.

`python tests/server/protos/collect.py SERVING_API_WHEEL TENSORFLOW_WHEEL` writes `tensorflow_serving.binpb`,
a FileDescriptorSet. Both wheels are under the Apache License 2.0.
"""

import ast
import sys
import zipfile
from pathlib import Path

from google.protobuf import descriptor_pb2, wrappers_pb2

ROOTS = ("tensorflow_serving/apis/predict.proto", "tensorflow_serving/apis/get_model_status.proto")
WRAPPERS = "google/protobuf/wrappers.proto"
FILE = Path(__file__).parent / "tensorflow_serving.binpb"


def descriptor(archives: list[zipfile.ZipFile], proto: str) -> descriptor_pb2.FileDescriptorProto:
    """What the generated module for `proto` gives to protobuf: a literal in its source."""
    module = proto.removesuffix(".proto") + "_pb2.py"
    # XLA's definitions lie below tensorflow/compiler in the wheel.
    places = (module, f"tensorflow/compiler/{module}")
    sources = [archive.read(at) for archive in archives for at in places if at in archive.namelist()]
    if not sources:
        raise SystemExit(f"{module} is in none of the wheels")
    for node in ast.walk(ast.parse(sources[0])):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            return descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(node.args[0]))
    raise SystemExit(f"{module} has no descriptor")


def wrappers() -> descriptor_pb2.FileDescriptorProto:
    """Protobuf's own; the only one of those that is used."""
    file = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def main(wheels: list[str]) -> None:
    archives = [zipfile.ZipFile(wheel) for wheel in wheels]
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def take(proto: str) -> None:
        if proto in found:
            return
        file = wrappers() if proto == WRAPPERS else descriptor(archives, proto)
        for dependency in file.dependency:
            take(dependency)
        found[proto] = file

    for root in ROOTS:
        take(root)
    FILE.write_bytes(descriptor_pb2.FileDescriptorSet(file=found.values()).SerializeToString())
    print(*found, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
