// A waiting caller runs its batch itself when that is quicker, and its executor is never lost.
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

struct Attempt {
    bool led = false;
    Request request;
    Executor* executor = nullptr;
    Taken taken;
};

Attempt attempt(Rig& rig, std::uint64_t value, Nanos deadline = kNever) {
    Attempt attempt;
    Reservation reservation;
    CHECK(rig.reserve(1, 1, deadline, reservation) == Status::Ok);
    attempt.request = rig.keep(reservation, value);
    attempt.led = rig.engine.commit_or_lead(rig.lane, reservation, attempt.executor, attempt.taken);
    return attempt;
}

void test_a_lone_caller_leads() {
    Rig rig(Policy{});
    Waiter waiter(rig.engine);
    for (int round = 0; round < 3; ++round) {
        Attempt leader = attempt(rig, 7);
        CHECK(leader.led);
        CHECK(leader.executor == &waiter.executor);
        CHECK(leader.taken.batch == leader.request.batch);
        CHECK(waiter.state() == ExecutorState::Lent);
        CHECK(rig.finish(*leader.executor, leader.taken) == Rows{7});
        CHECK(leader.request.batch->done());
        rig.engine.give_back(*leader.executor);
        CHECK(waiter.state() == ExecutorState::Idle);
    }
    CHECK_EQUAL(rig.engine.statistics().led, 3u);
    rig.engine.close(true);
    CHECK(waiter.status() == Status::Stop);
    rig.check_counters();
}

void test_who_does_not_lead() {
    {
        Rig rig(Policy{});
        CHECK(!attempt(rig, 1).led, "there is no executor");
    }
    {
        Rig rig(Policy{.caller_runs = false});
        Waiter waiter(rig.engine);
        CHECK(!attempt(rig, 1).led);
        CHECK(waiter.status() == Status::Ok, "the executor is told instead");
    }
    {
        Rig rig(Policy{});
        Waiter waiter(rig.engine);
        CHECK(!attempt(rig, 1, rig.clock.now() + kMillisecond).led,
              "its deadline could not be kept");
        CHECK(waiter.status() == Status::Ok);
    }
    {
        Rig rig(Policy{.max_queue_delay = kMillisecond});
        Waiter waiter(rig.engine);
        CHECK(!attempt(rig, 1).led, "more may come");
        CHECK(waiter.state() == ExecutorState::Idle);
        rig.engine.close(true);
        CHECK(waiter.status() == Status::Ok);
    }
    {
        Rig rig(Policy{});
        Waiter waiter(rig.engine);
        rig.submit(1);
        CHECK(!attempt(rig, 2).led, "the executor is on its way");
        CHECK(waiter.status() == Status::Ok);
        CHECK(rig.run(waiter.executor) == (Rows{1, 2}));
    }
    {
        Rig rig(Policy{});
        Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
        CHECK(!attempt(rig, 1).led, "an inline executor belongs to its loop");
        CHECK(rig.run(executor) == Rows{1});
    }
}

void test_a_crowd_is_waited_for() {
    Rig rig(Policy{});
    Waiter first(rig.engine);
    for (std::uint64_t value = 0; value < 4; ++value) rig.submit(value);
    CHECK(first.status() == Status::Ok);
    CHECK_EQUAL(rig.run(first.executor).size(), 4u);
    Waiter second(rig.engine);
    CHECK(!attempt(rig, 1).led, "the other three tend to come back");
    CHECK(second.status() == Status::Ok);
    CHECK(rig.run(second.executor) == Rows{1});
}

void test_rows_that_came_meanwhile_go_to_the_executor() {
    Rig rig(Policy{});
    Waiter waiter(rig.engine);
    Attempt leader = attempt(rig, 1);
    CHECK(leader.led);
    CHECK(!attempt(rig, 2).led, "the only executor is lent");
    CHECK(rig.finish(*leader.executor, leader.taken) == Rows{1});
    CHECK(waiter.state() == ExecutorState::Lent);
    rig.engine.give_back(*leader.executor);
    CHECK(waiter.status() == Status::Ok);
    CHECK(rig.run(waiter.executor) == Rows{2});
}

