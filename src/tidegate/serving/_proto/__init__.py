"""The gRPC services' definitions, and their messages as protobuf classes."""
