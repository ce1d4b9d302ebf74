"""The messages of tidegate_v1.proto, made by tools/generate_protos.py; not to be edited."""

from tidegate.serving._proto.pool import POOL, classes

DESCRIPTOR = POOL.AddSerializedFile(
    b'\n\x11tidegate_v1.proto\x12\x0btid'
    b'egate.v1"q\n\x0ePredictReque'
    b'st\x12\x10\n\x08features\x18\x01 \x03(\x02\x12\x12\n\n'
    b'model_name\x18\x02 \x01(\t\x12\x15\n\rmode'
    b'l_version\x18\x03 \x01(\t\x12\r\n\x05shape'
    b'\x18\x04 \x03(\x03\x12\x13\n\x0boutput_name\x18\x05 '
    b'\x01(\t"`\n\x0fPredictResponse\x12\x13'
    b'\n\x0bpredictions\x18\x01 \x03(\x02\x12\x12\n\nm'
    b'odel_name\x18\x02 \x01(\t\x12\x15\n\rmodel'
    b'_version\x18\x03 \x01(\t\x12\r\n\x05shape\x18'
    b'\x04 \x03(\x032Q\n\tInference\x12D\n\x07Pr'
    b'edict\x12\x1b.tidegate.v1.Pred'
    b'ictRequest\x1a\x1c.tidegate.v1'
    b'.PredictResponseb\x06proto3'
)

_classes = classes(DESCRIPTOR)
PredictRequest = _classes["PredictRequest"]
PredictResponse = _classes["PredictResponse"]
