// What nghttp2 calls for a connection, which is its `user`.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>

#include "connection.hpp"

namespace tidegate::frontend {

struct Callbacks {
    static nghttp2_session_callbacks* table();
    static nghttp2_option* options();
    static ssize_t read_answer(nghttp2_session*, std::int32_t, std::uint8_t* target,
                               std::size_t size, std::uint32_t* flags, nghttp2_data_source* source,
                               void* user);

  private:
    static Stream* stream_of(nghttp2_session* session, std::int32_t id, void* user);
    static int begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user);
    static int header(nghttp2_session* session, const nghttp2_frame* frame,
                      const std::uint8_t* name, std::size_t name_size, const std::uint8_t* value,
                      std::size_t value_size, std::uint8_t, void* user);
    static int data_chunk(nghttp2_session* session, std::uint8_t, std::int32_t id,
                          const std::uint8_t* data, std::size_t size, void* user);
    static int frame_received(nghttp2_session* session, const nghttp2_frame* frame, void* user);
    static int frame_refused(nghttp2_session* session, const nghttp2_frame* frame, int error,
                             void* user);
    static int frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void*);
    static int stream_closed(nghttp2_session* session, std::int32_t id, std::uint32_t, void* user);
};

}  // namespace tidegate::frontend
