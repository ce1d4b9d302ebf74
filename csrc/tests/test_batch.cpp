// A request ends once, a batch ends once, and nobody who waits for either sleeps through it.
#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "race.hpp"
#include "tidegate/batch.hpp"

using namespace tidegate;
using tidegate::testing::kRaceRounds;
using tidegate::testing::race;

namespace {

const Clock& steady = SteadyClock::instance();

void end(Batch& batch, Outcome outcome = Outcome::Completed, std::int32_t status = 0) {
    CHECK(batch.decide(outcome, status));
    batch.publish();
}

void test_whoever_takes_a_slot_first_decides() {
    Batch* batch = new Batch(5);
    CHECK(batch->slot(0) == SlotState::Queued);
    CHECK(batch->settle(1, SlotState::Cancelled));
    CHECK(!batch->settle(1, SlotState::Expired));
    CHECK(batch->slot(1) == SlotState::Cancelled);
    CHECK(batch->settle(3, SlotState::Expired));
    const std::vector<std::uint32_t> holes = batch->claim(4);
    CHECK_EQUAL(holes.size(), 2u);
    CHECK_EQUAL(holes[0], 1u);
    CHECK_EQUAL(holes[1], 3u);
    CHECK_EQUAL(batch->live(), 2u);
    CHECK(batch->slot(0) == SlotState::Claimed);
    CHECK(!batch->settle(0, SlotState::Cancelled), "the model has it");
    CHECK(batch->slot(4) == SlotState::Queued, "beyond the reserved rows");
    batch->release();
}

void test_rows_can_be_moved() {
    Batch* batch = new Batch(4);
    for (std::uint32_t slot = 0; slot < 4; ++slot) CHECK_EQUAL(batch->row_of(slot), slot);
    batch->move_row(3, 1);
    CHECK_EQUAL(batch->row_of(3), 1u);
    for (std::uint32_t slot = 0; slot < 3; ++slot) CHECK_EQUAL(batch->row_of(slot), slot);
    batch->release();
}

void test_a_batch_ends_once() {
    Batch* batch = new Batch(1);
    CHECK(!batch->done());
    CHECK(batch->outcome() == Outcome::None);
    CHECK(batch->decide(Outcome::Failed, 42));
    CHECK(!batch->decide(Outcome::Completed, 0));
    CHECK(!batch->done(), "decided, not yet published");
    batch->publish();
    CHECK(batch->done());
    CHECK(batch->outcome() == Outcome::Failed);
    CHECK_EQUAL(batch->model_status(), 42);
    batch->release();
}

void test_waiting_without_threads() {
    Batch* batch = new Batch(2);
    CHECK(batch->wait(0, steady.now() - 1, 0, steady) == WaitResult::TimedOut);
    CHECK(batch->wait(0, steady.now() + kMillisecond, 0, steady) == WaitResult::TimedOut);
    CHECK(batch->wait(0, steady.now() - 1, kMillisecond, steady) == WaitResult::TimedOut);
    batch->settle(1, SlotState::Cancelled);
    CHECK(batch->wait(1, kNever, 0, steady) == WaitResult::Settled);
    CHECK(batch->wait(0, steady.now() - 1, 0, steady) == WaitResult::TimedOut);
    CHECK(batch->wait(0xffff'ffff, steady.now() - 1, 0, steady) == WaitResult::TimedOut);
    end(*batch);
    CHECK(batch->wait(0, kNever, 0, steady) == WaitResult::Done);
    CHECK(batch->wait(0xffff'ffff, kNever, kMillisecond, steady) == WaitResult::Done);
    batch->release();
}

/// `wake` against a thread that goes to sleep; a lost wake-up hangs.
template <typename Wake>
void race_with_sleeper(WaitResult expected, Wake wake) {
    constexpr int kRounds = kRaceRounds;
    std::vector<Batch*> batches;
    for (int i = 0; i < kRounds; ++i) batches.push_back(new Batch(2));
    race(
        kRounds, [&](int round) { wake(*batches[static_cast<std::size_t>(round)]); },
        [&](int round) {
            Batch& batch = *batches[static_cast<std::size_t>(round)];
            const Nanos spin = round % 4 == 0 ? 5 * kMicrosecond : 0;
            CHECK(batch.wait(1, kNever, spin, steady) == expected);
        });
    for (Batch* batch : batches) batch->release();
}

void test_no_wake_up_is_lost() {
    race_with_sleeper(WaitResult::Done, [](Batch& batch) { end(batch); });
    race_with_sleeper(WaitResult::Settled, [](Batch& batch) {
        CHECK(batch.settle(1, SlotState::Expired));
        batch.announce_settled();
    });
    race_with_sleeper(WaitResult::Settled, [](Batch& batch) {
        CHECK(batch.settle(1, SlotState::Cancelled));
        batch.wake_sleepers();
    });
    race_with_sleeper(WaitResult::Done, [](Batch& batch) {
        // A neighbour's end wakes, but is not ours.
        CHECK(batch.settle(0, SlotState::Cancelled));
        batch.announce_settled();
        end(batch);
    });
}

void test_all_sleepers_wake() {
    for (int round = 0; round < 100; ++round) {
        Batch* batch = new Batch(4);
        std::vector<std::thread> sleepers;
        for (std::uint32_t index = 0; index < 4; ++index) {
            sleepers.emplace_back([batch, index] {
                CHECK(batch->wait(index, kNever, 0, steady) == WaitResult::Done);
                CHECK(batch->outcome() == Outcome::Completed);
            });
        }
        end(*batch);
        for (std::thread& sleeper : sleepers) sleeper.join();
        batch->release();
    }
}

void test_settle_and_claim_agree() {
    constexpr std::uint32_t kSlots = 8;
    constexpr int kRounds = kRaceRounds;
    std::vector<Batch*> batches;
    for (int i = 0; i < kRounds; ++i) batches.push_back(new Batch(kSlots));
    std::uint32_t cancelled = 0;
    std::uint32_t claimed = 0;
    race(
        kRounds,
        [&](int round) {
            cancelled = 0;
            for (std::uint32_t index = kSlots; index-- > 0;) {
                cancelled +=
                    batches[static_cast<std::size_t>(round)]->settle(index, SlotState::Cancelled);
            }
        },
        [&](int round) {
            Batch& batch = *batches[static_cast<std::size_t>(round)];
            claimed = kSlots - static_cast<std::uint32_t>(batch.claim(kSlots).size());
            CHECK_EQUAL(batch.live(), claimed);
        },
        [&](int) { CHECK_EQUAL(cancelled + claimed, kSlots); });
    for (Batch* batch : batches) batch->release();
}

void test_deciding_is_exclusive() {
    constexpr int kRounds = kRaceRounds;
    std::vector<Batch*> batches;
    for (int i = 0; i < kRounds; ++i) batches.push_back(new Batch(1));
    bool left = false;
    bool right = false;
    race(
        kRounds,
        [&](int round) {
            left = batches[static_cast<std::size_t>(round)]->decide(Outcome::Completed, 1);
        },
        [&](int round) {
            right = batches[static_cast<std::size_t>(round)]->decide(Outcome::Abandoned, 2);
        },
        [&](int round) {
            Batch& batch = *batches[static_cast<std::size_t>(round)];
            CHECK(left != right);
            CHECK(batch.outcome() == (left ? Outcome::Completed : Outcome::Abandoned));
            CHECK_EQUAL(batch.model_status(), left ? 1 : 2);
        });
    for (Batch* batch : batches) batch->release();
}

}  // namespace

int main() {
    test_whoever_takes_a_slot_first_decides();
    test_rows_can_be_moved();
    test_a_batch_ends_once();
    test_waiting_without_threads();
    test_no_wake_up_is_lost();
    test_all_sleepers_wake();
    test_settle_and_claim_agree();
    test_deciding_is_exclusive();
}
