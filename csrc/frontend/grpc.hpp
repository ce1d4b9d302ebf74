// gRPC over HTTP/2: methods, statuses, and the small encodings of its headers.
// Source: "gRPC over HTTP2", the protocol's description in the grpc repository.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tidegate/clock.hpp"

namespace tidegate::frontend {

/// The statuses that the front end gives by itself; Python may answer with any other.
enum class GrpcStatus : std::uint8_t {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
};

enum class Method : std::uint8_t {
    Unknown,
    ModelInfer,  ///< read here, if it is nothing unusual
    Predict,     ///< the same
    ServerLive,  ///< answered here, always
    Python,      ///< one of those that Python answers
};

inline constexpr std::string_view kModelInfer = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr std::string_view kPredict = "/tidegate.v1.Inference/Predict";
inline constexpr std::string_view kServerLive = "/inference.GRPCInferenceService/ServerLive";

/// The bytes before each message: compressed or not, and its length.
inline constexpr std::size_t kMessagePrefix = 5;

/// The value of a grpc-timeout header as a duration; nothing if it is none.
std::optional<Nanos> parse_timeout(std::string_view text) noexcept;

/// A grpc-message header's value: what is no visible ASCII, and %, as %XX.
std::string percent_encoded(std::string_view text);

/// Writes the prefix of an uncompressed message of `size` bytes to `target`.
void write_prefix(char* target, std::size_t size) noexcept;

/// What a gzip or zlib stream ("deflate") expands to, appended to `out`. False if it is none, or
/// larger than `most`.
bool decompress(std::string_view compressed, std::size_t most, std::string& out);

/// What a call's authorization header is worth.
enum class Access : std::uint8_t { NoHeader, NoBearer, UnknownToken, Granted };

/// Whether the header's value is "Bearer" and one of the tokens. Takes the same time for all
/// tokens.
Access access_of(std::string_view header, const std::string* tokens, std::size_t count) noexcept;
/// What a client is told that has no access.
std::string_view refusal_of(Access access) noexcept;

}  // namespace tidegate::frontend
