// Requests that may share a batch: one row layout, one open slab, the full ones behind it.
//
// Most lanes have rows of one size, which are reserved lock-free. A weighed lane has rows that take
// up more than a place: tokens of a staging buffer, cost of a batch, room in a queue that several
// lanes share. Its rows are reserved under the engine's mutex.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "tidegate/slab.hpp"

namespace tidegate {

/// A plain record; every field but `open` and `row_bytes` is under the engine's mutex.
struct Lane {
    explicit Lane(std::vector<std::size_t> bytes) : row_bytes(std::move(bytes)) {}
    Lane(std::vector<std::size_t> bytes, std::vector<bool> columns_ragged)
        : row_bytes(std::move(bytes)), ragged(std::move(columns_ragged)), weighed(true) {}

    /// Bytes of one row in each column, or of one token if it is ragged; fixed for the lane's life.
    const std::vector<std::size_t> row_bytes;
    /// Which columns are ragged, of a weighed lane.
    const std::vector<bool> ragged;
    /// Whether rows are reserved with reserve_weighed() instead of reserve().
    const bool weighed = false;
    /// The slab that takes rows now, or null. Loaded without the mutex by reserve().
    std::atomic<Slab*> open{nullptr};
    /// Full slabs in order of sealing.
    std::deque<Slab*> ready;
    std::uint64_t ready_rows = 0;
    /// Slabs with memory that wait to be opened; the last used is the first reused.
    std::vector<Slab*> free;
    /// Slabs without memory.
    std::vector<Slab*> bare;
    std::vector<std::unique_ptr<Slab>> slabs;
    /// Tokens that a slab must have room for to be opened: what was last asked for.
    std::uint32_t token_capacity = 0;
    /// Batches of other lanes that went before this one although its oldest row was the oldest.
    std::uint32_t passed_over = 0;

    std::uint64_t waiting_rows() const noexcept {
        // acquire: pairs with the engine's open_next().
        const Slab* slab = open.load(std::memory_order_acquire);
        return ready_rows + (slab == nullptr ? 0 : slab->reserved());
    }
};

}  // namespace tidegate
