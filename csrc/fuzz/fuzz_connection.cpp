// Fuzzes the state machine of a connection: whatever a client sends, in whatever pieces, each
// stream that has begun ends once, and nothing is left behind.
//
// The first byte of an input says how it is cut into pieces and when calls are answered; with its
// lowest bit the client's preface is put before the rest, so that fuzzing gets past it.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "connection.hpp"

using namespace tidegate;
using namespace tidegate::frontend;

namespace {

constexpr std::string_view kPreface("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);

class Calls final : public Requests {
  public:
    explicit Calls(bool at_once) : at_once_(at_once) {}
    void arrived(Stream& stream) override {
        if (at_once_) {
            answer(stream);
        } else {
            waiting_.push_back(&stream);
        }
    }
    void vanished(Stream& stream) noexcept override {
        for (Stream*& each : waiting_) {
            if (each == &stream) each = nullptr;
        }
    }
    Nanos now() const noexcept override { return time_; }
    void answer_all() {
        for (std::size_t i = 0; i < waiting_.size(); ++i) {
            if (waiting_[i] != nullptr) answer(*waiting_[i]);
        }
        waiting_.clear();
        time_ += 10 * kSecond;
    }

  private:
    void answer(Stream& stream) {
        if (stream.message.size() % 2 == 0) {
            stream.answer.assign(kMessagePrefix, '\0');
            stream.answer.append(stream.message);
            stream.connection->finish(stream);
        } else {
            stream.connection->fail(stream, GrpcStatus::Internal, stream.message);
        }
    }
    const bool at_once_;
    std::vector<Stream*> waiting_;
    Nanos time_ = kSecond;
};

void drop_input(int descriptor) {
    std::array<char, 65536> buffer;
    while (recv(descriptor, buffer.data(), buffer.size(), MSG_DONTWAIT) > 0) {
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const std::uint8_t choice = data[0];
    std::string input = (choice & 1) != 0 ? std::string(kPreface) : std::string();
    input.append(reinterpret_cast<const char*>(data + 1), size - 1);
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return 0;
    Settings settings;
    settings.max_message_bytes = 4096;
    settings.max_connection_bytes = 16384;
    settings.max_streams = 8;
    settings.reset_burst = 16;
    settings.python_paths = {"/p"};
    if ((choice & 2) != 0) settings.tokens = {"token"};
    {
        Calls calls((choice & 4) != 0);
        Connection connection(calls, settings, ends[0], nullptr);
        const std::size_t piece = (choice & 8) != 0 ? 7 : 4096;
        bool open = true;
        for (std::size_t at = 0; open && at < input.size(); at += piece) {
            const std::string_view part = std::string_view(input).substr(at, piece);
            if (send(ends[1], part.data(), part.size(), MSG_NOSIGNAL) < 0) break;
            open = connection.receive() && connection.flush();
            if ((choice & 16) != 0) calls.answer_all();
            if (open && (choice & 32) != 0) open = connection.check_time(calls.now());
            drop_input(ends[1]);
        }
        if (open && (choice & 64) != 0) {
            connection.drain();
            open = connection.flush();
        }
        calls.answer_all();
        if (open) open = connection.flush();
    }
    close(ends[1]);
    return 0;
}
