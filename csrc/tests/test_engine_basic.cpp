// Rows form batches that are taken in order, run once, and counted.
#include <vector>

#include "check.hpp"
#include "race.hpp"
#include "rig.hpp"

using namespace tidegate;
using tidegate::testing::race;
using tidegate::testing::Request;
using tidegate::testing::Rig;
using tidegate::testing::Waiter;
using Rows = std::vector<std::uint64_t>;

namespace {

void test_a_lone_row() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing);
    const Request request = rig.submit(7);
    CHECK(request.state() == SlotState::Queued);
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
    CHECK(taken.batch == request.batch);
    CHECK(taken.owner == taken.slab->owner() && taken.owner != nullptr);
    CHECK(taken.reason == DispatchReason::Idle);
    CHECK_EQUAL(taken.reserved, 1u);
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing, "it is busy");
    CHECK(rig.finish(executor, taken) == Rows{7});
    CHECK(!rig.engine.give_back(executor), "nothing more waits for it");
    CHECK(request.state() == SlotState::Claimed);
    CHECK(request.batch->done());
    CHECK(request.batch->outcome() == Outcome::Completed);
    rig.submit(8);
    CHECK(rig.engine.give_back(executor), "something does");
    CHECK(rig.run(executor) == Rows{8});
    CHECK_EQUAL(rig.engine.statistics().completed, 2u);
    rig.check_counters();
}

void test_full_batches_go_first_and_in_order() {
    Rig rig(Policy{.max_batch_size = 4});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (std::uint64_t value = 0; value < 10; ++value) rig.submit(value);
    CHECK_EQUAL(rig.engine.statistics().queue_depth, 10u);
    CHECK(rig.run(executor) == (Rows{0, 1, 2, 3}));
    CHECK(rig.run(executor) == (Rows{4, 5, 6, 7}));
    rig.submit(10);  // the open batch takes rows until an executor takes it
    CHECK(rig.run(executor) == (Rows{8, 9, 10}));
    const Statistics statistics = rig.engine.statistics();
    const auto reasons = [&](DispatchReason reason) {
        return statistics.dispatched[static_cast<std::size_t>(reason)];
    };
    CHECK_EQUAL(reasons(DispatchReason::Full), 2u);
    CHECK_EQUAL(reasons(DispatchReason::Idle), 1u);
    CHECK_EQUAL(statistics.batches, 3u);
    CHECK_EQUAL(statistics.rows, 11u);
    CHECK_EQUAL(statistics.queue_depth, 0u);
    rig.check_counters();
}

void test_the_queue_delay_holds_a_short_batch_back() {
    Rig rig(Policy{.max_batch_size = 3, .max_queue_delay = kMillisecond});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    Taken taken;
    rig.submit(1);
    rig.clock.advance(kMillisecond / 2);
    rig.submit(2);
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing);
    rig.clock.advance(kMillisecond / 2);  // since the oldest row
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
    CHECK(taken.reason == DispatchReason::Delay);
    CHECK(rig.finish(executor, taken) == (Rows{1, 2}));
    for (std::uint64_t value = 3; value < 6; ++value) rig.submit(value);
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok, "a full batch waits for nothing");
    CHECK(taken.reason == DispatchReason::Full);
    rig.finish(executor, taken);
    rig.check_counters();
}

void test_bulk_requests_are_cut_at_batches() {
    Rig rig(Policy{.max_batch_size = 4});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    rig.submit(0);
    std::vector<std::uint32_t> counts;
    for (std::uint32_t left = 9; left > 0;) {
        Reservation reservation;
        CHECK(rig.reserve(1, left, kNever, reservation) == Status::Ok);
        for (std::uint32_t row = 0; row < reservation.count; ++row) {
            Reservation one = reservation;
            one.index += row;
            rig.keep(one, 10 - left + row);
        }
        rig.engine.commit(rig.lane, reservation);
        counts.push_back(reservation.count);
        left -= reservation.count;
    }
    CHECK(counts == (std::vector<std::uint32_t>{3, 4, 2}));
    CHECK(rig.run(executor) == (Rows{0, 1, 2, 3}));
    // Rows that must stay together do not fit behind the two that wait, so those go first.
    Reservation together;
    CHECK(rig.reserve(4, 4, kNever, together) == Status::Ok);
    CHECK_EQUAL(together.index, 0u);
    for (std::uint32_t row = 0; row < 4; ++row) {
        Reservation one = together;
        one.index += row;
        rig.keep(one, 20 + row);
    }
    rig.engine.commit(rig.lane, together);
    CHECK(rig.run(executor) == (Rows{4, 5, 6, 7}));
    CHECK(rig.run(executor) == (Rows{8, 9}));
    CHECK(rig.run(executor) == (Rows{20, 21, 22, 23}));
    rig.check_counters();
}

void test_every_way_to_end_is_counted_once() {
    Rig rig(Policy{.max_batch_size = 4});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    std::vector<Request> requests;
    for (std::uint64_t value = 0; value < 8; ++value) requests.push_back(rig.submit(value));
    CHECK(rig.engine.settle(*requests[1].batch, requests[1].index, SlotState::Cancelled));
    CHECK(!rig.engine.settle(*requests[1].batch, requests[1].index, SlotState::Cancelled));
    CHECK(rig.engine.settle(*requests[2].batch, requests[2].index, SlotState::Expired));
    CHECK_EQUAL(rig.engine.statistics().queue_depth, 6u);
    rig.check_counters();
    Taken taken = rig.take(executor);
    CHECK_EQUAL(rig.finish(executor, taken, Outcome::Completed, 1).size(), 2u);
    CHECK(!rig.engine.settle(*requests[0].batch, requests[0].index, SlotState::Cancelled));
    CHECK_EQUAL(rig.run(executor, Outcome::Failed).size(), 4u);
    const Statistics statistics = rig.engine.statistics();
    CHECK_EQUAL(statistics.completed, 1u);
    CHECK_EQUAL(statistics.failed, 5u);
    CHECK_EQUAL(statistics.cancelled, 1u);
    CHECK_EQUAL(statistics.expired, 1u);
    CHECK_EQUAL(statistics.rows, 6u);
    rig.check_counters();
}

