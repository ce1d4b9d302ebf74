// StreamPool: what a stream is when it begins.
#include "stream.hpp"

namespace tidegate::frontend {

namespace {

constexpr std::size_t kMostKept = 4096;
constexpr std::size_t kKeptCapacity = std::size_t{64} << 10;  // of a string

}  // namespace

Stream* StreamPool::get() {
    if (first_ == nullptr) return new Stream;
    --count_;
    Stream& stream = *take_first();
    stream.method = Method::Unknown;
    stream.header_bytes = 0;
    stream.post = stream.grpc_content = stream.compressed = stream.unknown_encoding = false;
    stream.access = Access::NoHeader;
    stream.open_path = stream.complete = stream.answered = stream.parked = false;
    stream.deadline = kNever;
    stream.path.clear();
    stream.body.clear();
    stream.expanded.clear();
    stream.message = {};
    stream.answer.clear();
    stream.sent = 0;
    stream.form = {};
    stream.pending = nullptr;
    stream.python_call = 0;
    stream.previous = stream.next = nullptr;
    return &stream;
}

void StreamPool::put(Stream* stream) noexcept {
    if (count_ == kMostKept || stream->body.capacity() > kKeptCapacity ||
        stream->answer.capacity() > kKeptCapacity || stream->expanded.capacity() > kKeptCapacity) {
        delete stream;
        return;
    }
    stream->next = first_;
    first_ = stream;
    ++count_;
}

}  // namespace tidegate::frontend
