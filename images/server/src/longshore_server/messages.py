"""The protobuf messages of the gRPC services, made from `protos/descriptors.binpb`.

They live in a descriptor pool of their own: a client library in the same process brings messages of the
same names. `descriptors.binpb` is made from the `.proto` files beside it: `python -m grpc_tools.protoc -I
protos --descriptor_set_out=protos/descriptors.binpb protos/*.proto`.
"""

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pool, message_factory

from longshore_server import wire


class Messages:
    """Looks message classes up by name, `Messages().type("inference.ModelInferRequest")`."""

    def __init__(self) -> None:
        """Read the descriptors: a few milliseconds."""
        self._pool = descriptor_pool.DescriptorPool()
        content = files("longshore_server").joinpath("protos/descriptors.binpb").read_bytes()
        # Field 1 of FileDescriptorSet. Its own class takes longer to import than all else here.
        for _, file in wire.fields(content):
            self._pool.AddSerializedFile(file)

    def type(self, name: str) -> Any:
        """The class of the message with this full name."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))
