// Decoding requests; see messages.hpp for what happens to those that it declines.
#include "messages.hpp"

#include <cstring>

#include "protobuf.hpp"
#include "tidegate/clock.hpp"

namespace tidegate::frontend {

namespace {

/// One more varint of a repeated field, or a packed run of them.
bool read_lengths(ProtobufReader& reader, Shape& shape) noexcept {
    const auto add = [&](std::uint64_t value) {
        if (shape.axes == kMostAxes || value >> 63 != 0) return false;
        shape.lengths[shape.axes++] = static_cast<std::int64_t>(value);
        return true;
    };
    std::uint64_t value = 0;
    if (reader.wire() == Wire::Varint) return reader.varint(value) && add(value);
    std::string_view packed;
    if (reader.wire() != Wire::Bytes || !reader.bytes(packed)) return false;
    for (ProtobufReader lengths(packed); !lengths.at_end();) {
        if (!lengths.varint(value) || !add(value)) return false;
    }
    return true;
}

bool read_bytes(ProtobufReader& reader, std::string_view& value) noexcept {
    return reader.wire() == Wire::Bytes && reader.bytes(value);
}

bool read_contents(std::string_view message, InferInput& input) noexcept {
    ProtobufReader reader(message);
    while (reader.next()) {
        const std::uint32_t field = reader.field();
        if (field > static_cast<std::uint32_t>(Contents::Double)) return false;  // bytes
        // One field, packed, in one piece: what every encoder writes.
        if (input.contents != Contents::None) return false;
        input.contents = static_cast<Contents>(field);
        if (!read_bytes(reader, input.elements)) return false;
    }
    return !reader.failed();
}

bool read_input(std::string_view message, InferInput& input) noexcept {
    ProtobufReader reader(message);
    std::string_view text;
    while (reader.next()) {
        bool good = false;
        switch (reader.field()) {
            case 1:
                good = read_bytes(reader, input.name);
                break;
            case 2:
                good = read_bytes(reader, input.datatype);
                break;
            case 3:
                good = read_lengths(reader, input.shape);
                break;
            case 5:
                good = read_bytes(reader, text) && read_contents(text, input);
                break;
            case 4:
                return false;  // parameters of a tensor ask for what this server has not
            default:
                good = reader.skip();
        }
        if (!good) return false;
    }
    return !reader.failed();
}

/// One entry of the map of parameters: a key and an InferParameter.
bool read_parameter(std::string_view message, InferRequest& request) noexcept {
    ProtobufReader reader(message);
    std::string_view key;
    std::string_view parameter;
    while (reader.next()) {
        const bool good = reader.field() == 1   ? read_bytes(reader, key)
                          : reader.field() == 2 ? read_bytes(reader, parameter)
                                                : reader.skip();
        if (!good) return false;
    }
    if (reader.failed()) return false;
    if (key != "timeout" && key != "priority") return true;
    std::uint64_t value = 0;
    ProtobufReader choice(parameter);
    if (!choice.next() || choice.field() != 2 || choice.wire() != Wire::Varint ||
        !choice.varint(value) || !choice.at_end()) {
        return false;  // another type: Python says what it should be
    }
    if (key == "priority") return value <= 1;
    // What nanoseconds cannot say is for Python: no limit at all, or a negative one.
    if (value > static_cast<std::uint64_t>(kNever / kMicrosecond)) return false;
    request.timeout_microseconds = static_cast<std::int64_t>(value);
    return true;
}

bool read_output(std::string_view message, std::string_view& name) noexcept {
    ProtobufReader reader(message);
    while (reader.next()) {
        if (reader.field() == 2) return false;  // parameters, as above
        if (!(reader.field() == 1 ? read_bytes(reader, name) : reader.skip())) return false;
    }
    return !reader.failed();
}

template <class Element>
bool convert(std::uint64_t value, char* target) noexcept {
    // int32 and int64 travel as 64 bits in two's complement; what another width cannot hold is
    // not the sender's number.
    const auto element = static_cast<Element>(value);
    const auto back = std::is_signed_v<Element>
                          ? static_cast<std::uint64_t>(static_cast<std::int64_t>(element))
                          : static_cast<std::uint64_t>(element);
    if (back != value) return false;
    std::memcpy(target, &element, sizeof element);
    return true;
}

template <class Element>
bool unpack_varints(std::string_view elements, std::size_t count, char* target) noexcept {
    ProtobufReader reader(elements);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (reader.at_end() || !reader.varint(value)) return false;
        if (!convert<Element>(value, target + i * sizeof(Element))) return false;
    }
    return reader.at_end();
}

}  // namespace

