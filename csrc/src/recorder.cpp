// Recorder: writing and reading the ring.
#include "tidegate/recorder.hpp"

#include <new>

namespace tidegate {

Recorder::~Recorder() {
    for (const auto& chunk : chunks_) delete chunk.load(std::memory_order_relaxed);
}

BatchRecord* Recorder::add() noexcept {
    const std::uint64_t sequence = next_++;
    const std::size_t place = sequence % kCapacity;
    Chunk* chunk = chunk_of(sequence);
    if (chunk == nullptr) {
        // Without memory there is no record of these batches, and nothing else is amiss.
        chunk = new (std::nothrow) Chunk;
        if (chunk == nullptr) return nullptr;
        // release: pairs with chunk_of().
        chunks_[place / kChunk].store(chunk, std::memory_order_release);
    }
    Entry& entry = chunk->entries[place % kChunk];
    entry.record.sequence = sequence;
    // Relaxed: the time stands alone, and all else is under the mutex.
    entry.delivered.store(pending(sequence), std::memory_order_relaxed);
    return &entry.record;
}

void Recorder::delivered(std::uint64_t sequence, Nanos when) noexcept {
    Chunk* chunk = chunk_of(sequence);
    if (chunk == nullptr) return;
    // Not if the entry has become that of a later batch meanwhile.
    Nanos expected = pending(sequence);
    chunk->entries[sequence % kChunk].delivered.compare_exchange_strong(expected, when,
                                                                        std::memory_order_relaxed);
}

std::size_t Recorder::copy(BatchRecord* into) const noexcept {
    const std::uint64_t first = next_ > kCapacity ? next_ - kCapacity : 0;
    std::size_t count = 0;
    for (std::uint64_t sequence = first; sequence < next_; ++sequence) {
        const Chunk* chunk = chunk_of(sequence);
        if (chunk == nullptr) continue;
        const Entry& entry = chunk->entries[sequence % kChunk];
        if (entry.record.sequence != sequence) continue;  // there was no memory when it ended
        into[count] = entry.record;
        const Nanos delivered = entry.delivered.load(std::memory_order_relaxed);
        into[count].delivered = delivered == pending(sequence) ? kNever : delivered;
        ++count;
    }
    return count;
}

}  // namespace tidegate
