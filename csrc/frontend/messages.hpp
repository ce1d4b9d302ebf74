// The requests that the front end reads itself, as views into the message: nothing is copied.
//
// Whatever is unusual, or wrong, is not refused here: decode() says no, and Python answers it, with
// the same words as everywhere. So each rule about bad input exists once.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tidegate::frontend {

inline constexpr std::size_t kMostTensors = 8;
inline constexpr std::size_t kMostAxes = 8;

struct Shape {
    std::array<std::int64_t, kMostAxes> lengths{};
    std::size_t axes = 0;
};

/// Which field of InferTensorContents carries the elements.
enum class Contents : std::uint32_t {
    None = 0,
    Bool = 1,
    Int = 2,
    Int64 = 3,
    Uint = 4,
    Uint64 = 5,
    Float = 6,
    Double = 7,
};

struct InferInput {
    std::string_view name;
    std::string_view datatype;
    Shape shape;
    Contents contents = Contents::None;
    std::string_view elements;  // packed, if contents is not None
};

/// inference.ModelInferRequest
struct InferRequest {
    std::string_view model;
    std::string_view version;
    std::string_view id;
    std::int64_t timeout_microseconds = -1;
    std::array<InferInput, kMostTensors> inputs;
    std::size_t input_count = 0;
    std::array<std::string_view, kMostTensors> outputs;
    std::size_t output_count = 0;
    std::array<std::string_view, kMostTensors> raw;
    std::size_t raw_count = 0;
};

/// tidegate.v1.PredictRequest
struct PredictRequest {
    std::string_view features;  // packed floats
    std::string_view model;
    std::string_view version;
    std::string_view output;
    Shape shape;
};

/// False if the message is malformed, or has what only Python understands.
bool decode(std::string_view message, InferRequest& request) noexcept;
bool decode(std::string_view message, PredictRequest& request) noexcept;

/// Writes the elements of a typed field as a tensor has them in memory.
/// False unless they are `count` elements that a type of `item_bytes` can hold.
bool unpack(Contents contents, std::string_view elements, std::size_t count, char kind,
            std::size_t item_bytes, char* target) noexcept;

}  // namespace tidegate::frontend
