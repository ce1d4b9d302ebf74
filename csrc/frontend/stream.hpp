// One request of a client, and where it stands.
//
//   receiving ──END_STREAM──▶ complete ──finish()/fail()──▶ answered ──▶ closed
//      └────────────────reset, timeout, hang-up──────────────────────────▶ closed
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "grpc.hpp"
#include "offer.hpp"

namespace tidegate::frontend {

class Connection;
struct Pending;

/// One request, from its first header to the last byte of its answer.
struct Stream {
    Connection* connection = nullptr;
    std::int32_t id = 0;
    Method method = Method::Unknown;
    std::size_t header_bytes = 0;
    bool post = false;
    bool grpc_content = false;
    bool compressed = false;  // if a message says that it is
    bool unknown_encoding = false;
    Access access = Access::NoHeader;
    bool open_path = false;
    bool complete = false;  // the whole request is here
    bool answered = false;
    Nanos started = 0;
    Nanos deadline = kNever;   // by the client's grpc-timeout, then also by the model's timeout
    std::string path;          // for methods that Python answers
    std::string body;          // with its prefix; kept until the answer is sent
    std::string expanded;      // if it came compressed
    std::string_view message;  // in one of the two

    std::string answer;  // prefix and message
    std::size_t sent = 0;

    // What it waits for: a batch, or Python.
    AnswerForm form;
    Pending* pending = nullptr;
    std::size_t waiter = 0;  // its place among those of `pending`
    std::uint64_t python_call = 0;
    bool parked = false;  // until the lane has memory for another batch

    Stream* previous = nullptr;  // of its connection
    Stream* next = nullptr;
};

/// Streams are made and dropped a hundred thousand times a second: they, and what their strings
/// have allocated, are used again by the thread that had them.
class StreamPool {
  public:
    ~StreamPool() {
        while (first_ != nullptr) delete take_first();
    }
    /// A stream as a new one is, but for the memory that its strings have.
    Stream* get();
    void put(Stream* stream) noexcept;

  private:
    Stream* take_first() noexcept {
        Stream* const stream = first_;
        first_ = stream->next;
        return stream;
    }
    Stream* first_ = nullptr;
    std::size_t count_ = 0;
};

}  // namespace tidegate::frontend
