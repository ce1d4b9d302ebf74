// Rows that were cancelled never reach the model, whichever they are, and all others do.
#include <cstring>
#include <set>
#include <vector>

#include "check.hpp"
#include "rig.hpp"

using namespace tidegate;
using tidegate::testing::Request;
using tidegate::testing::Rig;

namespace {

constexpr std::size_t kOddBytes = 3;

/// What the second column holds for a row.
std::uint8_t odd_byte(std::uint64_t value, std::size_t byte) {
    return static_cast<std::uint8_t>(value * 31 + byte);
}

Request submit(Rig& rig, std::uint64_t value, Nanos deadline) {
    Reservation reservation;
    CHECK(rig.reserve(1, 1, deadline, reservation) == Status::Ok);
    for (std::size_t byte = 0; byte < kOddBytes; ++byte) {
        reservation.slab->column(1)[reservation.index * kOddBytes + byte] =
            std::byte{odd_byte(value, byte)};
    }
    const Request request = rig.keep(reservation, value);
    rig.engine.commit(rig.lane, reservation);
    return request;
}

/// `rows` rows of which those in `holes` (a bit each) end before they are claimed.
void check_pattern(std::uint32_t capacity, std::uint32_t rows, std::uint32_t holes) {
    Rig rig(Policy{.max_batch_size = capacity}, {sizeof(std::uint64_t), kOddBytes});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    const Nanos passed = rig.clock.now() - 1;
    std::vector<Request> requests;
    for (std::uint32_t row = 0; row < rows; ++row) {
        const bool expires = (holes >> row & 1) != 0 && row % 3 == 1;
        requests.push_back(submit(rig, 1000 + row, expires ? passed : kNever));
        if ((holes >> row & 1) != 0 && !expires) {
            const Request& request = requests.back();
            CHECK(rig.engine.settle(*request.batch, request.index, SlotState::Cancelled));
        }
    }
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
    const std::uint32_t live = rig.engine.claim(taken);
    CHECK_EQUAL(live, rows - static_cast<std::uint32_t>(__builtin_popcount(holes)));
    std::set<std::uint32_t> used;
    for (std::uint32_t row = 0; row < rows; ++row) {
        const Request& request = requests[row];
        if ((holes >> row & 1) != 0) {
            CHECK(request.state() == (row % 3 == 1 ? SlotState::Expired : SlotState::Cancelled));
            continue;
        }
        CHECK(request.state() == SlotState::Claimed);
        const std::uint32_t place = request.batch->row_of(request.index);
        CHECK(place < live, "inside of what the model is given");
        CHECK(used.insert(place).second, "nobody else's");
        CHECK_EQUAL(Rig::row(taken, place), request.value);
        for (std::size_t byte = 0; byte < kOddBytes; ++byte) {
            CHECK_EQUAL(std::to_integer<int>(taken.slab->column(1)[place * kOddBytes + byte]),
                        int{odd_byte(request.value, byte)});
        }
    }
    rig.engine.finish(executor, taken, Outcome::Completed, 0, 0);
    rig.engine.give_back(executor);
    CHECK_EQUAL(rig.engine.statistics().completed, live);
    CHECK_EQUAL(rig.engine.statistics().queue_duration.counts[0], live);
    rig.check_counters();
}

}  // namespace

int main() {
    for (std::uint32_t rows = 1; rows <= 9; ++rows) {
        for (std::uint32_t holes = 0; holes < 1u << rows; ++holes) {
            check_pattern(rows, rows, holes);
            if (rows <= 5) check_pattern(rows + 2, rows, holes);
        }
    }
}