void test_a_leader_may_go_on_with_a_full_batch() {
    Rig rig(Policy{.max_batch_size = 2});
    Waiter waiter(rig.engine);
    Attempt leader = attempt(rig, 1);
    CHECK(leader.led);
    for (std::uint64_t value = 2; value < 5; ++value) rig.submit(value);
    CHECK(rig.finish(*leader.executor, leader.taken) == Rows{1});
    CHECK(rig.engine.seal_next(*leader.executor, leader.taken) == Status::Ok);
    CHECK(rig.finish(*leader.executor, leader.taken) == (Rows{2, 3}));
    CHECK(rig.engine.seal_next(*leader.executor, leader.taken) == Status::Nothing);
    rig.engine.give_back(*leader.executor);
    CHECK(waiter.status() == Status::Ok);
    CHECK(rig.run(waiter.executor) == Rows{4});
}

void test_closing_while_a_leader_runs() {
    for (const bool drain : {true, false}) {
        Rig rig(Policy{});
        Waiter waiter(rig.engine);
        Attempt leader = attempt(rig, 1);
        CHECK(leader.led);
        rig.submit(2);
        rig.engine.close(drain);
        CHECK(waiter.state() == ExecutorState::Lent);
        CHECK(rig.finish(*leader.executor, leader.taken) == Rows{1});
        rig.engine.give_back(*leader.executor);
        CHECK(waiter.status() == (drain ? Status::Ok : Status::Stop));
        if (!drain) continue;
        CHECK(rig.run(waiter.executor) == Rows{2});
        CHECK(rig.engine.await_work(waiter.executor) == Status::Stop);
        CHECK(rig.engine.wait_drained(0));
    }
}

void test_who_comes_late_does_not_lead_the_next_batch() {
    Rig rig(Policy{});
    Waiter waiter(rig.engine);
    Executor& other = rig.engine.add_executor(ExecutorKind::Inline);
    Reservation late;
    CHECK(rig.reserve(1, 1, kNever, late) == Status::Ok);
    rig.keep(late, 1);
    // What commit_or_lead() does first. Before it comes to the rest, the batch is run by another
    // executor, and its buffer is open for the next.
    late.slab->commit(1);
    CHECK(rig.run(other) == Rows{1});
    Reservation next;
    CHECK(rig.reserve(1, 1, kNever, next) == Status::Ok);
    CHECK(next.slab == late.slab && next.batch != late.batch);
    rig.keep(next, 2);
    Executor* executor = nullptr;
    Taken taken;
    // It commits once more, which stands for the second row's commit.
    CHECK(!rig.engine.commit_or_lead(rig.lane, late, executor, taken));
    CHECK(waiter.status() == Status::Ok);
    CHECK(rig.run(waiter.executor) == Rows{2});
}

/// With the real clock and timer: a row that came while the executor was lent, under a policy that
/// has a delay by then, would wait for ever if nobody armed the timer.
void test_a_delay_that_comes_while_a_leader_runs_is_kept() {
    Engine engine{Policy{}};
    Lane& lane = engine.add_lane({8});
    Memory memory;
    for (int i = 0; i < 2; ++i) memory.give(engine, lane, engine.max_batch_size());
    Waiter waiter(engine);
    Reservation reservation;
    Executor* executor = nullptr;
    Taken led;
    CHECK(engine.reserve(lane, 1, 1, kNever, reservation) == Status::Ok);
    CHECK(engine.commit_or_lead(lane, reservation, executor, led));
    engine.set_policy(Policy{.max_queue_delay = 5 * kMillisecond});
    CHECK(engine.reserve(lane, 1, 1, kNever, reservation) == Status::Ok);
    engine.commit(lane, reservation);
    CHECK_EQUAL(engine.claim(led), 1u);
    engine.finish(*executor, led, Outcome::Completed, 0, 0);
    engine.give_back(*executor);
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
    test_a_lone_caller_leads();
    test_who_does_not_lead();
    test_a_crowd_is_waited_for();
    test_rows_that_came_meanwhile_go_to_the_executor();
    test_a_leader_may_go_on_with_a_full_batch();
    test_closing_while_a_leader_runs();
    test_who_comes_late_does_not_lead_the_next_batch();
    test_a_delay_that_comes_while_a_leader_runs_is_kept();
}
