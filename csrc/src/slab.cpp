// Slab: what happens once per batch.
#include "tidegate/slab.hpp"

#include <sched.h>

#include <utility>

namespace tidegate {

void Slab::open(Batch* batch, std::uint32_t limit) noexcept {
    batch_ = batch;
    // Relaxed: published by the release store of word_ below.
    if (has_deadlines_.load(std::memory_order_relaxed)) {
        for (std::uint32_t index = 0; index < capacity_; ++index) {
            deadlines_[index].store(kNever, std::memory_order_relaxed);
        }
        has_deadlines_.store(false, std::memory_order_relaxed);
    }
    earliest_deadline_.store(kNever, std::memory_order_relaxed);
    oldest_.store(kNever, std::memory_order_relaxed);
    committed_.store(0, std::memory_order_relaxed);
    weight_ = {};
    sealed_for_cost_ = false;
    if (tokens_.offsets != nullptr) tokens_.offsets[0] = 0;
    limit_.store(limit, std::memory_order_relaxed);
    // release: pairs with reserve().
    word_.store((generation() + 1) << kGenerationShift, std::memory_order_release);
}

void Slab::attach(std::uint32_t capacity, std::vector<std::byte*> columns, void* owner,
                  TokenMemory tokens) {
    if (capacity != capacity_) {
        submitted_ = std::make_unique<Nanos[]>(capacity);
        deadlines_.reset(new std::atomic<Nanos>[capacity]);
        for (std::uint32_t index = 0; index < capacity; ++index) {
            deadlines_[index].store(kNever, std::memory_order_relaxed);
        }
    }
    capacity_ = capacity;
    columns_ = std::move(columns);
    owner_ = owner;
    tokens_ = tokens;
}

void* Slab::detach() noexcept {
    columns_.clear();
    tokens_ = {};
    return std::exchange(owner_, nullptr);
}

void Slab::wait_committed(std::uint32_t reserved) const noexcept {
    while (!all_committed(reserved)) sched_yield();
}

}  // namespace tidegate
