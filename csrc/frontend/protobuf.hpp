// Protobuf's wire format: a reader that looks at bytes in place and never past them, and a writer.
//
// Strict where it matters for safety (every length is checked against what is there, varints have
// at most ten bytes), lenient where the format demands it (unknown fields are skipped).
// Source: the encoding page of the Protocol Buffers documentation.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace tidegate::frontend {

static_assert(std::endian::native == std::endian::little, "tensors are read in place");

enum class Wire : std::uint32_t { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

/// Reads the fields of one message, one after another.
class ProtobufReader {
  public:
    explicit ProtobufReader(std::string_view message)
        : at_(message.data()), end_(message.data() + message.size()) {}

    /// Moves to the next field. False at the end of the message, and when it is malformed.
    bool next() noexcept {
        if (at_ == end_ || failed_) return false;
        std::uint64_t key = 0;
        if (!varint(key) || key >> 32 != 0 || key >> 3 == 0) return fail();
        field_ = static_cast<std::uint32_t>(key) >> 3;
        wire_ = static_cast<Wire>(key & 7);
        return true;
    }
    std::uint32_t field() const noexcept { return field_; }
    Wire wire() const noexcept { return wire_; }
    /// True if something was malformed; what was read before may be used for nothing.
    bool failed() const noexcept { return failed_; }
    bool at_end() const noexcept { return at_ == end_; }

    bool varint(std::uint64_t& value) noexcept {
        value = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            if (at_ == end_) return fail();
            const auto byte = static_cast<std::uint8_t>(*at_++);
            if (shift == 63 && byte > 1) return fail();
            value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
            if (byte < 0x80) return true;
        }
        return fail();
    }

    bool bytes(std::string_view& value) noexcept {
        std::uint64_t size = 0;
        if (!varint(size)) return false;
        if (size > static_cast<std::uint64_t>(end_ - at_)) return fail();
        value = {at_, static_cast<std::size_t>(size)};
        at_ += size;
        return true;
    }

    /// Steps over the value of the current field.
    bool skip() noexcept {
        std::uint64_t number = 0;
        std::string_view text;
        switch (wire_) {
            case Wire::Varint:
                return varint(number);
            case Wire::Bytes:
                return bytes(text);
            case Wire::Fixed64:
                return fixed(8, text);
            case Wire::Fixed32:
                return fixed(4, text);
        }
        return fail();  // groups are not part of proto3
    }

    /// The `size` bytes of a fixed-width value.
    bool fixed(std::size_t size, std::string_view& value) noexcept {
        if (static_cast<std::size_t>(end_ - at_) < size) return fail();
        value = {at_, size};
        at_ += size;
        return true;
    }

  private:
    bool fail() noexcept {
        failed_ = true;
        at_ = end_;
        return false;
    }

    const char* at_;
    const char* const end_;
    std::uint32_t field_ = 0;
    Wire wire_ = Wire::Varint;
    bool failed_ = false;
};

inline std::size_t varint_size(std::uint64_t value) noexcept {
    return 1 + static_cast<std::size_t>(std::bit_width(value | 1) - 1) / 7;
}

inline void put_varint(std::string& out, std::uint64_t value) {
    while (value >= 0x80) {
        out.push_back(static_cast<char>(value | 0x80));
        value >>= 7;
    }
    out.push_back(static_cast<char>(value));
}

inline void put_key(std::string& out, std::uint32_t field, Wire wire) {
    put_varint(out, std::uint64_t{field} << 3 | static_cast<std::uint32_t>(wire));
}

/// Appends a string, bytes, a message or a packed field, without its content.
inline void put_length(std::string& out, std::uint32_t field, std::size_t size) {
    put_key(out, field, Wire::Bytes);
    put_varint(out, size);
}

inline void put_bytes(std::string& out, std::uint32_t field, std::string_view value) {
    put_length(out, field, value.size());
    out.append(value);
}

}  // namespace tidegate::frontend
