"""Makes the message modules and their stubs from the .proto files, or checks that they are current.

What protoc generates registers its messages in the process's one default pool, where another
library's messages of the same name (any client of the Open Inference Protocol has them) would
collide, and it runs with few versions of protobuf. These modules hold the same descriptors and ask
protobuf for the classes when they are imported, in a pool of tidegate's own.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

FOLDER = Path(__file__).parents[1] / "src/tidegate/serving/_proto"
WIDTH = 24  # bytes of a descriptor on one line

MODULE = '''\
"""The messages of {proto}, made by tools/generate_protos.py; not to be edited."""

from tidegate.serving._proto.pool import POOL, classes

DESCRIPTOR = POOL.AddSerializedFile(
{descriptor}
)

{assignments}
'''
STUB_HEADER = (
    '"""The messages of {proto}, made by tools/generate_protos.py; not to be edited."""\n\n'
)


def generated(proto: str) -> dict[Path, str]:
    """What belongs into the module of `proto` and into its stub."""
    stem = Path(proto).stem
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            f"--proto_path={FOLDER}",
            f"--descriptor_set_out={scratch}/set",
            f"--pyi_out={scratch}",
            proto,
        ]
        if protoc.main(arguments):
            raise SystemExit(f"protoc refused {proto}")
        described = descriptor_pb2.FileDescriptorSet.FromString(Path(scratch, "set").read_bytes())
        stub = Path(scratch, f"{stem}_pb2.pyi").read_text()
    return {
        FOLDER / f"{stem}_pb2.py": module(proto, described.file[0]),
        FOLDER / f"{stem}_pb2.pyi": STUB_HEADER.format(proto=proto) + typed(stub),
    }


def module(proto: str, described: descriptor_pb2.FileDescriptorProto) -> str:
    """A module that has one class for each message."""
    for message in described.message_type:
        drop_json_names(message)
    serialized = described.SerializeToString(deterministic=True)
    pieces = [serialized[start : start + WIDTH] for start in range(0, len(serialized), WIDTH)]
    names = [message.name for message in described.message_type]
    return MODULE.format(
        proto=proto,
        descriptor="\n".join(f"    {piece!r}" for piece in pieces),
        assignments="_classes = classes(DESCRIPTOR)\n"
        + "\n".join(f'{name} = _classes["{name}"]' for name in names),
    )


def drop_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    """Drops what protoc writes out and protobuf finds by the same rule."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        drop_json_names(nested)


def typed(stub: str) -> str:
    """The stub of protoc, fit for mypy's strict mode."""
    return re.sub(r"\b_Mapping\](?=\])", "_Mapping[str, object]]", stub).rstrip() + "\n"


def main() -> int:
    """Writes the files; with ``--check`` compares them, and answers 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, say what would")
    check = parser.parse_args().check
    stale = 0
    for proto in sorted(path.name for path in FOLDER.glob("*.proto")):
        for path, text in generated(proto).items():
            current = path.read_text() if path.exists() else ""
            if current == text:
                continue
            if not check:
                path.write_text(text)
                continue
            stale = 1
            difference = difflib.unified_diff(
                current.splitlines(), text.splitlines(), path.name, "generated", lineterm=""
            )
            sys.stdout.write("\n".join(difference) + "\n")
    return stale


if __name__ == "__main__":
    sys.exit(main())
