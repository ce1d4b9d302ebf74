// A closed loop of unary gRPC calls: so many connections, so many calls at a time on each.
//
//   load PORT CONNECTIONS STREAMS WARM_UP SECONDS PATH REQUEST ANSWER LATENCIES
//
// REQUEST and ANSWER are files with a message as gRPC frames it. Every call sends the same request,
// and its answer must have the size of ANSWER, the same first bytes and, after them, the same
// float32 values but for rounding. The nanoseconds that each call took go to LATENCIES as uint32,
// and {"answers", "seconds", "cpu"} to standard output.
//
// It exists since h2load spends 3 to 6 µs on a call, which is more than the fastest of the servers
// does. Here a request is copied with its stream's number put in, one write takes all that a
// connection has to say, and headers of answers are not decoded: a call that fails has no message.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frames.hpp"

namespace {

using Nanos = std::int64_t;

constexpr std::size_t kRoom = 1 << 18;
constexpr std::size_t kPlaces = 1 << 13;  // streams between the oldest call and the newest
constexpr std::size_t kExact = 7;         // gRPC's prefix, and protobuf's before packed floats
constexpr std::uint32_t kDefaultWindow = 65535;
constexpr std::uint32_t kLargestWindow = 0x7fffffff;
constexpr std::uint32_t kDefaultTable = 4096;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "load: %s\n", what.c_str());
    std::exit(1);
}

Nanos now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * Nanos{1'000'000'000} + time.tv_nsec;
}

