// Requests that may share a batch: one row layout, one open slab, the full ones behind it.
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

    /// Bytes of one row in each column; fixed for the lane's life.
    const std::vector<std::size_t> row_bytes;
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

    std::uint64_t waiting_rows() const noexcept {
        // acquire: pairs with the engine's open_next().
        const Slab* slab = open.load(std::memory_order_acquire);
        return ready_rows + (slab == nullptr ? 0 : slab->reserved());
    }
};

}  // namespace tidegate
