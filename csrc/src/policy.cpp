// Policy: the ranges of its values.
#include "tidegate/policy.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace tidegate {

void Policy::validate() const {
    if (max_batch_size < 1 || max_batch_size > kMaxBatchSize) {
        throw std::invalid_argument("max_batch_size must be between 1 and " +
                                    std::to_string(kMaxBatchSize) + ", got " +
                                    std::to_string(max_batch_size));
    }
    if (max_queue_delay < 0) {
        throw std::invalid_argument("max_queue_delay must not be negative, got " +
                                    std::to_string(static_cast<double>(max_queue_delay) * 1e-9));
    }
    if (!(max_batch_cost > 0)) {
        throw std::invalid_argument("max_batch_cost must be above 0, got " +
                                    std::to_string(max_batch_cost));
    }
}

std::uint64_t Policy::queue_rows() const noexcept {
    if (max_queue_size != 0) return max_queue_size;
    return std::max<std::uint64_t>(1024, std::uint64_t{32} * max_batch_size);
}

}  // namespace tidegate
