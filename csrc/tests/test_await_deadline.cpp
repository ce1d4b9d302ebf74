// An executor may wait for a while only; it gives up cleanly, and whatever came is never lost.
#include <thread>

#include "check.hpp"
#include "rig.hpp"

using namespace tidegate;
using tidegate::testing::Rig;
using Rows = std::vector<std::uint64_t>;

namespace {

Nanos soon() { return SteadyClock::instance().now() + 5 * kMillisecond; }

/// The engine's own clock, since the executor really sleeps.
struct Running {
    Engine engine{Policy{.max_queue_size = 4096}};
    Lane& lane = engine.add_lane({sizeof(std::uint64_t)});
    tidegate::testing::Memory memory;
    Executor& executor = engine.add_executor(ExecutorKind::Thread);

    Running() { memory.give(engine, lane, 64); }
    ~Running() {
        engine.close(true);
        CHECK(engine.wait_drained(kNever));
        for (void* owner : engine.detach_all()) memory.let_go(owner);
    }
    void submit() {
        Reservation reservation;
        Status status = engine.reserve(lane, 1, 1, kNever, reservation);
        while (status == Status::BufferNeeded) {
            memory.give(engine, lane, 64);
            status = engine.reserve(lane, 1, 1, kNever, reservation);
        }
        CHECK(status == Status::Ok);
        engine.commit(lane, reservation);
    }
    void run() {
        Taken taken;
        CHECK(engine.seal(executor, taken) == Status::Ok);
        CHECK_EQUAL(engine.claim(taken), 1u);
        engine.finish(executor, taken, Outcome::Completed, 0, 0);
    }
};

void test_it_gives_up_and_may_wait_again() {
    Running running;
    for (int turn = 0; turn < 3; ++turn) {
        CHECK(running.engine.await_work(running.executor, soon()) == Status::Nothing);
    }
    running.submit();
    CHECK(running.engine.await_work(running.executor, soon()) == Status::Ok);
    running.run();
    CHECK_EQUAL(running.engine.statistics().completed, 1u);
}

void test_a_row_that_comes_in_time_ends_the_wait() {
    Running running;
    std::thread caller([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        running.submit();
    });
    CHECK(running.engine.await_work(running.executor, SteadyClock::instance().now() +
                                                          60'000 * kMillisecond) == Status::Ok);
    running.run();
    caller.join();
}

void test_rows_that_come_just_as_it_gives_up_are_not_lost() {
    Running running;
    std::thread caller([&] {
        for (int i = 0; i < 2000; ++i) {
            running.submit();
            if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
    });
    std::uint64_t seen = 0;
    while (seen < 2000) {
        const Nanos deadline = SteadyClock::instance().now() + 20 * kMicrosecond;
        if (running.engine.await_work(running.executor, deadline) != Status::Ok) continue;
        Taken taken;
        if (running.engine.seal(running.executor, taken) != Status::Ok) continue;
        taken.slab->wait_committed(taken.reserved);
        seen += running.engine.claim(taken);
        running.engine.finish(running.executor, taken, Outcome::Completed, 0, 0);
    }
    caller.join();
    CHECK_EQUAL(running.engine.statistics().completed, 2000u);
}

void test_it_ends_when_the_engine_closes() {
    Running running;
    CHECK(running.engine.await_work(running.executor, soon()) == Status::Nothing);
    running.engine.close(true);
    CHECK(running.engine.await_work(running.executor, soon()) == Status::Stop);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_it_gives_up_and_may_wait_again();
    test_a_row_that_comes_in_time_ends_the_wait();
    test_rows_that_come_just_as_it_gives_up_are_not_lost();
    test_it_ends_when_the_engine_closes();
}
