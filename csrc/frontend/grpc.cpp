// gRPC's small encodings: timeouts, messages of statuses, compression, tokens.
#include "grpc.hpp"

#include <zlib.h>

#include <array>

namespace tidegate::frontend {

std::optional<Nanos> parse_timeout(std::string_view text) noexcept {
    // At most eight digits and a unit.
    if (text.size() < 2 || text.size() > 9) return std::nullopt;
    Nanos value = 0;
    for (const char digit : text.substr(0, text.size() - 1)) {
        if (digit < '0' || digit > '9') return std::nullopt;
        value = value * 10 + (digit - '0');
    }
    // Eight digits of hours are more than the clock can count.
    const auto times = [value](Nanos unit) {
        return value > kNever / unit ? kNever : value * unit;
    };
    switch (text.back()) {
        case 'H':
            return times(3600 * kSecond);
        case 'M':
            return times(60 * kSecond);
        case 'S':
            return times(kSecond);
        case 'm':
            return times(kMillisecond);
        case 'u':
            return times(kMicrosecond);
        case 'n':
            return value;
        default:
            return std::nullopt;
    }
}

std::string percent_encoded(std::string_view text) {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    std::string out;
    out.reserve(text.size());
    for (const char character : text) {
        const auto byte = static_cast<std::uint8_t>(character);
        if (byte >= 0x20 && byte <= 0x7e && byte != '%') {
            out.push_back(character);
        } else {
            out.push_back('%');
            out.push_back(kDigits[byte >> 4]);
            out.push_back(kDigits[byte & 15]);
        }
    }
    return out;
}

void write_prefix(char* target, std::size_t size) noexcept {
    target[0] = 0;
    for (int i = 0; i < 4; ++i) target[1 + i] = static_cast<char>(size >> (24 - 8 * i));
}

bool decompress(std::string_view compressed, std::size_t most, std::string& out) {
    z_stream stream{};
    constexpr int kEither = 32 + MAX_WBITS;  // gzip's header or zlib's, whichever is there
    if (inflateInit2(&stream, kEither) != Z_OK) return false;
    // zlib does not write to its input; its interface is older than const.
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(compressed.data()));
    stream.avail_in = static_cast<uInt>(compressed.size());
    std::array<char, 16384> piece;
    int result = Z_OK;
    while (result == Z_OK && out.size() <= most) {
        stream.next_out = reinterpret_cast<Bytef*>(piece.data());
        stream.avail_out = piece.size();
        result = inflate(&stream, Z_NO_FLUSH);
        out.append(piece.data(), piece.size() - stream.avail_out);
    }
    const bool whole = result == Z_STREAM_END && stream.avail_in == 0;
    inflateEnd(&stream);
    return whole && out.size() <= most;
}

Access access_of(std::string_view header, const std::string* tokens, std::size_t count) noexcept {
    constexpr std::string_view kScheme = "bearer ";
    if (header.size() < kScheme.size()) return Access::NoBearer;
    for (std::size_t i = 0; i < kScheme.size(); ++i) {
        const char lower = header[i] >= 'A' && header[i] <= 'Z' ? header[i] + 32 : header[i];
        if (lower != kScheme[i]) return Access::NoBearer;
    }
    header.remove_prefix(kScheme.size());
    while (!header.empty() && header.front() == ' ') header.remove_prefix(1);
    while (!header.empty() && header.back() == ' ') header.remove_suffix(1);
    // Every token and every byte of the header is looked at, whatever matches.
    bool accepted = false;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string& token = tokens[i];
        unsigned difference = token.size() == header.size() ? 0 : 1;
        for (std::size_t at = 0; at < header.size(); ++at) {
            const char expected = token.empty() ? '\0' : token[at % token.size()];
            difference |= static_cast<unsigned>(static_cast<unsigned char>(header[at] ^ expected));
        }
        accepted |= difference == 0;
    }
    return accepted ? Access::Granted : Access::UnknownToken;
}

std::string_view refusal_of(Access access) noexcept {
    switch (access) {
        case Access::NoHeader:
            return "a token is needed: send the header 'authorization: Bearer <token>'";
        case Access::NoBearer:
            return "the authorization header must be 'Bearer <token>'";
        default:
            return "the token is not one that this server accepts";
    }
}

}  // namespace tidegate::frontend