std::string contents(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(std::string("cannot read ") + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// What is asked, for how long, and what came of it.
struct Run {
    std::string_view path;
    std::string request;
    std::string answer;
    Nanos begin = 0;  // of what counts
    Nanos end = 0;
    std::vector<std::uint32_t> latencies;

    bool right(std::string_view message) const {
        if (message.size() != answer.size()) return false;
        if (std::memcmp(message.data(), answer.data(), kExact) != 0) return false;
        for (std::size_t at = kExact; at + sizeof(float) <= message.size(); at += sizeof(float)) {
            float got = 0;
            float wanted = 0;
            std::memcpy(&got, message.data() + at, sizeof got);
            std::memcpy(&wanted, answer.data() + at, sizeof wanted);
            if (!(std::fabs(got - wanted) <= 1e-3F * (1 + std::fabs(wanted)))) return false;
        }
        return true;
    }
};

/// One connection. Its requests' headers are in the server's table after the first (RFC 7541).
class Connection {
  public:
    Connection(Run& run, int port, int streams) : run_(run) {
        socket_ = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        if (connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
            fail("cannot connect");
        }
        const int on = 1;
        setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        out_ = kPreface;
        put_frame(out_, kSettings, 0, 0, std::string_view("\0\2\0\0\0\0", 6));  // no push
        open_window(kLargestWindow - kDefaultWindow);
        first_ = call(first_headers());
        later_ = call("\x83\x86\xc2\xc1\xc0\xbf\xbe");
        wanted_ = streams;
        ask(now());
        flush();
    }
    int descriptor() const { return socket_; }

    /// Reads what has come, and asks again for each answer.
    void turn(std::array<char, kRoom>& room) {
        const ssize_t n = recv(socket_, room.data(), room.size(), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) fail("the server hung up");
        const Nanos time = now();
        std::string_view in(room.data(), static_cast<std::size_t>(n));
        if (!in_.empty()) in = in_.append(in);
        for (Frame frame; next_frame(in, frame);) take(frame, time);
        in_ = std::string(in);
        ask(now());
        flush();
    }

  private:
    struct Call {
        std::uint32_t stream = 0;
        Nanos begun = 0;
        std::string message;
    };

    static std::string text(std::string_view value) {
        return static_cast<char>(value.size()) + std::string(value);  // below 127 bytes each
    }
    /// Literals that the server is to remember, with the names' places in the static table:
    /// POST, http, :path, :authority, content-type, te, user-agent.
    std::string first_headers() const {
        return "\x83\x86\x44" + text(run_.path) + "\x41" + text("127.0.0.1") + "\x5f" +
               text("application/grpc") + "\x40" + text("te") + text("trailers") + "\x7a" +
               text("closed-loop");
    }
    std::string call(std::string_view headers) const {
        std::string frames;
        put_frame(frames, kHeaders, kEndHeaders, 0, headers);
        put_frame(frames, kData, kEndStream, 0, run_.request);
        return frames;
    }
    static void number(char* head, std::uint32_t stream) {
        for (int i = 0; i < 4; ++i) head[5 + i] = static_cast<char>(stream >> (24 - 8 * i));
    }
    void open_window(std::uint32_t bytes) {
        std::string opened;
        put32(opened, bytes);
        put_frame(out_, kWindow, 0, 0, opened);
    }

    /// Begins as many calls as there should be and the server's window lets through.
    void ask(Nanos time) {
        while (wanted_ > 0 && window_ >= static_cast<std::int64_t>(run_.request.size())) {
            --wanted_;
            window_ -= static_cast<std::int64_t>(run_.request.size());
            const std::string& frames = next_ == 1 ? first_ : later_;
            const std::size_t at = out_.size();
            out_ += frames;
            number(&out_[at], next_);
            number(&out_[out_.size() - run_.request.size() - kHead], next_);
            Call& call = place(next_);
            if (call.stream != 0) fail("a call takes longer than thousands of others");
            call.stream = next_;
            call.begun = time;
            next_ += 2;
        }
    }

    Call& place(std::uint32_t stream) { return calls_[stream / 2 % kPlaces]; }

    void take(const Frame& frame, Nanos time) {
        switch (frame.kind) {
            case kData:
                if (frame.flags & kPadded) fail("answers are not expected to be padded");
                taken_ += static_cast<std::uint32_t>(frame.payload.size());
                if (taken_ > kLargestWindow / 2) open_window(std::exchange(taken_, 0));
                if (place(frame.stream).stream != frame.stream) fail("data of no call");
                place(frame.stream).message += frame.payload;
                [[fallthrough]];
            case kHeaders:
                if (frame.flags & kEndStream) end(frame.stream, time);
                return;
            case kSettings:
                if (frame.flags & kAck) return;
                for (std::size_t at = 0; at + 6 <= frame.payload.size(); at += 6) {
                    if (get(&frame.payload[at], 2) == 1 &&
                        get(&frame.payload[at + 2], 4) < kDefaultTable) {
                        fail("the server wants a smaller table of headers");
                    }
                }
                return put_frame(out_, kSettings, kAck, 0, "");
            case kPing:
                if (!(frame.flags & kAck)) put_frame(out_, kPing, kAck, 0, frame.payload);
                return;
            case kWindow:
                if (frame.stream == 0) window_ += get(frame.payload.data(), 4) & kLargestWindow;
                return;
            case kReset:
            case kGoAway:
                fail("the server resets streams or goes away");
            default:
                return;
        }
    }

    void end(std::uint32_t stream, Nanos time) {
        Call& call = place(stream);
        if (call.stream != stream) fail("the end of no call");
        if (!run_.right(call.message)) fail("an answer is not the right one, or is none");
        // The server's pace at the start and its silence at the end are not its rate.
        if (time >= run_.begin && time < run_.end) {
            const Nanos took = std::min<Nanos>(time - call.begun, UINT32_MAX);
            run_.latencies.push_back(static_cast<std::uint32_t>(took));
        }
        call.stream = 0;
        call.message.clear();
        ++wanted_;
    }

    void flush() {
        std::size_t written = 0;
        while (written < out_.size()) {
            // Blocks: the socket holds more than all calls that are under way.
            const ssize_t n =
                send(socket_, out_.data() + written, out_.size() - written, MSG_NOSIGNAL);
            if (n <= 0) fail("cannot write");
            written += static_cast<std::size_t>(n);
        }
        out_.clear();
    }

    Run& run_;
    int socket_ = -1;
    std::string first_;  // the frames of a call, with a stream's number to be put in
    std::string later_;
    std::string in_;
    std::string out_;
    std::vector<Call> calls_{kPlaces};
    std::uint32_t next_ = 1;
    std::uint32_t taken_ = 0;
    std::int64_t window_ = kDefaultWindow;
    int wanted_ = 0;
};

}  // namespace

int main(int count, char** words) {
    if (count != 10) fail("nine arguments are expected");
    Run run{.path = words[6], .request = contents(words[7]), .answer = contents(words[8])};
    run.begin = now() + static_cast<Nanos>(std::atof(words[4]) * 1e9);
    run.end = run.begin + static_cast<Nanos>(std::atof(words[5]) * 1e9);
    run.latencies.reserve(1 << 20);
    const int poll = epoll_create1(0);
    std::vector<Connection> connections;
    connections.reserve(static_cast<std::size_t>(std::atoi(words[2])));
    while (connections.size() < connections.capacity()) {
        connections.emplace_back(run, std::atoi(words[1]), std::atoi(words[3]));
        epoll_event event{EPOLLIN, {.ptr = &connections.back()}};
        epoll_ctl(poll, EPOLL_CTL_ADD, connections.back().descriptor(), &event);
    }
    static std::array<char, kRoom> room;
    std::array<epoll_event, 256> events;
    rusage before{};
    bool begun = false;
    for (Nanos time = now(); time < run.end; time = now()) {
        if (!begun && time >= run.begin) {
            begun = true;
            getrusage(RUSAGE_SELF, &before);
        }
        const auto left = static_cast<int>((run.end - time) / 1'000'000 + 1);
        const int ready = epoll_wait(poll, events.data(), events.size(), left);
        for (int i = 0; i < ready; ++i) {
            static_cast<Connection*>(events[static_cast<std::size_t>(i)].data.ptr)->turn(room);
        }
    }
    rusage after{};
    getrusage(RUSAGE_SELF, &after);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
    };
    const double cpu = seconds(after.ru_utime) + seconds(after.ru_stime) -
                       seconds(before.ru_utime) - seconds(before.ru_stime);
    std::ofstream(words[9], std::ios::binary)
        .write(reinterpret_cast<const char*>(run.latencies.data()),
               static_cast<std::streamsize>(run.latencies.size() * sizeof(std::uint32_t)));
    std::printf("{\"answers\": %zu, \"seconds\": %.6f, \"cpu\": %.6f}\n", run.latencies.size(),
                1e-9 * static_cast<double>(run.end - run.begin), cpu);
    return 0;
}
