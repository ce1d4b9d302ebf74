// Closing the holes that cancelled rows leave in a batch.
#pragma once

#include <cstdint>
#include <vector>

#include "tidegate/types.hpp"

namespace tidegate {

/// Moves rows of a claimed batch so that the live ones come first, and tells the batch where they
/// are. `holes` are ascending. \pre all rows are committed
void close_holes(const Taken& taken, const std::vector<std::uint32_t>& holes);

}  // namespace tidegate