bool decode(std::string_view message, InferRequest& request) noexcept {
    ProtobufReader reader(message);
    std::string_view text;
    while (reader.next()) {
        bool good = false;
        switch (reader.field()) {
            case 1:
                good = read_bytes(reader, request.model);
                break;
            case 2:
                good = read_bytes(reader, request.version);
                break;
            case 3:
                good = read_bytes(reader, request.id);
                break;
            case 4:
                good = read_bytes(reader, text) && read_parameter(text, request);
                break;
            case 5:
                good = request.input_count < kMostTensors && read_bytes(reader, text) &&
                       read_input(text, request.inputs[request.input_count++]);
                break;
            case 6:
                good = request.output_count < kMostTensors && read_bytes(reader, text) &&
                       read_output(text, request.outputs[request.output_count++]);
                break;
            case 7:
                good = request.raw_count < kMostTensors && read_bytes(reader, text);
                if (good) request.raw[request.raw_count++] = text;
                break;
            default:
                good = reader.skip();
        }
        if (!good) return false;
    }
    return !reader.failed();
}

bool decode(std::string_view message, PredictRequest& request) noexcept {
    ProtobufReader reader(message);
    bool seen = false;
    while (reader.next()) {
        bool good = false;
        switch (reader.field()) {
            case 1:  // one packed run, as every encoder writes it
                good = !seen && read_bytes(reader, request.features);
                seen = true;
                break;
            case 2:
                good = read_bytes(reader, request.model);
                break;
            case 3:
                good = read_bytes(reader, request.version);
                break;
            case 4:
                good = read_lengths(reader, request.shape);
                break;
            case 5:
                good = read_bytes(reader, request.output);
                break;
            default:
                good = reader.skip();
        }
        if (!good) return false;
    }
    return !reader.failed();
}

bool unpack(Contents contents, std::string_view elements, std::size_t count, char kind,
            std::size_t item_bytes, char* target) noexcept {
    const auto copied = [&] {
        if (elements.size() != count * item_bytes) return false;
        std::memcpy(target, elements.data(), elements.size());
        return true;
    };
    switch (contents) {
        case Contents::Float:
            return kind == 'f' && item_bytes == 4 && copied();
        case Contents::Double:
            return kind == 'f' && item_bytes == 8 && copied();
        case Contents::Bool: {
            if (kind != 'b' || elements.size() != count) return false;
            for (const char element : elements) {
                if (static_cast<std::uint8_t>(element) > 1) return false;
            }
            return copied();
        }
        case Contents::Int:
            if (kind != 'i') return false;
            if (item_bytes == 1) return unpack_varints<std::int8_t>(elements, count, target);
            if (item_bytes == 2) return unpack_varints<std::int16_t>(elements, count, target);
            return item_bytes == 4 && unpack_varints<std::int32_t>(elements, count, target);
        case Contents::Int64:
            return kind == 'i' && item_bytes == 8 &&
                   unpack_varints<std::int64_t>(elements, count, target);
        case Contents::Uint:
            if (kind != 'u') return false;
            if (item_bytes == 1) return unpack_varints<std::uint8_t>(elements, count, target);
            if (item_bytes == 2) return unpack_varints<std::uint16_t>(elements, count, target);
            return item_bytes == 4 && unpack_varints<std::uint32_t>(elements, count, target);
        case Contents::Uint64:
            return kind == 'u' && item_bytes == 8 &&
                   unpack_varints<std::uint64_t>(elements, count, target);
        case Contents::None:
            break;
    }
    return false;
}

}  // namespace tidegate::frontend
