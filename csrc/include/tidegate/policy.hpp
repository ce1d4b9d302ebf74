// What a user sets about batching: validated values, printable, changeable while running.
#pragma once

#include <cstdint>
#include <limits>

#include "tidegate/clock.hpp"

namespace tidegate {

struct Policy {
    std::uint32_t max_batch_size = 64;
    /// The longest that an idle executor is held back, from the oldest row's submission.
    Nanos max_queue_delay = 0;
    /// Rows that may wait; 0 picks max(1024, 32 * max_batch_size).
    std::uint64_t max_queue_size = 0;
    /// A waiting caller may run a batch itself when an executor is idle.
    bool caller_runs = true;
    /// What the requests of a batch may cost together, in weighed lanes.
    double max_batch_cost = std::numeric_limits<double>::infinity();

    /// \throws std::invalid_argument naming the value that is out of range.
    void validate() const;
    std::uint64_t queue_rows() const noexcept;
};

inline constexpr std::uint32_t kMaxBatchSize = 1u << 20;

}  // namespace tidegate
