// Slots are handed out once, contiguously, never after the seal and never beyond the limit.
#include <atomic>
#include <vector>

#include "check.hpp"
#include "race.hpp"
#include "tidegate/slab.hpp"

using namespace tidegate;
using tidegate::testing::kRaceRounds;
using tidegate::testing::race;

namespace {

/// A slab with memory and its batches; `open()` makes it take rows.
struct OpenSlab {
    explicit OpenSlab(std::uint32_t capacity) : memory(capacity) {
        slab.attach(capacity, {memory.data()}, this);
    }
    ~OpenSlab() {
        if (batch != nullptr) batch->release();
    }
    void open(std::uint32_t limit) {
        if (batch != nullptr) batch->release();
        batch = new Batch(slab.capacity());
        slab.open(batch, limit);
    }
    std::vector<std::byte> memory;
    Slab slab;
    Batch* batch = nullptr;
};

void test_reservations_are_contiguous_and_bounded() {
    OpenSlab held(8);
    Slab& slab = held.slab;
    std::uint32_t index = 99;
    CHECK_EQUAL(slab.reserve(1, 1, index), 0u);  // not open yet
    held.open(6);
    CHECK_EQUAL(slab.batch(), held.batch);
    CHECK_EQUAL(slab.owner(), static_cast<void*>(&held));
    CHECK_EQUAL(slab.reserve(1, 1, index), 1u);
    CHECK_EQUAL(index, 0u);
    CHECK_EQUAL(slab.reserve(2, 3, index), 3u);
    CHECK_EQUAL(index, 1u);
    CHECK_EQUAL(slab.reserve(3, 3, index), 0u);  // two are left
    CHECK_EQUAL(slab.reserve(1, 9, index), 2u);
    CHECK_EQUAL(index, 4u);
    CHECK_EQUAL(slab.reserve(1, 1, index), 0u);
    slab.limit().store(7);
    CHECK_EQUAL(slab.reserve(1, 9, index), 1u);
    slab.limit().store(2);  // below what is reserved
    CHECK_EQUAL(slab.reserve(1, 1, index), 0u);
    CHECK_EQUAL(slab.reserved(), 7u);
}

void test_the_seal_ends_reserving_and_opening_starts_anew() {
    OpenSlab held(4);
    Slab& slab = held.slab;
    held.open(4);
    const std::uint64_t generation = slab.generation();
    std::uint32_t index = 0;
    CHECK_EQUAL(slab.reserve(1, 3, index), 3u);
    CHECK_EQUAL(slab.seal(), 3u);
    CHECK_EQUAL(slab.reserve(1, 1, index), 0u);
    CHECK_EQUAL(slab.reserved(), 3u);
    CHECK(!slab.all_committed(3));
    slab.commit(1);
    CHECK(!slab.all_committed(3));
    slab.commit(2);
    CHECK(slab.all_committed(3));
    slab.wait_committed(3);
    held.open(4);
    CHECK_EQUAL(slab.generation(), generation + 1);
    CHECK_EQUAL(slab.reserved(), 0u);
    CHECK(slab.all_committed(0));
    CHECK_EQUAL(slab.reserve(4, 4, index), 4u);
    CHECK_EQUAL(index, 0u);
}

void test_deadlines_and_ages_do_not_outlive_their_batch() {
    OpenSlab held(4);
    Slab& slab = held.slab;
    held.open(4);
    slab.oldest().store(7);
    slab.set_deadline(0, 2, 500);
    slab.set_deadline(2, 1, 300);
    slab.set_deadline(3, 1, 400);
    CHECK_EQUAL(slab.earliest_deadline().load(), 300);
    CHECK_EQUAL(slab.deadline(1).load(), 500);
    slab.seal();
    held.open(4);
    CHECK_EQUAL(slab.earliest_deadline().load(), kNever);
    CHECK_EQUAL(slab.oldest().load(), kNever);
    for (std::uint32_t row = 0; row < 4; ++row) CHECK_EQUAL(slab.deadline(row).load(), kNever);
}

void test_memory_can_be_taken_and_replaced() {
    OpenSlab held(2);
    Slab& slab = held.slab;
    CHECK(slab.attached());
    CHECK_EQUAL(slab.detach(), static_cast<void*>(&held));
    CHECK(!slab.attached());
    CHECK(slab.detach() == nullptr);
    std::vector<std::byte> larger(16);
    slab.attach(16, {larger.data()}, &larger);
    CHECK_EQUAL(slab.capacity(), 16u);
    CHECK_EQUAL(slab.column(0), larger.data());
    held.open(16);
    std::uint32_t index = 0;
    CHECK_EQUAL(slab.reserve(16, 16, index), 16u);
    for (std::uint32_t row = 0; row < 16; ++row) {
        slab.submitted(row) = row;
        CHECK_EQUAL(slab.deadline(row).load(), kNever);
    }
}

void test_threads_never_share_a_slot() {
    constexpr std::uint32_t kCapacity = 512;
    constexpr int kRounds = kRaceRounds;
    OpenSlab held(kCapacity);
    std::vector<std::atomic<int>> owners(kCapacity);
    std::uint32_t totals[2] = {};
    const auto grab = [&](int number) {
        std::uint32_t index = 0;
        totals[number] = 0;
        const auto most = static_cast<std::uint32_t>(1 + number);
        while (const std::uint32_t count = held.slab.reserve(1, most, index)) {
            for (std::uint32_t row = index; row < index + count; ++row) {
                CHECK_EQUAL(owners[row].exchange(number + 1), 0);
            }
            totals[number] += count;
            held.slab.commit(count);
        }
    };
    std::uint32_t sealed = 0;
    held.open(kCapacity);
    race(
        kRounds, [&](int) { grab(0); },
        [&](int round) {
            // Sealed somewhere in the middle: what was reserved before stays, nothing comes after.
            if (round % 2 == 0) sealed = held.slab.seal();
            grab(1);
        },
        [&](int round) {
            if (round % 2 != 0) sealed = held.slab.seal();
            held.slab.wait_committed(sealed);
            CHECK_EQUAL(totals[0] + totals[1], sealed);
            for (std::uint32_t row = 0; row < kCapacity; ++row) {
                CHECK_EQUAL(owners[row].exchange(0) != 0, row < sealed);
            }
            held.open(kCapacity);
        });
}

}  // namespace

int main() {
    test_reservations_are_contiguous_and_bounded();
    test_the_seal_ends_reserving_and_opening_starts_anew();
    test_deadlines_and_ages_do_not_outlive_their_batch();
    test_memory_can_be_taken_and_replaced();
    test_threads_never_share_a_slot();
}
