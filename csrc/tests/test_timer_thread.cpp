// The timer's thread comes for every instant that it was armed for, not early, and then rests.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "rig.hpp"
#include "tidegate/timer.hpp"

using namespace tidegate;
using tidegate::testing::Memory;
using tidegate::testing::Waiter;

namespace {

const Clock& steady = SteadyClock::instance();

/// Instants that are waited for; what a timer's owner knows.
class Agenda {
  public:
    void add(Nanos instant) {
        const std::lock_guard lock(mutex_);
        pending_.push_back(instant);
    }
    /// The owner's answer to the timer.
    Nanos due(Nanos now) {
        const std::lock_guard lock(mutex_);
        calls_.fetch_add(1);
        std::erase_if(pending_, [now](Nanos instant) { return instant <= now; });
        return pending_.empty() ? kNever : *std::min_element(pending_.begin(), pending_.end());
    }
    bool empty() {
        const std::lock_guard lock(mutex_);
        return pending_.empty();
    }
    int calls() const { return calls_.load(); }

  private:
    std::mutex mutex_;
    std::vector<Nanos> pending_;  // under mutex_
    std::atomic<int> calls_{0};
};

void test_every_instant_is_kept() {
    Agenda agenda;
    Timer timer(steady, [&agenda](Nanos now) { return agenda.due(now); });
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 3; ++seed) {
        threads.emplace_back([&agenda, &timer, seed] {
            std::minstd_rand random(seed);
            for (int i = 0; i < 1'500; ++i) {
                const Nanos instant = steady.now() + static_cast<Nanos>(random() % 100'000);
                agenda.add(instant);
                timer.arm(instant);
                // Now and then all that is due is waited for, so that the thread falls asleep.
                while (random() % 16 == 0 && !agenda.empty()) std::this_thread::yield();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    while (!agenda.empty()) std::this_thread::yield();  // hangs if an instant is forgotten
}

void test_the_thread_rests_when_nothing_is_armed() {
    Agenda agenda;
    Timer timer(steady, [&agenda](Nanos now) { return agenda.due(now); });
    timer.arm(kNever);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK_EQUAL(agenda.calls(), 0);
    const Nanos instant = steady.now() + kMillisecond;
    agenda.add(instant);
    timer.arm(instant);
    while (!agenda.empty()) std::this_thread::yield();
    // It comes to rest; a thread that polled never would.
    int calls = 0;
    int looks = 0;
    do {
        CHECK(++looks < 100);
        calls = agenda.calls();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    } while (agenda.calls() != calls);
    CHECK(calls <= 3, "when started, when armed, when due");
}

void test_a_stopped_timer_stays_stopped() {
    Agenda agenda;
    Timer timer(steady, [&agenda](Nanos now) { return agenda.due(now); });
    timer.stop();
    timer.arm(steady.now());
    timer.stop();
    Timer running(steady, [&agenda](Nanos now) { return agenda.due(now); });
    running.arm(steady.now() + 3'600'000 * kMillisecond);
    running.stop();
    const int calls = agenda.calls();
    running.arm(steady.now());
    running.stop();
    CHECK_EQUAL(agenda.calls(), calls);
}

void test_without_a_thread_the_instant_is_noted() {
    Agenda agenda;
    Timer timer(steady, [&agenda](Nanos now) { return agenda.due(now); }, /*threaded=*/false);
    CHECK_EQUAL(timer.armed(), kNever);
    timer.arm(500);
    timer.arm(700);
    CHECK_EQUAL(timer.armed(), 500);
    timer.arm(300);
    CHECK_EQUAL(timer.armed(), 300);
    CHECK_EQUAL(agenda.calls(), 0);
}

/// An engine with the real clock and its own timer thread, without an executor as yet.
struct LiveEngine {
    explicit LiveEngine(const Policy& policy) : engine(policy) {
        memory.give(engine, lane, engine.max_batch_size());
    }
    ~LiveEngine() {
        engine.close(false);
        for (void* owner : engine.detach_all()) memory.let_go(owner);
    }
    Reservation submit(Nanos deadline) {
        Reservation reservation;
        for (;;) {
            const Status status = engine.reserve(lane, 1, 1, deadline, reservation);
            if (status == Status::Ok) break;
            CHECK(status == Status::BufferNeeded);
            memory.give(engine, lane, engine.max_batch_size());
        }
        reservation.batch->retain();
        engine.commit(lane, reservation);
        return reservation;
    }
    Engine engine;
    Lane& lane = engine.add_lane({8});
    Memory memory;
};

void test_the_delay_is_kept() {
    for (int round = 0; round < 20; ++round) {
        LiveEngine live(Policy{.max_queue_delay = 2 * kMillisecond});
        Waiter waiter(live.engine);
        const Reservation reservation = live.submit(kNever);
        CHECK(waiter.status() == Status::Ok);
        Taken taken;
        CHECK(live.engine.seal(waiter.executor, taken) == Status::Ok);
        CHECK(taken.started >= reservation.submitted + 2 * kMillisecond, "not early");
        CHECK_EQUAL(live.engine.claim(taken), 1u);
        live.engine.finish(waiter.executor, taken, Outcome::Completed, 0, 0);
        reservation.batch->release();
    }
}

/// There is no executor: only the timer can end the request, or this hangs.
void check_expires(const Reservation& reservation) {
    Batch& batch = *reservation.batch;
    CHECK(batch.wait(reservation.index, kNever, 0, steady) == WaitResult::Settled);
    CHECK(batch.slot(reservation.index) == SlotState::Expired);
    CHECK(steady.now() >= reservation.deadline, "not early");
    batch.release();
}

void test_deadlines_of_several_threads_are_kept() {
    LiveEngine live(Policy{.max_batch_size = 512, .max_queue_size = 100'000});
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 3; ++seed) {
        threads.emplace_back([&live, seed] {
            std::minstd_rand random(seed);
            for (int burst = 0; burst < 100; ++burst) {
                std::vector<Reservation> reservations;
                for (int row = 0; row < 12; ++row) {
                    const auto patience = static_cast<Nanos>(random() % 20'000);
                    reservations.push_back(live.submit(steady.now() + patience));
                }
                for (const Reservation& reservation : reservations) check_expires(reservation);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQUAL(live.engine.statistics().expired, 3u * 100u * 12u);
}

/// A deadline that is set while the timer is at work on an earlier one is not forgotten.
void test_deadlines_that_come_while_others_pass_are_kept() {
    LiveEngine live(Policy{.max_batch_size = 8'192, .max_queue_size = 100'000});
    // Rows that the timer has to look through each time.
    for (int row = 0; row < 500; ++row) {
        live.submit(steady.now() + 3'600'000 * kMillisecond).batch->release();
    }
    std::minstd_rand random(1);
    for (int round = 0; round < 2'000; ++round) {
        const Reservation early = live.submit(steady.now() + 20 * kMicrosecond);
        const Nanos moment = early.deadline + static_cast<Nanos>(random() % 40'000);
        while (steady.now() < moment) {
        }
        const Reservation late = live.submit(steady.now() + 10 * kMicrosecond);
        check_expires(late);
        check_expires(early);
    }
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_every_instant_is_kept();
    test_the_thread_rests_when_nothing_is_armed();
    test_a_stopped_timer_stays_stopped();
    test_without_a_thread_the_instant_is_noted();
    test_the_delay_is_kept();
    test_deadlines_of_several_threads_are_kept();
    test_deadlines_that_come_while_others_pass_are_kept();
}
