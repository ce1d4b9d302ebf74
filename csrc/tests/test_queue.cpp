// The queue's bound holds to the row, and memory is asked for, reused and given back.
#include <algorithm>
#include <vector>

#include "check.hpp"
#include "rig.hpp"

using namespace tidegate;
using tidegate::testing::Memory;
using tidegate::testing::Request;
using tidegate::testing::Rig;
using tidegate::testing::Waiter;

namespace {

/// Submits until the queue is full; returns the rows taken.
std::uint64_t fill(Rig& rig) {
    std::uint64_t rows = 0;
    Request request;
    while (rig.try_submit(rows, request) == Status::Ok) ++rows;
    CHECK(rig.try_submit(rows, request) == Status::QueueFull);
    return rows;
}

void test_the_bound_counts_rows() {
    for (std::uint32_t batch = 1; batch <= 5; ++batch) {
        for (std::uint64_t queue = 1; queue <= 12; ++queue) {
            Rig rig(Policy{.max_batch_size = batch, .max_queue_size = queue});
            Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
            CHECK_EQUAL(fill(rig), queue);
            CHECK_EQUAL(rig.engine.statistics().queue_depth, queue);
            CHECK(!rig.engine.has_room(rig.lane, 1));
            // What an executor has taken waits no more.
            const std::size_t taken = rig.run(executor).size();
            CHECK_EQUAL(taken, std::min<std::uint64_t>(batch, queue));
            CHECK(rig.engine.has_room(rig.lane, taken));
            CHECK(!rig.engine.has_room(rig.lane, taken + 1));
            CHECK_EQUAL(fill(rig), taken);
            rig.check_counters();
        }
    }
}

void test_the_bound_cuts_bulk_requests() {
    Rig rig(Policy{.max_batch_size = 8, .max_queue_size = 5});
    rig.submit(1);
    rig.submit(2);
    Reservation reservation;
    CHECK(rig.reserve(4, 8, kNever, reservation) == Status::QueueFull);
    CHECK(rig.reserve(1, 8, kNever, reservation) == Status::Ok);
    CHECK_EQUAL(reservation.count, 3u);
    CHECK_EQUAL(reservation.index, 2u);
    rig.engine.commit(rig.lane, reservation);
}

void test_rows_that_never_fit_leave_nothing_behind() {
    Rig rig(Policy{.max_batch_size = 4});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    Reservation reservation;
    CHECK(rig.reserve(5, 5, kNever, reservation) == Status::QueueFull);
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing);
    CHECK(rig.engine.pending_batch(&rig.lane) == nullptr);
    CHECK(rig.engine.has_room(rig.lane, 1));
    // Once batches are larger, the empty buffer that is open gives way to a larger one.
    rig.engine.set_policy(Policy{.max_batch_size = 6});
    CHECK(rig.reserve(5, 5, kNever, reservation) == Status::Ok);
    CHECK_EQUAL(reservation.index, 0u);
    rig.engine.commit(rig.lane, reservation);
    CHECK_EQUAL(rig.engine.statistics().queue_depth, 5u);
}

void test_buffers_are_asked_for() {
    Rig rig(Policy{.max_batch_size = 2});
    Reservation reservation;
    CHECK(rig.engine.reserve(rig.lane, 1, 1, kNever, reservation) == Status::BufferNeeded);
    CHECK(rig.engine.reserve(rig.lane, 1, 1, kNever, reservation) == Status::BufferNeeded);
    rig.memory.give(rig.engine, rig.lane, 1);  // too small
    CHECK(rig.engine.reserve(rig.lane, 1, 1, kNever, reservation) == Status::BufferNeeded);
    CHECK_EQUAL(rig.memory.size(), 1u);
    rig.memory.give(rig.engine, rig.lane, 2);  // the small one comes back
    CHECK_EQUAL(rig.memory.size(), 1u);
    CHECK(rig.engine.reserve(rig.lane, 1, 1, kNever, reservation) == Status::Ok);
    CHECK_EQUAL(reservation.slab->capacity(), 2u);
    rig.engine.commit(rig.lane, reservation);
}

