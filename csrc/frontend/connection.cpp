// Connection: what gRPC asks of each stream, and its input and output.
#include "connection.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <new>

#include "callbacks.hpp"
#include "memory.hpp"

namespace tidegate::frontend {

namespace {

constexpr std::size_t kReadSize = std::size_t{256} << 10;
constexpr std::size_t kReadsInARow = 4;  // of one connection, before others have their turn
constexpr std::size_t kMostUnwritten = std::size_t{1} << 20;
constexpr std::size_t kMostHeaderBytes = std::size_t{16} << 10;
constexpr std::size_t kMostStatusText = 1024;  // clients take a few KiB of headers

template <std::size_t NameSize, std::size_t ValueSize>
nghttp2_nv constant(const char (&name)[NameSize], const char (&value)[ValueSize]) {
    // nghttp2 does not write to them; its interface is older than const.
    return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
            reinterpret_cast<std::uint8_t*>(const_cast<char*>(value)), NameSize - 1, ValueSize - 1,
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

template <std::size_t NameSize>
nghttp2_nv copied(const char (&name)[NameSize], std::string_view value) {
    return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
            reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), NameSize - 1,
            value.size(), NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

thread_local StreamPool pool;
thread_local std::unique_ptr<char[]> read_buffer;

}  // namespace

Connection::Connection(Requests& requests, const Settings& settings, int descriptor, SSL_CTX* tls)
    : requests_(requests), settings_(settings), transport_(descriptor, tls) {
    if (nghttp2_session_server_new3(&session_, Callbacks::table(), this, Callbacks::options(),
                                    pooled_memory()) != 0) {
        throw std::bad_alloc();
    }
    const std::array entries{
        nghttp2_settings_entry{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, settings.max_streams},
        nghttp2_settings_entry{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, settings.window_bytes},
        nghttp2_settings_entry{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMostHeaderBytes},
        nghttp2_settings_entry{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    // ENABLE_PUSH is the client's to send.
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, entries.data(), entries.size() - 1);
    nghttp2_session_set_local_window_size(
        session_, NGHTTP2_FLAG_NONE, 0,
        static_cast<std::int32_t>(settings.connection_window_bytes));
    created_ = last_traffic_ = resets_at_ = requests.now();
    resets_ = settings.reset_burst;
}

Connection::~Connection() {
    while (first_ != nullptr) close_stream(*first_);
    nghttp2_session_del(session_);
}

// -- streams --

Stream* Connection::open_stream(std::int32_t id) {
    greeted_ = true;
    Stream* const stream = pool.get();
    stream->connection = this;
    stream->id = id;
    stream->started = last_traffic_;
    if (settings_.tokens.empty()) stream->access = Access::Granted;
    stream->next = first_;
    if (first_ != nullptr) first_->previous = stream;
    first_ = stream;
    current_ = stream;
    ++streams_;
    ++receiving_;
    return stream;
}

void Connection::close_stream(Stream& stream) noexcept {
    if (!stream.answered) requests_.vanished(stream);
    if (!stream.complete) --receiving_;
    --streams_;
    buffered_ -= stream.body.size() + stream.expanded.size();
    (stream.previous != nullptr ? stream.previous->next : first_) = stream.next;
    if (stream.next != nullptr) stream.next->previous = stream.previous;
    if (current_ == &stream) current_ = nullptr;
    nghttp2_session_set_stream_user_data(session_, stream.id, nullptr);
    pool.put(&stream);
}

void Connection::take_path(Stream& stream, std::string_view path) {
    const auto is_path = [path](const std::string& other) { return other == path; };
    if (path == kModelInfer) {
        stream.method = Method::ModelInfer;
    } else if (path == kPredict) {
        stream.method = Method::Predict;
    } else if (path == kServerLive) {
        stream.method = Method::ServerLive;
        stream.path = path;
    } else {
        const auto& known = settings_.python_paths;
        if (std::any_of(known.begin(), known.end(), is_path)) stream.method = Method::Python;
        stream.path = path;
    }
    stream.open_path =
        stream.access != Access::Granted &&
        std::any_of(settings_.open_paths.begin(), settings_.open_paths.end(), is_path);
}

void Connection::header(Stream& stream, std::string_view name, std::string_view value) {
    // As SETTINGS_MAX_HEADER_LIST_SIZE counts (RFC 9113, 6.5.2).
    stream.header_bytes += name.size() + value.size() + 32;
    if (stream.header_bytes > kMostHeaderBytes) return;
    if (name == ":path") {
        take_path(stream, value);
    } else if (name == ":method") {
        stream.post = value == "POST";
    } else if (name == "content-type") {
        constexpr std::string_view kGrpc = "application/grpc";
        stream.grpc_content = value.substr(0, kGrpc.size()) == kGrpc &&
                              (value.size() == kGrpc.size() || value[kGrpc.size()] == '+' ||
                               value[kGrpc.size()] == ';');
    } else if (name == "grpc-timeout") {
        // What is no timeout is none, as other servers have it.
        if (const auto timeout = parse_timeout(value)) {
            stream.deadline = add_saturating(stream.started, *timeout);
        }
    } else if (name == "grpc-encoding") {
        stream.compressed = value == "gzip" || value == "deflate";
        stream.unknown_encoding = !stream.compressed && value != "identity";
    } else if (name == "authorization" && stream.access != Access::Granted) {
        stream.access = access_of(value, settings_.tokens.data(), settings_.tokens.size());
    }
}

bool Connection::headers_end(Stream& stream) {
    if (stream.header_bytes > kMostHeaderBytes) {
        refuse_http(stream, "431");
    } else if (!stream.post) {
        refuse_http(stream, "405");
    } else if (!stream.grpc_content) {
        refuse_http(stream, "415");
    } else if (stream.access != Access::Granted && !stream.open_path) {
        fail(stream, GrpcStatus::Unauthenticated, refusal_of(stream.access));
    } else if (stream.method == Method::Unknown) {
        const std::string name = stream.path.substr(stream.path.rfind('/') + 1, 100);
        fail(stream, GrpcStatus::Unimplemented, "this server has no " + name);
    } else if (stream.unknown_encoding) {
        fail(stream, GrpcStatus::Unimplemented,
             "the message's encoding is not supported; gzip, deflate and identity are");
    } else {
        return true;
    }
    return false;
}

void Connection::data(Stream& stream, std::string_view chunk) {
    if (stream.answered) return;
    stream.body.append(chunk);
    buffered_ += chunk.size();
    if (stream.body.size() < kMessagePrefix) return;
    std::uint32_t size = 0;
    for (std::size_t i = 1; i < kMessagePrefix; ++i) {
        size = size << 8 | static_cast<std::uint8_t>(stream.body[i]);
    }
    if (size > settings_.max_message_bytes) {
        fail(stream, GrpcStatus::ResourceExhausted,
             "a message has at most " + std::to_string(settings_.max_message_bytes) +
                 " bytes, got " + std::to_string(size));
    } else if (buffered_ > settings_.max_connection_bytes) {
        fail_for_bytes(stream);
    } else if (stream.body.size() > kMessagePrefix + size) {
        fail(stream, GrpcStatus::Internal, "a unary call has one message, got more");
    }
}

void Connection::fail_for_bytes(Stream& stream) {
    fail(stream, GrpcStatus::ResourceExhausted,
         "the messages of one connection have at most " +
             std::to_string(settings_.max_connection_bytes) + " bytes together");
}

void Connection::end(Stream& stream) {
    if (stream.complete) return;
    stream.complete = true;
    --receiving_;
    if (stream.answered) return;
    const std::string& body = stream.body;
    std::uint32_t size = 0;
    for (std::size_t i = 1; i < kMessagePrefix && i < body.size(); ++i) {
        size = size << 8 | static_cast<std::uint8_t>(body[i]);
    }
    if (body.size() < kMessagePrefix || body.size() != kMessagePrefix + size) {
        return fail(stream, GrpcStatus::Internal, "the call ended before its message did");
    }
    stream.message = std::string_view(body).substr(kMessagePrefix);
    if (body[0] == 1) {
        if (!stream.compressed) {
            return fail(stream, GrpcStatus::Internal,
                        "the message is compressed, and no grpc-encoding says how");
        }
        const bool whole = decompress(stream.message, settings_.max_message_bytes, stream.expanded);
        buffered_ += stream.expanded.size();
        if (!whole) {
            const bool large = stream.expanded.size() > settings_.max_message_bytes;
            return fail(stream, large ? GrpcStatus::ResourceExhausted : GrpcStatus::Internal,
                        large ? "a message has at most " +
                                    std::to_string(settings_.max_message_bytes) +
                                    " bytes, got more when it was decompressed"
                              : std::string("the message cannot be decompressed"));
        }
        if (buffered_ > settings_.max_connection_bytes) return fail_for_bytes(stream);
        stream.message = stream.expanded;
    } else if (body[0] != 0) {
        return fail(stream, GrpcStatus::Internal, "the message's prefix is malformed");
    }
    requests_.arrived(stream);
}

bool Connection::count_reset() noexcept {
    const Nanos now = requests_.now();
    const double more = static_cast<double>(now - resets_at_) * 1e-9 * settings_.reset_rate;
    resets_ = std::min(static_cast<double>(settings_.reset_burst), resets_ + more);
    resets_at_ = now;
    resets_ -= 1;
    if (resets_ >= 0) return true;
    failed_ = true;
    nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
    return false;
}

// -- answers --

void Connection::submit(std::int32_t id, const nghttp2_nv* headers, std::size_t count,
                        Stream* body) {
    nghttp2_data_provider provider{};
    provider.source.ptr = body;
    provider.read_callback = Callbacks::read_answer;
    const int result = nghttp2_submit_response(session_, id, headers, count,
                                               body != nullptr ? &provider : nullptr);
    // A stream that has just been reset needs no answer; anything else ends it.
    if (result != 0)
        nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_INTERNAL_ERROR);
}

void Connection::finish(Stream& stream) {
    stream.answered = true;
    write_prefix(stream.answer.data(), stream.answer.size() - kMessagePrefix);
    static const std::array headers{constant(":status", "200"),
                                    constant("content-type", "application/grpc")};
    submit(stream.id, headers.data(), headers.size(), &stream);
}

ssize_t Connection::read_answer(Stream& stream, std::uint8_t* target, std::size_t size,
                                std::uint32_t* flags) {
    const std::size_t count = std::min(size, stream.answer.size() - stream.sent);
    std::memcpy(target, stream.answer.data() + stream.sent, count);
    stream.sent += count;
    if (stream.sent == stream.answer.size()) {
        static const std::array trailers{constant("grpc-status", "0")};
        *flags = NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(session_, stream.id, trailers.data(), trailers.size()) != 0) {
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return static_cast<ssize_t>(count);
}

void Connection::fail(Stream& stream, GrpcStatus status, std::string_view message,
                      int pushback_milliseconds) {
    if (stream.answered) return;
    stream.answered = true;
    const std::string code = std::to_string(static_cast<int>(status));
    const std::string text = percent_encoded(message.substr(0, kMostStatusText));
    const std::string pushback = std::to_string(pushback_milliseconds);
    const std::array headers{constant(":status", "200"),
                             constant("content-type", "application/grpc"),
                             copied("grpc-status", code), copied("grpc-message", text),
                             copied("grpc-retry-pushback-ms", pushback)};
    submit(stream.id, headers.data(), pushback_milliseconds > 0 ? 5 : 4, nullptr);
}

void Connection::refuse_http(Stream& stream, const char* status) {
    stream.answered = true;
    const std::array headers{copied(":status", status)};
    submit(stream.id, headers.data(), headers.size(), nullptr);
}

// -- input and output --

bool Connection::receive() {
    if (read_buffer == nullptr) read_buffer = std::make_unique<char[]>(kReadSize);
    for (std::size_t turn = 0; turn < kReadsInARow; ++turn) {
        std::size_t count = 0;
        const Io io = transport_.read(read_buffer.get(), kReadSize, count);
        if (io == Io::Again) return true;
        if (io == Io::Closed) return false;
        last_traffic_ = requests_.now();
        pinged_ = kNever;
        const ssize_t used = nghttp2_session_mem_recv(
            session_, reinterpret_cast<const std::uint8_t*>(read_buffer.get()), count);
        if (used < 0) {
            // nghttp2 has queued a GOAWAY that says why, or we have.
            failed_ = true;
            static_cast<void>(flush());
            return false;
        }
        if (count < kReadSize / 2) return true;  // the socket is empty, or will say so
    }
    return true;
}

bool Connection::flush() {
    for (;;) {
        while (written_ < out_.size()) {
            std::size_t count = 0;
            const Io io = transport_.write(out_.data() + written_, out_.size() - written_, count);
            if (io == Io::Closed) return false;
            if (io == Io::Again) return true;
            written_ += count;
            last_traffic_ = requests_.now();
        }
        out_.clear();
        written_ = 0;
        while (out_.size() < kMostUnwritten) {
            const std::uint8_t* data = nullptr;
            const ssize_t size = nghttp2_session_mem_send(session_, &data);
            if (size < 0) return false;
            if (size == 0) break;
            out_.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
        }
        if (out_.empty()) break;
    }
    if (out_.capacity() > 2 * kMostUnwritten) std::string().swap(out_);
    // Nothing more to say and nothing to hear: done.
    return nghttp2_session_want_read(session_) != 0 || nghttp2_session_want_write(session_) != 0;
}

void Connection::drain() {
    if (draining_) return;
    draining_ = true;
    // The last stream that is answered is the last one that has begun.
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(session_), NGHTTP2_NO_ERROR,
                          nullptr, 0);
}

bool Connection::check_time(Nanos now) {
    if (!greeted_ && now - created_ > settings_.receive_timeout) return false;
    for (Stream* stream = first_; receiving_ > 0 && stream != nullptr;) {
        Stream& each = *stream;
        stream = stream->next;
        if (!each.complete && !each.answered && now - each.started > settings_.receive_timeout) {
            fail(each, GrpcStatus::DeadlineExceeded, "the request took too long to arrive");
        } else if (!each.complete && each.answered &&
                   now - each.started > 2 * settings_.receive_timeout) {
            nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, each.id, NGHTTP2_CANCEL);
        }
    }
    if (settings_.keepalive == kNever) return true;
    if (pinged_ != kNever) return now - pinged_ <= settings_.keepalive;
    // A client that reads nothing of what it asked for is as good as gone.
    if (now - last_traffic_ > settings_.keepalive) {
        if (blocked()) return false;
        pinged_ = now;
        nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
    }
    return true;
}

}  // namespace tidegate::frontend
