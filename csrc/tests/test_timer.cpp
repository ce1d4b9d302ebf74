// Decisions about time, made by hand with a manual clock; nothing here sleeps.
#include <vector>

#include "check.hpp"
#include "rig.hpp"

using namespace tidegate;
using tidegate::testing::Request;
using tidegate::testing::Rig;
using tidegate::testing::Waiter;

namespace {

/// Runs what the waiter was told about; returns the number of rows.
std::size_t serve(Rig& rig, Waiter& waiter) {
    CHECK(waiter.status() == Status::Ok);
    return rig.run(waiter.executor).size();
}

void test_nothing_to_do_nothing_to_wait_for() {
    Rig rig(Policy{.max_queue_delay = kMillisecond});
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);
    rig.submit(1);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);  // no executor is held back
}

void test_the_delay_counts_from_the_oldest_row() {
    Rig rig(Policy{.max_queue_delay = kMillisecond});
    Waiter waiter(rig.engine);
    const Nanos start = rig.clock.now();
    rig.submit(1);
    rig.clock.advance(kMillisecond - 1);
    rig.submit(2);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), start + kMillisecond);
    CHECK(waiter.state() == ExecutorState::Idle, "too early");
    rig.clock.advance(1);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);
    CHECK_EQUAL(serve(rig, waiter), 2u);
}

void test_each_lane_has_its_own_delay() {
    Rig rig(Policy{.max_queue_delay = kMillisecond}, {8});
    Lane& other = rig.engine.add_lane({8});
    rig.memory.give(rig.engine, other, rig.engine.max_batch_size());
    Waiter first(rig.engine);
    Waiter second(rig.engine);
    rig.submit(1);
    rig.clock.advance(kMillisecond / 2);
    Reservation reservation;
    CHECK(rig.engine.reserve(other, 1, 1, kNever, reservation) == Status::Ok);
    rig.engine.commit(other, reservation);
    const Nanos next = rig.clock.now() + kMillisecond;
    rig.clock.advance(kMillisecond / 2);
    // The first lane is due and is dispatched; the second executor is still held back.
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), next);
    rig.clock.advance(kMillisecond / 2);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);
    CHECK_EQUAL(serve(rig, first), 1u);
    CHECK_EQUAL(serve(rig, second), 1u);
}

void test_a_deadline_ends_a_waiting_request() {
    Rig rig(Policy{});
    const Nanos start = rig.clock.now();
    const Request late = rig.submit(1, start + 300);
    const Request early = rig.submit(2, start + 100);
    const Request patient = rig.submit(3);
    CHECK_EQUAL(rig.engine.on_timer(start), start + 100);
    rig.clock.advance(99);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), start + 100);
    CHECK(early.state() == SlotState::Queued);
    rig.clock.advance(1);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), start + 300);
    CHECK(early.state() == SlotState::Expired);
    CHECK(late.state() == SlotState::Queued);
    rig.clock.advance(1'000);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);
    CHECK(late.state() == SlotState::Expired);
    CHECK(patient.state() == SlotState::Queued);
    CHECK_EQUAL(rig.engine.statistics().expired, 2u);
    CHECK(late.batch->wait(late.index, kNever, 0, SteadyClock::instance()) == WaitResult::Settled);
    rig.check_counters();
}

void test_deadlines_hold_in_full_batches_too() {
    Rig rig(Policy{.max_batch_size = 2});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    const Nanos deadline = rig.clock.now() + 100;
    std::vector<Request> requests;
    for (std::uint64_t value = 0; value < 5; ++value) {
        requests.push_back(rig.submit(value, value % 2 == 0 ? deadline : kNever));
    }
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), deadline);
    rig.clock.advance(100);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);
    CHECK_EQUAL(rig.engine.statistics().expired, 3u);
    CHECK_EQUAL(rig.run(executor).size(), 1u);
    CHECK_EQUAL(rig.run(executor).size(), 1u);
    CHECK_EQUAL(rig.run(executor).size(), 0u);
    rig.check_counters();
}

void test_a_row_that_is_with_the_model_does_not_expire() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    const Request request = rig.submit(1, rig.clock.now() + 100);
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
    rig.clock.advance(200);
    rig.engine.on_timer(rig.clock.now());
    CHECK(rig.finish(executor, taken).size() == 1u, "it was taken in time");
    CHECK(request.state() == SlotState::Claimed);
    CHECK_EQUAL(rig.engine.statistics().expired, 0u);
}

void test_a_late_timer_lets_no_late_row_through() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    const Request late = rig.submit(1, rig.clock.now() + 100);
    const Request patient = rig.submit(2);
    rig.clock.advance(100);
    CHECK(rig.run(executor) == std::vector<std::uint64_t>{2});
    CHECK(late.state() == SlotState::Expired);
    CHECK(patient.state() == SlotState::Claimed);
    CHECK_EQUAL(rig.engine.statistics().expired, 1u);
    rig.check_counters();
}

void test_a_cancelled_row_has_no_deadline() {
    Rig rig(Policy{});
    const Nanos start = rig.clock.now();
    const Request request = rig.submit(1, start + 100);
    CHECK(rig.engine.settle(*request.batch, request.index, SlotState::Cancelled));
    rig.clock.advance(100);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), kNever);
    CHECK(request.state() == SlotState::Cancelled);
    CHECK_EQUAL(rig.engine.statistics().expired, 0u);
}

void test_the_earlier_of_delay_and_deadline_is_next() {
    Rig rig(Policy{.max_queue_delay = kMillisecond});
    Waiter waiter(rig.engine);
    const Nanos start = rig.clock.now();
    rig.submit(1, start + 2 * kMillisecond);
    CHECK_EQUAL(rig.engine.on_timer(start), start + kMillisecond);
    rig.submit(2, start + kMillisecond / 2);
    CHECK_EQUAL(rig.engine.on_timer(start), start + kMillisecond / 2);
    rig.clock.advance(kMillisecond);
    CHECK_EQUAL(rig.engine.on_timer(rig.clock.now()), start + 2 * kMillisecond);
    CHECK_EQUAL(serve(rig, waiter), 1u);
    rig.check_counters();
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_nothing_to_do_nothing_to_wait_for();
    test_the_delay_counts_from_the_oldest_row();
    test_each_lane_has_its_own_delay();
    test_a_deadline_ends_a_waiting_request();
    test_deadlines_hold_in_full_batches_too();
    test_a_row_that_is_with_the_model_does_not_expire();
    test_a_late_timer_lets_no_late_row_through();
    test_a_cancelled_row_has_no_deadline();
    test_the_earlier_of_delay_and_deadline_is_next();
}
