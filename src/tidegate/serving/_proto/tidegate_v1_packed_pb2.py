"""The messages of tidegate_v1_packed.proto, made by tools/generate_protos.py; not to be edited."""

from tidegate.serving._proto.pool import POOL, classes

DESCRIPTOR = POOL.AddSerializedFile(
    b'\n\x18tidegate_v1_packed.pro'
    b'to\x12\x12tidegate.v1.packed"q'
    b'\n\x0ePredictRequest\x12\x10\n\x08feat'
    b'ures\x18\x01 \x03(\x0c\x12\x12\n\nmodel_name'
    b'\x18\x02 \x01(\t\x12\x15\n\rmodel_version\x18'
    b'\x03 \x01(\t\x12\r\n\x05shape\x18\x04 \x03(\x03\x12\x13\n\x0b'
    b'output_name\x18\x05 \x01(\t"`\n\x0fPre'
    b'dictResponse\x12\x13\n\x0bpredicti'
    b'ons\x18\x01 \x01(\x0c\x12\x12\n\nmodel_name\x18'
    b'\x02 \x01(\t\x12\x15\n\rmodel_version\x18\x03'
    b' \x01(\t\x12\r\n\x05shape\x18\x04 \x03(\x03b\x06pro'
    b'to3'
)

_classes = classes(DESCRIPTOR)
PredictRequest = _classes["PredictRequest"]
PredictResponse = _classes["PredictResponse"]
