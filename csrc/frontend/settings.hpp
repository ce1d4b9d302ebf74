// What a server is told once, when it starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tidegate/clock.hpp"

namespace tidegate::frontend {

struct Settings {
    std::size_t max_message_bytes = std::size_t{64} << 20;
    /// Of all streams of one connection together.
    std::size_t max_connection_bytes = std::size_t{256} << 20;
    std::uint32_t max_streams = 1024;  // of one connection, at a time
    std::size_t max_connections = 20'000;
    std::uint32_t window_bytes = 1u << 20;              // of a stream
    std::uint32_t connection_window_bytes = 16u << 20;  // of a connection
    /// For the whole of a request to arrive, and for a connection's first one to begin.
    Nanos receive_timeout = 30 * kSecond;
    /// A connection without traffic is asked after this time whether it is still there, and closed
    /// when it has not answered for as long again. kNever for never.
    Nanos keepalive = 60 * kSecond;
    /// Streams that a client may reset: so many at once, and so many a second after that.
    std::uint32_t reset_burst = 1000;
    std::uint32_t reset_rate = 33;
    std::vector<std::string> tokens;        // accepted bearer tokens; empty: no token is asked for
    std::vector<std::string> open_paths;    // that need no token
    std::vector<std::string> python_paths;  // methods that Python answers
};

}  // namespace tidegate::frontend
