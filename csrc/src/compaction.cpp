// Compaction: one row into each hole, or if rows are ragged all behind the first hole closer.
#include "tidegate/compaction.hpp"

#include <cstring>

#include "tidegate/batch.hpp"
#include "tidegate/lane.hpp"
#include "tidegate/slab.hpp"

namespace tidegate {

namespace {

/// The last live row moves into the first hole, and so on; holes at the end just fall off.
void fill_holes(const Taken& taken, const std::vector<std::uint32_t>& holes) {
    std::uint32_t last = taken.reserved;
    std::size_t end = holes.size();
    for (std::size_t next = 0; next < end;) {
        --last;
        if (holes[end - 1] == last) {
            --end;
            continue;
        }
        const std::uint32_t hole = holes[next++];
        for (std::size_t column = 0; column < taken.slab->columns().size(); ++column) {
            const std::size_t bytes = taken.lane->row_bytes[column];
            std::byte* base = taken.slab->column(column);
            std::memcpy(base + hole * bytes, base + last * bytes, bytes);
        }
        taken.batch->move_row(last, hole);
    }
}

/// Rows keep their order, since one does not fit into another's place.
void close_up(const Taken& taken, const std::vector<std::uint32_t>& holes) {
    std::int32_t* const offsets = taken.slab->offsets();
    std::size_t next = 0;
    std::uint32_t place = 0;
    std::int32_t begin = 0;
    for (std::uint32_t row = 0; row < taken.reserved; ++row) {
        // Read before the entry may be written for a row that moved.
        const std::int32_t end = offsets[row + 1];
        if (next < holes.size() && holes[next] == row) {
            ++next;
        } else {
            const std::int32_t target = offsets[place];
            for (std::size_t column = 0; place != row && column < taken.slab->columns().size();
                 ++column) {
                const std::size_t bytes = taken.lane->row_bytes[column];
                std::byte* base = taken.slab->column(column);
                if (taken.lane->ragged[column]) {
                    std::memmove(base + static_cast<std::size_t>(target) * bytes,
                                 base + static_cast<std::size_t>(begin) * bytes,
                                 static_cast<std::size_t>(end - begin) * bytes);
                } else {
                    std::memcpy(base + place * bytes, base + row * bytes, bytes);
                }
            }
            if (place != row) taken.batch->move_row(row, place);
            offsets[++place] = target + (end - begin);
        }
        begin = end;
    }
}

}  // namespace

void close_holes(const Taken& taken, const std::vector<std::uint32_t>& holes) {
    if (taken.slab->offsets() == nullptr) {
        fill_holes(taken, holes);
    } else {
        close_up(taken, holes);
    }
}

}  // namespace tidegate