void test_a_batch_that_nobody_wants_is_no_batch() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    const Request request = rig.submit(1);
    CHECK(rig.engine.settle(*request.batch, request.index, SlotState::Cancelled));
    CHECK(rig.run(executor).empty());
    CHECK(request.batch->done());
    CHECK(request.state() == SlotState::Cancelled);
    CHECK_EQUAL(rig.engine.statistics().batches, 0u);
    CHECK_EQUAL(rig.engine.statistics().rows, 0u);
    rig.check_counters();
}

void test_cancelling_wakes_who_waits_for_the_request() {
    Rig rig(Policy{});  // without an executor: nothing else can wake
    constexpr int kRounds = 500;
    std::vector<Request> requests;
    for (int i = 0; i < kRounds; ++i) requests.push_back(rig.submit(1));
    race(
        kRounds,
        [&](int round) {
            const Request& request = requests[static_cast<std::size_t>(round)];
            CHECK(rig.engine.settle(*request.batch, request.index, SlotState::Cancelled));
        },
        [&](int round) {
            const Request& request = requests[static_cast<std::size_t>(round)];
            CHECK(request.batch->wait(request.index, kNever, 0, SteadyClock::instance()) ==
                  WaitResult::Settled);
        });
    rig.check_counters();
}

void test_times_are_measured_from_submission() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    rig.submit(1);
    rig.clock.advance(100);
    rig.submit(2);
    rig.clock.advance(1'000);
    Taken taken = rig.take(executor);
    rig.clock.advance(2'000'000'000);
    CHECK(rig.engine.statistics().executors[0].busy_for == 2.0);
    CHECK(rig.engine.statistics().executors[0].state == ExecutorState::Busy);
    rig.finish(executor, taken);
    const Statistics statistics = rig.engine.statistics();
    CHECK_EQUAL(statistics.queue_duration.sum, 2'100u);
    CHECK_EQUAL(statistics.request_duration.sum, 4'000'002'100u);
    CHECK_EQUAL(statistics.batch_duration.sum, 2'000'000'000u);
    CHECK_EQUAL(statistics.batch_size.sum, 2u);
    CHECK(statistics.executors[0].busy_for == 0.0);
    CHECK(statistics.executors[0].state == ExecutorState::Idle);
}

void test_idle_time_is_no_service_time() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (int batch = 0; batch < 2; ++batch) {
        rig.clock.advance(1'000 * kMillisecond);
        rig.submit(1);
        Taken taken = rig.take(executor);
        rig.clock.advance(kMicrosecond);
        rig.finish(executor, taken);
        CHECK(rig.engine.waits_are_short());
    }
    rig.submit(1);
    Taken taken = rig.take(executor);
    rig.clock.advance(kMillisecond);
    rig.finish(executor, taken);
    CHECK(!rig.engine.waits_are_short());
}

void test_the_oldest_lane_goes_first() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    Lane& other = rig.engine.add_lane({1});
    rig.memory.give(rig.engine, other, rig.engine.max_batch_size());
    Reservation reservation;
    CHECK(rig.engine.reserve(other, 1, 1, kNever, reservation) == Status::Ok);
    rig.engine.commit(other, reservation);
    rig.clock.advance(1);
    rig.submit(1);
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
    CHECK(taken.lane == &other);
    CHECK_EQUAL(rig.engine.claim(taken), 1u);
    rig.engine.finish(executor, taken, Outcome::Completed, 0, 0);
    rig.engine.give_back(executor);
    CHECK(rig.run(executor) == Rows{1});
}

void test_a_batch_may_be_left_to_another_executor() {
    Rig rig(Policy{.caller_runs = false});
    Waiter first(rig.engine);
    Waiter second(rig.engine);
    rig.submit(7);
    CHECK(first.status() == Status::Ok);
    CHECK(second.state() == ExecutorState::Idle);
    rig.engine.decline(first.executor);
    CHECK(second.status() == Status::Ok);
    CHECK(rig.run(second.executor) == Rows{7});
    rig.submit(8);
    rig.submit(9);
    CHECK(rig.engine.await_work(first.executor) == Status::Ok, "it may come back");
    rig.engine.decline(first.executor);
    CHECK(rig.engine.await_work(second.executor) == Status::Ok, "nobody slept, so nobody was told");
    CHECK((rig.run(second.executor) == Rows{8, 9}));
    rig.engine.close(true);
    rig.check_counters();
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_a_lone_row();
    test_full_batches_go_first_and_in_order();
    test_the_queue_delay_holds_a_short_batch_back();
    test_bulk_requests_are_cut_at_batches();
    test_every_way_to_end_is_counted_once();
    test_a_batch_that_nobody_wants_is_no_batch();
    test_cancelling_wakes_who_waits_for_the_request();
    test_times_are_measured_from_submission();
    test_idle_time_is_no_service_time();
    test_the_oldest_lane_goes_first();
    test_a_batch_may_be_left_to_another_executor();
}
