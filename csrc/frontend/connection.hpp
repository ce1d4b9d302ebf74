// One client: an HTTP/2 session over a transport, and the streams that it has open.
//
// A connection knows gRPC's envelope and nothing of models: a whole request goes to its Requests,
// which answers it, now or later, through finish() or fail(). All of it happens in one thread.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "grpc.hpp"
#include "settings.hpp"
#include "stream.hpp"
#include "transport.hpp"

namespace tidegate::frontend {

/// Who answers whole requests.
class Requests {
  public:
    virtual ~Requests() = default;
    virtual void arrived(Stream& stream) = 0;
    /// Nobody waits for the stream any more.
    virtual void vanished(Stream& stream) noexcept = 0;
    virtual Nanos now() const noexcept = 0;
};

class Connection {
  public:
    Connection(Requests& requests, const Settings& settings, int descriptor, SSL_CTX* tls);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    int descriptor() const noexcept { return transport_.descriptor(); }
    /// Reads and handles all that has come. False: close the connection.
    bool receive();
    /// Writes what there is to say. False: close the connection.
    bool flush();
    /// True if the socket took less than there is: to be called again when it can be written to.
    /// Not while TLS waits for the client: the socket can be written to all that time.
    bool blocked() const noexcept {
        return written_ < out_.size() && !transport_.write_awaits_input();
    }

    /// When bytes last came or went: the clock is looked at once for all requests that came
    /// together.
    Nanos last_traffic() const noexcept { return last_traffic_; }

    /// Answers with the message in `stream.answer`, whose prefix is left free.
    void finish(Stream& stream);
    /// Answers with a status alone, and when to try again if that is not 0.
    void fail(Stream& stream, GrpcStatus status, std::string_view message,
              int pushback_milliseconds = 0);

    /// Takes no new streams; those that are open are answered.
    void drain();
    bool idle() const noexcept { return streams_ == 0; }
    /// Closes what has taken too long and asks whether the client is there. False: close it.
    bool check_time(Nanos now);
    /// True while check_time() should come soon.
    bool hurried() const noexcept { return receiving_ > 0 || !greeted_; }

    // For its owner: what is to be flushed, and its place in the list of all.
    bool dirty = false;
    bool doomed = false;
    bool watching_writes = false;
    std::size_t place = 0;

  private:
    friend struct Callbacks;

    Stream* open_stream(std::int32_t id);
    void close_stream(Stream& stream) noexcept;
    void header(Stream& stream, std::string_view name, std::string_view value);
    void take_path(Stream& stream, std::string_view path);
    bool headers_end(Stream& stream);
    void data(Stream& stream, std::string_view chunk);
    void end(Stream& stream);
    void fail_for_bytes(Stream& stream);
    void refuse_http(Stream& stream, const char* status);
    bool count_reset() noexcept;
    void submit(std::int32_t id, const nghttp2_nv* headers, std::size_t count, Stream* body);
    ssize_t read_answer(Stream& stream, std::uint8_t* target, std::size_t size,
                        std::uint32_t* flags);

    Requests& requests_;
    const Settings& settings_;
    Transport transport_;
    nghttp2_session* session_ = nullptr;
    Stream* first_ = nullptr;
    Stream* current_ = nullptr;  // whose frames come in just now: nghttp2 would have to look it up
    std::size_t streams_ = 0;
    std::size_t receiving_ = 0;  // streams whose request is not complete
    std::size_t buffered_ = 0;   // bytes of all bodies, and of what they expand to
    std::string out_;            // frames that are to be written
    std::size_t written_ = 0;    // of them
    bool greeted_ = false;       // a request has begun
    bool draining_ = false;
    bool failed_ = false;
    Nanos created_ = 0;
    Nanos last_traffic_ = 0;
    Nanos pinged_ = kNever;
    double resets_ = 0;  // tokens left for streams that the client resets or has reset
    Nanos resets_at_ = 0;
};

}  // namespace tidegate::frontend
