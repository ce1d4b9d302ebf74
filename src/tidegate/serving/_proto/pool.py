"""The descriptor pool of tidegate's messages, which is nobody else's.

In one process, protobuf's default pool takes a message name only once. A process that serves may
also hold a client, whose library brings the same names in a file of its own.
"""

from __future__ import annotations

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

__all__ = ["POOL", "classes"]

POOL = DescriptorPool()


def classes(file: FileDescriptor) -> dict[str, type[Message]]:
    """A class for each message of `file`, by name."""
    return {name: GetMessageClass(found) for name, found in file.message_types_by_name.items()}
