// A server that does nothing but frames: it shows how fast the load generator can go.
//
// Each request, whatever it says, is answered with the same bytes, and nothing is parsed but the
// heads of frames. One thread, one read and one write for each connection that has something.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <unordered_map>

#include "frames.hpp"

namespace {

constexpr std::size_t kRoom = 1 << 18;
constexpr std::uint32_t kWindowGiven = 1 << 20;

// A literal header that is not remembered (RFC 7541, 6.2.2).
std::string literal(const std::string& name, const std::string& value) {
    std::string text(1, '\0');
    for (const std::string& part : {name, value}) {
        text.push_back(static_cast<char>(part.size()));
        text += part;
    }
    return text;
}

// What a right answer looks like: ten float32 in a tidegate.v1.PredictResponse.
struct Answer {
    std::string headers = std::string("\x88") + literal("content-type", "application/grpc");
    std::string message = std::string("\0\0\0\0\x2a\x0a\x28", 7) + std::string(40, '\0');
    std::string trailers = literal("grpc-status", "0");
};

struct Connection {
    std::string in;
    std::string out;
    bool greeted = false;
    std::size_t taken = 0;  // bytes of data since the window was last opened
};

void answer(Connection& connection, std::uint32_t stream, const Answer& with) {
    put_frame(connection.out, kHeaders, kEndHeaders, stream, with.headers);
    put_frame(connection.out, kData, 0, stream, with.message);
    put_frame(connection.out, kHeaders, kEndHeaders | kEndStream, stream, with.trailers);
}

void take(Connection& connection, const Answer& with) {
    std::string_view in = connection.in;
    if (!connection.greeted) {
        if (in.size() < kPreface.size()) return;
        in.remove_prefix(kPreface.size());
        connection.greeted = true;
        put_frame(connection.out, kSettings, 0, 0, "");
    }
    for (Frame frame; next_frame(in, frame);) {
        const bool acknowledges = (frame.flags & kAck) != 0;
        if (frame.kind == kData) connection.taken += frame.payload.size();
        if (frame.kind == kSettings && !acknowledges) {
            put_frame(connection.out, kSettings, kAck, 0, "");
        }
        if (frame.kind == kPing && !acknowledges) {
            put_frame(connection.out, kPing, kAck, 0, frame.payload);
        }
        if ((frame.kind == kData || frame.kind == kHeaders) && frame.flags & kEndStream) {
            answer(connection, frame.stream, with);
        }
    }
    connection.in.erase(0, connection.in.size() - in.size());
    if (connection.taken > kWindowGiven / 64) {
        std::string opened;
        put32(opened, static_cast<std::uint32_t>(connection.taken));
        put_frame(connection.out, kWindow, 0, 0, opened);
        connection.taken = 0;
    }
}

// Writes all there is; the load reads whenever it can, so waiting for it is no loss.
bool flush(int socket, Connection& connection) {
    std::size_t written = 0;
    while (written < connection.out.size()) {
        const ssize_t n = send(socket, connection.out.data() + written,
                               connection.out.size() - written, MSG_NOSIGNAL);
        if (n <= 0) return false;
        written += static_cast<std::size_t>(n);
    }
    connection.out.clear();
    return true;
}

}  // namespace

int main() {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    if (bind(listener, any, size) || listen(listener, 1024) || getsockname(listener, any, &size)) {
        std::perror("listen");
        return 1;
    }
    std::printf("{\"port\": %d}\n", ntohs(address.sin_port));
    std::fflush(stdout);
    const int poll = epoll_create1(0);
    epoll_event event{EPOLLIN, {.fd = listener}};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    std::unordered_map<int, Connection> connections;
    std::array<epoll_event, 128> events;
    static std::array<char, kRoom> room;
    const Answer with;
    for (;;) {
        const int count = epoll_wait(poll, events.data(), events.size(), -1);
        for (int i = 0; i < count; ++i) {
            const int ready = events[static_cast<std::size_t>(i)].data.fd;
            if (ready == listener) {
                const int accepted = accept(listener, nullptr, nullptr);
                if (accepted < 0) continue;
                const int on = 1;
                setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                epoll_event wanted{EPOLLIN, {.fd = accepted}};
                epoll_ctl(poll, EPOLL_CTL_ADD, accepted, &wanted);
                connections.emplace(accepted, Connection{});
                continue;
            }
            Connection& connection = connections[ready];
            const ssize_t n = recv(ready, room.data(), room.size(), 0);
            if (n > 0) {
                connection.in.append(room.data(), static_cast<std::size_t>(n));
                take(connection, with);
            }
            if (n <= 0 || !flush(ready, connection)) {
                connections.erase(ready);
                close(ready);
            }
        }
    }
}