void test_memory_is_reused_and_bounded() {
    Rig rig(Policy{.max_batch_size = 2, .max_queue_size = 40});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (std::uint64_t value = 0; value < 20; ++value) {
        rig.submit(value);
        rig.run(executor);
    }
    CHECK_EQUAL(rig.memory.size(), 1u);
    fill(rig);
    CHECK_EQUAL(rig.memory.size(), 20u);
    for (int batch = 0; batch < 20; ++batch) rig.run(executor);
    CHECK(rig.memory.size() < 10u, "the peak is not kept");
    rig.check_counters();
}

void test_a_model_may_keep_the_memory() {
    Rig rig(Policy{.max_batch_size = 2});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    rig.submit(1);
    Taken taken = rig.take(executor);
    rig.engine.claim(taken);
    CHECK(rig.engine.keeps_memory(taken));
    void* const owner = taken.slab->detach();
    CHECK(owner == taken.owner);
    rig.engine.finish(executor, taken, Outcome::Completed, 0, 0);
    rig.engine.give_back(executor);
    Reservation reservation;
    CHECK(rig.engine.reserve(rig.lane, 1, 1, kNever, reservation) == Status::BufferNeeded);
    rig.memory.let_go(owner);
}

void test_whom_to_wait_for_when_the_queue_is_full() {
    Rig rig(Policy{.max_batch_size = 2, .max_queue_size = 3});
    Waiter waiter(rig.engine);
    CHECK(rig.engine.pending_batch(&rig.lane) == nullptr);
    const Request first = rig.submit(1);
    Batch* pending = rig.engine.pending_batch(&rig.lane);
    CHECK(pending == first.batch);
    pending->release();
    rig.submit(2);
    rig.submit(3);
    pending = rig.engine.pending_batch(&rig.lane);
    CHECK(pending == first.batch, "the front of the queue");
    CHECK(waiter.status() == Status::Ok);
    rig.run(waiter.executor);
    CHECK(pending->done());
    CHECK(rig.engine.has_room(rig.lane, 1));
    pending->release();
}

void test_whom_to_wait_for_beside_an_inline_executor() {
    Rig rig(Policy{.max_batch_size = 2, .max_queue_size = 3});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    rig.submit(1);
    CHECK(rig.engine.pending_batch(&rig.lane) == nullptr, "the caller can run it");
    Taken taken = rig.take(executor);
    Batch* const pending = rig.engine.pending_batch(&rig.lane);
    CHECK(pending == taken.batch, "somebody else runs it");
    rig.finish(executor, taken);
    CHECK(pending->done());
    pending->release();
    CHECK(rig.engine.pending_batch(&rig.lane) == nullptr);
}

void test_a_batch_that_cannot_grow_is_not_held_back() {
    // The queue is full before the batch is: nothing more can come, so there is nothing to wait
    // for.
    Rig rig(Policy{.max_batch_size = 8, .max_queue_delay = kMillisecond, .max_queue_size = 2});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    Taken taken;
    rig.submit(1);
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing);
    rig.submit(2);
    CHECK_EQUAL(rig.run(executor).size(), 2u);
}

void test_retiring_a_batch_wakes_even_if_memory_is_missing() {
    Rig rig(Policy{.max_batch_size = 4, .max_queue_delay = kMillisecond});
    Waiter waiter(rig.engine);
    for (std::uint64_t value = 0; value < 3; ++value) rig.submit(value);
    CHECK(waiter.state() == ExecutorState::Idle);
    Reservation reservation;
    CHECK(rig.engine.reserve(rig.lane, 2, 2, kNever, reservation) == Status::BufferNeeded);
    CHECK(waiter.status() == Status::Ok);
    CHECK_EQUAL(rig.run(waiter.executor).size(), 3u);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_the_bound_counts_rows();
    test_the_bound_cuts_bulk_requests();
    test_rows_that_never_fit_leave_nothing_behind();
    test_buffers_are_asked_for();
    test_memory_is_reused_and_bounded();
    test_a_model_may_keep_the_memory();
    test_whom_to_wait_for_when_the_queue_is_full();
    test_whom_to_wait_for_beside_an_inline_executor();
    test_a_batch_that_cannot_grow_is_not_held_back();
    test_retiring_a_batch_wakes_even_if_memory_is_missing();
}
