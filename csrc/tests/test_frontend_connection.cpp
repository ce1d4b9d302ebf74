// What one connection may make the server keep: its limit holds whatever the messages expand to.
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "connection.hpp"

using namespace tidegate;
using namespace tidegate::frontend;

namespace {

/// Keeps whole requests until it is told to answer them.
class Keeping final : public Requests {
  public:
    void arrived(Stream& stream) override { kept.push_back(&stream); }
    void vanished(Stream& stream) noexcept override { std::erase(kept, &stream); }
    Nanos now() const noexcept override { return kSecond; }
    void answer_all() {
        for (Stream* stream : kept) {
            stream->answer.assign(kMessagePrefix, '\0');
            stream->connection->finish(*stream);
        }
        kept.clear();
    }
    std::vector<Stream*> kept;
};

std::string gzipped(const std::string& message) {
    z_stream stream{};
    CHECK(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    std::string out(1000 + message.size() / 100, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(message.data()));
    stream.avail_in = static_cast<uInt>(message.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

/// A client at the other end of a connection; notes the status of each call.
class Client {
  public:
    Client(Requests& requests, const Settings& settings) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends_) == 0);
        connection_ = std::make_unique<Connection>(requests, settings, ends_[0], nullptr);
        nghttp2_session_callbacks* callbacks = nullptr;
        CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
        nghttp2_session_callbacks_set_on_header_callback(
            callbacks,
            [](nghttp2_session*, const nghttp2_frame*, const std::uint8_t* name, std::size_t size,
               const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
                if (std::string_view(reinterpret_cast<const char*>(name), size) == "grpc-status") {
                    static_cast<Client*>(user)->statuses.emplace_back(
                        reinterpret_cast<const char*>(value), value_size);
                }
                return 0;
            });
        CHECK(nghttp2_session_client_new(&session_, callbacks, this) == 0);
        nghttp2_session_callbacks_del(callbacks);
        nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
    }
    ~Client() {
        connection_.reset();
        nghttp2_session_del(session_);
        close(ends_[1]);
    }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    /// A call with a compressed message.
    void call(const std::string& message) {
        const std::string compressed = gzipped(message);
        body_.assign(kMessagePrefix, '\1');
        write_prefix(body_.data(), compressed.size());
        body_[0] = 1;
        body_ += compressed;
        const auto header = [](std::string_view name, std::string_view value) {
            return nghttp2_nv{reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                              reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())),
                              name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
        };
        const std::array headers{header(":method", "POST"),
                                 header(":scheme", "http"),
                                 header(":path", "/p"),
                                 header(":authority", "x"),
                                 header("content-type", "application/grpc"),
                                 header("grpc-encoding", "gzip")};
        nghttp2_data_provider provider{};
        provider.source.ptr = this;
        provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* target,
                                    std::size_t, std::uint32_t* flags, nghttp2_data_source* source,
                                    void*) {
            const std::string& body = static_cast<Client*>(source->ptr)->body_;
            std::memcpy(target, body.data(), body.size());  // it is small
            *flags = NGHTTP2_DATA_FLAG_EOF;
            return static_cast<ssize_t>(body.size());
        };
        CHECK(nghttp2_submit_request(session_, nullptr, headers.data(), headers.size(), &provider,
                                     nullptr) > 0);
        exchange();
    }
    /// Lets both ends say what they have to say.
    void exchange() {
        const std::uint8_t* data = nullptr;
        for (ssize_t size; (size = nghttp2_session_mem_send(session_, &data)) > 0;) {
            CHECK(send(ends_[1], data, static_cast<std::size_t>(size), MSG_NOSIGNAL) == size);
        }
        CHECK(connection_->receive() && connection_->flush());
        std::array<std::uint8_t, 65536> answer;
        for (ssize_t size; (size = recv(ends_[1], answer.data(), answer.size(), 0)) > 0;) {
            CHECK(nghttp2_session_mem_recv(session_, answer.data(),
                                           static_cast<std::size_t>(size)) == size);
        }
    }
    std::vector<std::string> statuses;

  private:
    int ends_[2] = {-1, -1};
    std::unique_ptr<Connection> connection_;
    nghttp2_session* session_ = nullptr;
    std::string body_;
};

void test_what_messages_expand_to_is_counted_while_it_is_kept() {
    Settings settings;
    settings.max_message_bytes = 100'000;
    settings.max_connection_bytes = 250'000;
    settings.python_paths = {"/p"};
    Keeping requests;
    Client client(requests, settings);
    const std::string zeros(90'000, '\0');
    for (int i = 0; i < 2; ++i) client.call(zeros);
    CHECK_EQUAL(requests.kept.size(), 2u);
    CHECK(client.statuses.empty());
    client.call(zeros);
    CHECK_EQUAL(requests.kept.size(), 2u);
    CHECK((client.statuses == std::vector<std::string>{"8"}), "resource exhausted");
    requests.answer_all();
    client.exchange();
    for (int i = 0; i < 2; ++i) client.call(zeros);
    CHECK_EQUAL(requests.kept.size(), 2u);
    CHECK((client.statuses == std::vector<std::string>{"8", "0", "0"}));
}

}  // namespace

int main() { test_what_messages_expand_to_is_counted_while_it_is_kept(); }
