"""The services' definitions: the protocol's own names and numbers, in a pool of tidegate's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor

from tests.gated import PATIENCE
from tidegate.serving._proto import open_inference_pb2 as ours
from tidegate.serving._proto import tidegate_v1_packed_pb2 as packed
from tidegate.serving._proto import tidegate_v1_pb2 as plain
from tidegate.serving._proto.pool import POOL


def fields(message: Descriptor) -> dict[str, Any]:
    """What a message looks like on the wire, and to JSON."""
    described = descriptor_pb2.DescriptorProto()
    message.CopyToProto(described)
    return {
        **{
            field.name: (field.number, field.type, field.label, field.type_name)
            for field in described.field
        },
        **{nested.name: fields(nested) for nested in message.nested_types},
        "oneofs": [[field.name for field in oneof.fields] for oneof in message.oneofs],
        "map": described.options.map_entry,
    }


@pytest.mark.parametrize("name", sorted(ours.DESCRIPTOR.message_types_by_name))
def test_each_message_is_the_protocols(name: str) -> None:
    from tritonclient.grpc import service_pb2 as theirs

    found = fields(getattr(ours, name).DESCRIPTOR)
    assert found == fields(theirs.DESCRIPTOR.message_types_by_name[name])


def test_each_method_is_the_protocols() -> None:
    from tritonclient.grpc import service_pb2 as theirs

    def methods(file: Any) -> dict[str, Any]:
        service = file.services_by_name["GRPCInferenceService"]
        return {
            method.name: (method.input_type.full_name, method.output_type.full_name)
            for method in service.methods
        }

    assert methods(ours.DESCRIPTOR).items() <= methods(theirs.DESCRIPTOR).items()
    assert ours.DESCRIPTOR.package == "inference"


def test_the_packed_messages_read_what_the_plain_ones_write() -> None:
    request = plain.PredictRequest(
        features=[1.5, -2.0], model_name="m", model_version="3", shape=[1, 2], output_name="y"
    )
    read = packed.PredictRequest.FromString(request.SerializeToString())
    assert read.features == [b"\0\0\xc0?\0\0\0\xc0"]
    assert (read.model_name, read.model_version) == ("m", "3")
    assert (list(read.shape), read.output_name) == ([1, 2], "y")
    response = packed.PredictResponse(
        predictions=b"\0\0\xc0?", model_name="m", model_version="3", shape=[1, 1]
    )
    told = plain.PredictResponse.FromString(response.SerializeToString())
    assert list(told.predictions) == [1.5]
    assert (told.model_name, told.model_version, list(told.shape)) == ("m", "3", [1, 1])


def test_the_default_pool_knows_nothing_of_the_small_service() -> None:
    POOL.FindMessageTypeByName("tidegate.v1.PredictRequest")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tidegate.v1.PredictRequest")


ORDERS = [
    "import tritonclient.grpc; import tidegate.serving.grpc",
    "import tidegate.serving.grpc; import tritonclient.grpc",
]


@pytest.mark.parametrize("imports", ORDERS)
def test_client_and_server_share_a_process_whichever_is_imported_first(imports: str) -> None:
    script = f"""
{imports}
from tidegate.serving._proto import open_inference_pb2 as ours
from tritonclient.grpc import service_pb2 as theirs
assert ours.ModelInferRequest is not theirs.ModelInferRequest
message = theirs.ModelInferRequest(model_name="m", raw_input_contents=[b"x"])
assert ours.ModelInferRequest.FromString(message.SerializeToString()).model_name == "m"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=3 * PATIENCE)
