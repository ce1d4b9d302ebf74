// Callbacks: from nghttp2's arguments to the connection's own.
#include "callbacks.hpp"

#include <new>

namespace tidegate::frontend {

namespace {

std::string_view view(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

Connection& of(void* user) { return *static_cast<Connection*>(user); }

}  // namespace

Stream* Callbacks::stream_of(nghttp2_session* session, std::int32_t id, void* user) {
    Stream*& current = of(user).current_;
    if (current == nullptr || current->id != id) {
        current = static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
    }
    return current;
}

int Callbacks::begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0;
    }
    Stream* const made = of(user).open_stream(frame->hd.stream_id);
    if (made == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, made);
    return 0;
}

int Callbacks::header(nghttp2_session* session, const nghttp2_frame* frame,
                      const std::uint8_t* name, std::size_t name_size, const std::uint8_t* value,
                      std::size_t value_size, std::uint8_t, void* user) {
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0;  // trailers: gRPC clients send none
    }
    Stream* const found = stream_of(session, frame->hd.stream_id, user);
    if (found != nullptr) of(user).header(*found, view(name, name_size), view(value, value_size));
    return 0;
}

int Callbacks::data_chunk(nghttp2_session* session, std::uint8_t, std::int32_t id,
                          const std::uint8_t* data, std::size_t size, void* user) {
    Stream* const found = stream_of(session, id, user);
    if (found != nullptr) of(user).data(*found, view(data, size));
    return 0;
}

int Callbacks::frame_received(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Connection& connection = of(user);
    switch (frame->hd.type) {
        case NGHTTP2_RST_STREAM:
            return connection.count_reset() ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
        case NGHTTP2_HEADERS:
        case NGHTTP2_DATA: {
            Stream* const found = stream_of(session, frame->hd.stream_id, user);
            if (found == nullptr) return 0;
            if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST &&
                !connection.headers_end(*found)) {
                return 0;
            }
            if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) connection.end(*found);
            return 0;
        }
        default:
            return 0;
    }
}

int Callbacks::frame_refused(nghttp2_session*, const nghttp2_frame*, int, void* user) {
    // Such a frame has nghttp2 reset its stream, which the client could have done itself: it counts
    // as if it had. (What ends the connection counts as well, and does no harm.)
    return of(user).count_reset() ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

int Callbacks::frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    // An answer before the end of its request: the rest is of no interest (RFC 9113, 8.1).
    // Only now, since a reset would overtake the answer.
    if (frame->hd.type != NGHTTP2_HEADERS || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
        return 0;
    }
    const Stream* const found = stream_of(session, frame->hd.stream_id, user);
    if (found != nullptr && !found->complete) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                  NGHTTP2_NO_ERROR);
    }
    return 0;
}

int Callbacks::stream_closed(nghttp2_session* session, std::int32_t id, std::uint32_t, void* user) {
    Stream* const found = stream_of(session, id, user);
    if (found != nullptr) of(user).close_stream(*found);
    return 0;
}

ssize_t Callbacks::read_answer(nghttp2_session*, std::int32_t, std::uint8_t* target,
                               std::size_t size, std::uint32_t* flags, nghttp2_data_source* source,
                               void* user) {
    return of(user).read_answer(*static_cast<Stream*>(source->ptr), target, size, flags);
}

nghttp2_session_callbacks* Callbacks::table() {
    static nghttp2_session_callbacks* const callbacks = [] {
        nghttp2_session_callbacks* made = nullptr;
        if (nghttp2_session_callbacks_new(&made) != 0) throw std::bad_alloc();
        nghttp2_session_callbacks_set_on_begin_headers_callback(made, begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(made, header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, data_chunk);
        nghttp2_session_callbacks_set_on_frame_recv_callback(made, frame_received);
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(made, frame_refused);
        nghttp2_session_callbacks_set_on_frame_send_callback(made, frame_sent);
        nghttp2_session_callbacks_set_on_stream_close_callback(made, stream_closed);
        return made;
    }();
    return callbacks;
}

nghttp2_option* Callbacks::options() {
    static nghttp2_option* const options = [] {
        nghttp2_option* made = nullptr;
        if (nghttp2_option_new(&made) != 0) throw std::bad_alloc();
        // What was closed need not be remembered for priorities that nobody uses.
        nghttp2_option_set_no_closed_streams(made, 1);
        nghttp2_option_set_max_settings(made, 32);
        return made;
    }();
    return options;
}

}  // namespace tidegate::frontend
