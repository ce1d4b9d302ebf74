// The enums and plain structs that the core and its bindings share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tidegate/clock.hpp"

namespace tidegate {

class Batch;
class Completer;
class Engine;
class Port;
class Slab;
struct Executor;
struct Lane;

enum class Status : std::int32_t {
    Ok,
    QueueFull,     ///< no room for that many rows
    BufferNeeded,  ///< add_buffer() and try again
    Closed,
    Forked,
    Nothing,  ///< somebody else took the work
    Stop,     ///< the executor should end
};

/// Where one request stands; see batch.hpp for the transitions.
enum class SlotState : std::uint8_t { Queued, Claimed, Cancelled, Expired, Refused };

/// How a batch ended, for those of its requests that were claimed.
enum class Outcome : std::uint8_t {
    None,       ///< not yet
    Completed,  ///< the model answered
    Failed,     ///< the model raised, or its answer was refused
    Abandoned,  ///< closed while the model was still running
};

enum class WaitResult : std::uint8_t { Done, Settled, TimedOut, Interrupted };

/// What happened to the batch behind a notice's token.
enum class NoticeKind : std::uint8_t {
    Finished,  ///< the batch is done; the last notice for its token
    Settled,   ///< some waiting requests ended early (deadline, shutdown); more notices follow
    Stop,      ///< the consumer should end
};

struct Notice {
    void* token = nullptr;
    NoticeKind kind = NoticeKind::Finished;
};

/// Why a batch went when it did.
enum class DispatchReason : std::uint8_t {
    Full,   ///< it reached max_batch_size, or its staging buffer's end
    Idle,   ///< an executor was free
    Delay,  ///< the queue delay of its oldest row was up
    Drain,  ///< the engine was closing
    Cost,   ///< the next request would have gone beyond max_batch_cost
};

/// What a request takes up of a batch besides a row.
struct Weight {
    std::uint32_t tokens = 0;  ///< of its ragged arrays
    double cost = 0;           ///< counted against max_batch_cost
    /// Tokens that a batch of such rows should have room for; no fewer than its own count.
    std::uint32_t room = 0;
};

enum class ExecutorKind : std::uint8_t {
    Thread,  ///< a thread that calls await_work(); a waiting caller may take its place
    Native,  ///< the same, but no caller can run its model
    Inline,  ///< whoever submits calls try_take()
    Device,  ///< a thread that starts batches elsewhere, several before the first has ended
};

/// What a Completer calls; both return 0, or what went wrong.
struct DeviceCalls {
    int (*wait)(void* event) = nullptr;
    int (*enter)(void* context) = nullptr;  ///< called once by the waiting thread; may be null
    void* context = nullptr;
};

/// How a batch on a device ended, and when.
struct Ended {
    std::int32_t status = 0;  ///< of DeviceCalls::wait
    Nanos when = 0;
};

/// What ragged rows need besides their columns.
struct TokenMemory {
    std::uint32_t capacity = 0;
    std::int32_t* offsets = nullptr;  ///< room for one more than there are rows
};

/// One output of a batch, for readers without the GIL: plain elements, row after row.
struct OutputView {
    const char* data = nullptr;
    std::size_t row_bytes = 0;
    const std::int64_t* shape = nullptr;  ///< of all axes; the first counts rows
    std::uint32_t axes = 0;
    std::uint32_t item_bytes = 0;
    char kind = 0;  ///< of an element, as NumPy names it: b, i, u, f, V
};

/// Slots that a submitting thread must fill and commit.
struct Reservation {
    Slab* slab = nullptr;
    Batch* batch = nullptr;
    void* owner = nullptr;  // of the slab's memory
    std::uint32_t index = 0;
    std::uint32_t count = 0;
    std::uint32_t first_token = 0;  // of a ragged row
    Nanos submitted = 0;
    Nanos deadline = kNever;
};

/// A batch in the hands of whoever runs it.
struct Taken {
    Lane* lane = nullptr;
    Slab* slab = nullptr;
    Batch* batch = nullptr;
    void* owner = nullptr;   // of the slab's memory
    void* tenant = nullptr;  // the binding's side of the batch, now the taker's
    std::uint32_t reserved = 0;
    DispatchReason reason = DispatchReason::Idle;
    Nanos started = 0;
    Nanos model_started = kNever;  // known once claimed
    Nanos oldest = 0;              // submission of the first row that was claimed
};

}  // namespace tidegate
