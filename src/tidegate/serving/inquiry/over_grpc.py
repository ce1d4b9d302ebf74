"""Asks a server over gRPC, with raw contents; needs the extra ``serve``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from tidegate.errors import ConfigError, InputError
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving.datatypes import Array, check_datatype, check_shape, from_raw, to_raw
from tidegate.serving.inquiry.connection import Access, InquiryError
from tidegate.serving.inquiry.values import datatype
from tidegate.serving.tensors import Tensor

__all__ = ["GrpcConnection"]

_SERVICE = "/inference.GRPCInferenceService/"
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))


class GrpcConnection:
    """A channel to a server's gRPC door.

    Args:
        scheme: ``grpc``, ``grpcs`` or ``grpc+unix``.
        rest: Of the URL: host and port, or the path of the Unix socket.
        access: Token, certificates and patience.

    Raises:
        InquiryError: A certificate cannot be read.
    """

    def __init__(self, scheme: str, rest: str, access: Access) -> None:
        self._access = access
        self._where = f"{scheme}://{rest}"
        target = f"unix:{rest}" if scheme == "grpc+unix" else rest
        if scheme == "grpcs":
            self._channel = grpc.secure_channel(target, _credentials(access), options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)

    def inputs(self, model: str, version: str) -> tuple[Tensor, ...]:
        """What the model takes, from its metadata."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        metadata = self._ask("ModelMetadata", request, pb.ModelMetadataResponse)
        try:
            return tuple(
                Tensor(each.name, each.datatype, tuple(each.shape[1:])) for each in metadata.inputs
            )
        except ConfigError as error:
            raise InquiryError(f"{self._where} answers with no metadata: {error}") from error

    def infer(
        self, model: str, version: str, tensors: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """What the model answers."""
        request = pb.ModelInferRequest(model_name=model, model_version=version)
        for name, array in tensors.items():
            request.inputs.add(name=name, datatype=datatype(array), shape=array.shape)
            request.raw_input_contents.append(to_raw(array))
        for name in outputs:
            request.outputs.add(name=name)
        response = self._ask("ModelInfer", request, pb.ModelInferResponse)
        try:
            return {
                each.name: from_raw(
                    each.name,
                    check_datatype(each.name, each.datatype),
                    check_shape(each.name, tuple(each.shape)),
                    raw,
                )
                for each, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            }
        except (ValueError, InputError) as error:
            raise InquiryError(f"{self._where} answers with no tensors: {error}") from error

    def close(self) -> None:
        """Ends the channel."""
        self._channel.close()

    def _ask(self, method: str, request: Any, response: Any) -> Any:
        call = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        metadata = tuple(self._access.headers.items())
        try:
            return call(request, timeout=self._access.timeout, metadata=metadata)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            raise InquiryError(f"the server answers {code.name}: {details}") from error


def _credentials(access: Access) -> grpc.ChannelCredentials:
    try:
        parts = [
            None if path is None else path.read_bytes()
            for path in (access.ca, access.key, access.certificate)
        ]
    except OSError as error:
        raise InquiryError(f"cannot read the certificates: {error}") from error
    return grpc.ssl_channel_credentials(*parts)
