// However an engine ends, each of its requests ends once, and its executors are told to stop.
#include <set>
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

void test_draining_serves_what_waits() {
    Rig rig(Policy{.max_batch_size = 4, .max_queue_delay = kMillisecond});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    CHECK(rig.engine.accepting());
    for (std::uint64_t value = 0; value < 6; ++value) rig.submit(value);
    rig.engine.close(/*drain=*/true);
    CHECK(!rig.engine.accepting());
    Request request;
    CHECK(rig.try_submit(6, request) == Status::Closed);
    CHECK(!rig.engine.wait_drained(0));
    CHECK(rig.run(executor) == (Rows{0, 1, 2, 3}));
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok, "no delay is waited for");
    CHECK(taken.reason == DispatchReason::Drain);
    CHECK(!rig.engine.wait_drained(0), "one runs");
    CHECK(rig.finish(executor, taken) == (Rows{4, 5}));
    CHECK(rig.engine.wait_drained(0));
    CHECK_EQUAL(rig.engine.statistics().completed, 6u);
    rig.check_counters();
}

void test_not_draining_refuses_what_waits() {
    Rig rig(Policy{.max_batch_size = 4});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    std::vector<Request> requests;
    std::set<void*> tenants;
    for (std::uint64_t value = 0; value < 10; ++value) {
        requests.push_back(rig.submit(value));
        requests.back().batch->tenant = requests.back().batch;
        tenants.insert(requests.back().batch);
    }
    CHECK(rig.engine.settle(*requests[5].batch, requests[5].index, SlotState::Cancelled));
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
    rig.engine.close(/*drain=*/false);
    CHECK(!rig.engine.wait_drained(0), "the running batch runs on");
    for (std::size_t i = 4; i < 10; ++i) {
        CHECK(requests[i].state() == (i == 5 ? SlotState::Cancelled : SlotState::Refused));
        CHECK(requests[i].batch->done());
        CHECK(requests[i].batch->outcome() == Outcome::Abandoned);
        CHECK(!rig.engine.settle(*requests[i].batch, requests[i].index, SlotState::Cancelled));
    }
    CHECK(rig.finish(executor, taken) == (Rows{0, 1, 2, 3}));
    CHECK(taken.tenant == requests[0].batch);
    tenants.erase(taken.tenant);
    CHECK(rig.engine.wait_drained(0));
    void* orphans[2] = {};
    while (const std::size_t count = rig.engine.take_orphans(orphans, 1)) {
        CHECK_EQUAL(count, 1u);
        CHECK_EQUAL(tenants.erase(orphans[0]), 1u);
    }
    CHECK(tenants.empty(), "each tenant is handed over once");
    const Statistics statistics = rig.engine.statistics();
    CHECK_EQUAL(statistics.completed, 4u);
    CHECK_EQUAL(statistics.closed, 5u);
    CHECK_EQUAL(statistics.cancelled, 1u);
    CHECK_EQUAL(statistics.queue_depth, 0u);
    rig.check_counters();
}

void test_draining_can_turn_into_refusing_but_not_back() {
    Rig rig(Policy{.max_batch_size = 2});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    for (std::uint64_t value = 0; value < 5; ++value) rig.submit(value);
    rig.engine.close(true);
    rig.engine.close(true);
    rig.run(executor);
    rig.engine.close(false);
    rig.engine.close(true);
    rig.engine.close(false);
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing);
    CHECK(rig.engine.wait_drained(0));
    CHECK_EQUAL(rig.engine.statistics().closed, 3u);
    rig.check_counters();
}

void test_an_empty_engine_closes() {
    Rig rig(Policy{.max_batch_size = 2});
    Reservation reservation;
    CHECK(rig.reserve(3, 3, kNever, reservation) == Status::QueueFull);  // leaves a buffer open
    rig.engine.close(true);
    CHECK(rig.engine.wait_drained(0));
    CHECK(rig.reserve(1, 1, kNever, reservation) == Status::Closed);
}

void test_executors_are_told() {
    Rig rig(Policy{.max_batch_size = 1, .max_queue_size = 8});
    for (std::uint64_t value = 0; value < 2; ++value) rig.submit(value);
    Waiter busy(rig.engine);
    CHECK(busy.status() == Status::Ok);
    rig.engine.close(true);
    // The second row is still there for whoever asks next, and nothing after it.
    CHECK(rig.run(busy.executor) == Rows{0});
    CHECK(rig.engine.await_work(busy.executor) == Status::Ok);
    CHECK(rig.run(busy.executor) == Rows{1});
    CHECK(rig.engine.await_work(busy.executor) == Status::Stop);
    CHECK(rig.engine.statistics().executors[0].state == ExecutorState::Gone);
}

