// A policy that changes while rows wait applies to them, and loses none.
#include <chrono>
#include <thread>
#include <vector>

#include "check.hpp"
#include "rig.hpp"

using namespace tidegate;
using tidegate::testing::Memory;
using tidegate::testing::Request;
using tidegate::testing::Rig;
using tidegate::testing::Waiter;
using Rows = std::vector<std::uint64_t>;

namespace {

void test_larger_batches() {
    Rig rig(Policy{.max_batch_size = 2});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (std::uint64_t value = 0; value < 3; ++value) rig.submit(value);
    rig.engine.set_policy(Policy{.max_batch_size = 4});
    for (std::uint64_t value = 3; value < 9; ++value) rig.submit(value);
    // The open buffer had room for two; what comes after it fills larger ones.
    CHECK(rig.run(executor) == (Rows{0, 1}));
    CHECK(rig.run(executor) == (Rows{2, 3}));
    CHECK(rig.run(executor) == (Rows{4, 5, 6, 7}));
    CHECK(rig.run(executor) == Rows{8});
    rig.check_counters();
}

void test_smaller_batches() {
    Rig rig(Policy{.max_batch_size = 8});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (std::uint64_t value = 0; value < 5; ++value) rig.submit(value);
    rig.engine.set_policy(Policy{.max_batch_size = 2});
    for (std::uint64_t value = 5; value < 8; ++value) rig.submit(value);
    CHECK(rig.run(executor) == (Rows{0, 1, 2, 3, 4}));
    CHECK(rig.run(executor) == (Rows{5, 6}));
    CHECK(rig.run(executor) == Rows{7});
    rig.check_counters();
}

void test_a_batch_that_has_become_full_goes() {
    Rig rig(Policy{.max_batch_size = 8, .max_queue_delay = kMillisecond});
    Waiter waiter(rig.engine);
    for (std::uint64_t value = 0; value < 3; ++value) rig.submit(value);
    CHECK(waiter.state() == ExecutorState::Idle);
    rig.engine.set_policy(Policy{.max_batch_size = 3, .max_queue_delay = kMillisecond});
    CHECK(waiter.status() == Status::Ok);
    Taken taken = rig.take(waiter.executor);
    CHECK(taken.reason == DispatchReason::Full);
    CHECK_EQUAL(rig.finish(waiter.executor, taken).size(), 3u);
}

void test_a_shorter_queue_refuses_until_it_is_short_enough() {
    Rig rig(Policy{.max_batch_size = 2, .max_queue_size = 8});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (std::uint64_t value = 0; value < 7; ++value) rig.submit(value);
    rig.engine.set_policy(Policy{.max_batch_size = 2, .max_queue_size = 4});
    Request request;
    for (int batch = 0; batch < 2; ++batch) {
        CHECK(rig.try_submit(9, request) == Status::QueueFull);
        rig.run(executor);
    }
    CHECK_EQUAL(rig.engine.statistics().queue_depth, 3u);
    CHECK(rig.try_submit(9, request) == Status::Ok);
    CHECK(rig.try_submit(9, request) == Status::QueueFull);
    rig.engine.set_policy(Policy{.max_batch_size = 2, .max_queue_size = 5});
    CHECK(rig.try_submit(9, request) == Status::Ok);
    CHECK(rig.try_submit(9, request) == Status::QueueFull);
    rig.check_counters();
}

void test_a_shorter_delay_that_is_up_dispatches_at_once() {
    Rig rig(Policy{.max_queue_delay = 10 * kMillisecond});
    Waiter waiter(rig.engine);
    rig.submit(1);
    rig.clock.advance(3 * kMillisecond);
    rig.engine.set_policy(Policy{.max_queue_delay = 4 * kMillisecond});
    CHECK(waiter.state() == ExecutorState::Idle);
    rig.engine.set_policy(Policy{.max_queue_delay = 3 * kMillisecond});
    CHECK(waiter.status() == Status::Ok);
    CHECK_EQUAL(rig.run(waiter.executor).size(), 1u);
}

/// With the real clock and timer: would wait for an hour if the timer kept the old instant.
void test_a_shorter_delay_is_kept_by_the_timer() {
    Engine engine(Policy{.max_queue_delay = 3'600'000 * kMillisecond});
    Lane& lane = engine.add_lane({8});
    Memory memory;
    memory.give(engine, lane, engine.max_batch_size());
    Waiter waiter(engine);
    Reservation reservation;
    CHECK(engine.reserve(lane, 1, 1, kNever, reservation) == Status::Ok);
    engine.commit(lane, reservation);
    // By now the timer sleeps until the old instant.
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    engine.set_policy(Policy{.max_queue_delay = 60 * kMillisecond});
    CHECK(waiter.status() == Status::Ok);
    Taken taken;
    CHECK(engine.seal(waiter.executor, taken) == Status::Ok);
    CHECK_EQUAL(engine.claim(taken), 1u);
    engine.finish(waiter.executor, taken, Outcome::Completed, 0, 0);
    for (void* owner : engine.detach_all()) memory.let_go(owner);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_larger_batches();
    test_smaller_batches();
    test_a_batch_that_has_become_full_goes();
    test_a_shorter_queue_refuses_until_it_is_short_enough();
    test_a_shorter_delay_that_is_up_dispatches_at_once();
    test_a_shorter_delay_is_kept_by_the_timer();
}
