// Frames of HTTP/2 (RFC 9113, 4.1), as the load and the server that does nothing else write them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

enum Kind : std::uint8_t {
    kData = 0,
    kHeaders = 1,
    kReset = 3,
    kSettings = 4,
    kPing = 6,
    kGoAway = 7,
    kWindow = 8
};
constexpr std::uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8;
constexpr std::size_t kHead = 9;
constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

inline void put32(std::string& out, std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

inline std::uint32_t get(const char* at, int bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | static_cast<std::uint8_t>(at[i]);
    return value;
}

inline void put_frame(std::string& out, Kind kind, std::uint8_t flags, std::uint32_t stream,
                      std::string_view payload) {
    put32(out, static_cast<std::uint32_t>(payload.size()) << 8 | kind);
    out.push_back(static_cast<char>(flags));
    put32(out, stream);
    out += payload;
}

struct Frame {
    Kind kind;
    std::uint8_t flags;
    std::uint32_t stream;
    std::string_view payload;
};

/// Takes one whole frame off `in`; false if there is none.
inline bool next_frame(std::string_view& in, Frame& frame) {
    if (in.size() < kHead) return false;
    const std::uint32_t length = get(in.data(), 3);
    if (in.size() < kHead + length) return false;
    frame = {static_cast<Kind>(in[3]), static_cast<std::uint8_t>(in[4]),
             get(in.data() + 5, 4) & 0x7fffffff, in.substr(kHead, length)};
    in.remove_prefix(kHead + length);
    return true;
}