void test_sleeping_executors_stop() {
    for (const bool drain : {true, false}) {
        Rig rig(Policy{});
        Waiter first(rig.engine);
        Waiter second(rig.engine);
        CHECK(second.state() == ExecutorState::Idle);
        rig.engine.close(drain);
        CHECK(first.status() == Status::Stop);
        CHECK(second.status() == Status::Stop);
    }
}

void test_work_that_was_refused_under_way_is_nothing() {
    Rig rig(Policy{});
    Waiter waiter(rig.engine);
    rig.submit(1);
    CHECK(waiter.status() == Status::Ok);
    rig.engine.close(false);
    Taken taken;
    CHECK(rig.engine.seal(waiter.executor, taken) == Status::Nothing);
    CHECK(rig.engine.await_work(waiter.executor) == Status::Stop);
}

void test_running_batches_can_be_abandoned() {
    for (const bool claimed : {true, false}) {
        Rig rig(Policy{});
        Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
        const Request kept = rig.submit(1);
        const Request cancelled = rig.submit(2);
        CHECK(rig.engine.settle(*cancelled.batch, cancelled.index, SlotState::Cancelled));
        Taken taken;
        CHECK(rig.engine.try_take(executor, taken) == Status::Ok);
        if (claimed) CHECK_EQUAL(rig.engine.claim(taken), 1u);
        rig.engine.close(false);
        rig.engine.abandon_running();
        rig.engine.abandon_running();
        CHECK(kept.batch->done());
        CHECK(kept.batch->outcome() == Outcome::Abandoned);
        CHECK(kept.state() == (claimed ? SlotState::Claimed : SlotState::Refused));
        CHECK(cancelled.state() == SlotState::Cancelled);
        CHECK_EQUAL(rig.engine.statistics().closed, 1u);
        // The model comes back after all; nobody waits for it any more.
        if (!claimed) CHECK_EQUAL(rig.engine.claim(taken), 0u);
        rig.engine.finish(executor, taken, Outcome::Completed, 0, 0);
        CHECK(kept.batch->outcome() == Outcome::Abandoned);
        CHECK_EQUAL(rig.engine.statistics().completed, 0u);
        CHECK(rig.engine.wait_drained(0));
        rig.check_counters();
    }
}

void test_whoever_waited_for_the_drain_finds_everything_ended() {
    constexpr int kRounds = 2'000;
    struct Round {
        Rig rig{Policy{}};
        Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
        Request request = rig.submit(1);
        Taken taken;
    };
    std::vector<std::unique_ptr<Round>> rounds;
    for (int i = 0; i < kRounds; ++i) {
        rounds.push_back(std::make_unique<Round>());
        rounds.back()->taken = rounds.back()->rig.take(rounds.back()->executor);
        rounds.back()->rig.engine.claim(rounds.back()->taken);
    }
    race(
        kRounds,
        [&](int i) {
            Round& round = *rounds[static_cast<std::size_t>(i)];
            round.rig.engine.finish(round.executor, round.taken, Outcome::Completed, 0, 0);
        },
        [&](int i) {
            Round& round = *rounds[static_cast<std::size_t>(i)];
            round.rig.engine.close(true);
            CHECK(round.rig.engine.wait_drained(kNever));
            CHECK(round.request.batch->done());
            CHECK_EQUAL(round.rig.engine.statistics().completed, 1u);
        });
}

void test_nothing_works_after_a_fork_but_nothing_hangs() {
    Rig rig(Policy{});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    const Request request = rig.submit(1);
    rig.engine.mark_forked();
    CHECK(rig.engine.forked());
    Reservation reservation;
    CHECK(rig.engine.reserve(rig.lane, 1, 1, kNever, reservation) == Status::Forked);
    CHECK(rig.engine.has_room(rig.lane, 1'000'000), "so that reserve() says what is wrong");
    rig.engine.close(false);
    rig.engine.abandon_running();
    CHECK(!request.batch->done());
    CHECK_EQUAL(rig.engine.statistics().submitted, 1u);
    Taken taken;
    CHECK(rig.engine.try_take(executor, taken) == Status::Nothing);
    request.batch->release();  // the engine's reference, which the child leaks
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_draining_serves_what_waits();
    test_not_draining_refuses_what_waits();
    test_draining_can_turn_into_refusing_but_not_back();
    test_an_empty_engine_closes();
    test_executors_are_told();
    test_sleeping_executors_stop();
    test_work_that_was_refused_under_way_is_nothing();
    test_running_batches_can_be_abandoned();
    test_whoever_waited_for_the_drain_finds_everything_ended();
    test_nothing_works_after_a_fork_but_nothing_hangs();
}
