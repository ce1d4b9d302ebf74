// The flight recorder: what became of the last few thousand batches, and when.
//
// A ring that is written when a batch ends, where the engine's mutex is held anyway. Only the end
// of the delivery is not known then; it is added without a lock, by who delivered, to the entry
// that still is the batch's:
//
//   entry   add(n) ──▶ n, being delivered ──delivered(n)──▶ n, delivered ──add(n + capacity)──▶ ...
//                            └──────────add(n + capacity)──▶ n + capacity, being delivered
//
// Memory comes in chunks as batches do, so that a batcher that runs few of them needs little.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tidegate/clock.hpp"
#include "tidegate/types.hpp"

namespace tidegate {

/// One batch that the model was called with.
struct BatchRecord {
    std::uint64_t sequence = ~std::uint64_t{0};  // from 0 on, in the order in which they ended
    Nanos submitted = 0;                         // the oldest of its rows
    Nanos taken = 0;                             // no row joined it after that
    Nanos model_started = 0;
    Nanos model_ended = 0;
    Nanos delivered = kNever;  // when all who waited had been told; kNever: that goes on
    std::uint32_t rows = 0;
    std::uint32_t failed_rows = 0;
    std::uint32_t executor = 0;
    DispatchReason reason = DispatchReason::Idle;
    Outcome outcome = Outcome::None;
    bool led = false;  // run by a waiting caller
};

class Recorder {
  public:
    /// A power of two.
    static constexpr std::size_t kCapacity = 4096;

    Recorder() = default;
    ~Recorder();
    Recorder(const Recorder&) = delete;
    Recorder& operator=(const Recorder&) = delete;

    /// A record with the next sequence number in the place of the oldest, for the caller to fill;
    /// null if there is no memory. \pre one thread at a time: the engine's mutex is held
    BatchRecord* add() noexcept;
    /// Says when the callers of batch `sequence` had been told. Any thread, without a lock, as long
    /// as the recorder is there.
    void delivered(std::uint64_t sequence, Nanos when) noexcept;
    /// The records kept, oldest first, into `into`, which has room for kCapacity; returns how many.
    /// \pre as for add()
    std::size_t copy(BatchRecord* into) const noexcept;

  private:
    static constexpr std::size_t kChunk = 256;

    struct Entry {
        BatchRecord record;
        // Until it is known, what add() put there: see pending().
        std::atomic<Nanos> delivered{0};
    };
    struct Chunk {
        std::array<Entry, kChunk> entries;
    };

    /// No time is negative, and no two sequence numbers have the same one.
    static constexpr Nanos pending(std::uint64_t sequence) noexcept {
        return -static_cast<Nanos>(sequence) - 1;
    }
    Chunk* chunk_of(std::uint64_t sequence) const noexcept {
        // acquire: pairs with add(), which made its entries.
        return chunks_[sequence % kCapacity / kChunk].load(std::memory_order_acquire);
    }

    std::uint64_t next_ = 0;  // under the engine's mutex
    // Owned. Stored under the mutex, loaded without it by delivered(); a chunk stays until the end.
    std::array<std::atomic<Chunk*>, kCapacity / kChunk> chunks_{};
};

}  // namespace tidegate
