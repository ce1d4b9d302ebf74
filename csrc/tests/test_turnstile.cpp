// The turnstile spaces threads out and never keeps one for long.
#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "tidegate/turnstile.hpp"

using namespace tidegate;

namespace {

const Clock& steady = SteadyClock::instance();

void test_whoever_left_is_not_waited_for() {
    Turnstile turnstile;
    // The clock stands still: a thread that had to wait would wait for ever.
    const ManualClock clock;
    for (int turn = 0; turn < 3; ++turn) {
        turnstile.enter(clock);
        turnstile.leave();
        turnstile.leave();
    }
    turnstile.enter(clock);
    turnstile.reset_after_fork();
    turnstile.enter(clock);
    turnstile.leave();
}

void test_whoever_does_not_leave_is_passed() {
    Turnstile turnstile;
    std::thread([&] { turnstile.enter(steady); }).join();
    turnstile.enter(steady);  // hangs if there were no end to its patience
    turnstile.leave();
}

void test_all_of_a_crowd_get_through() {
    Turnstile turnstile;
    std::atomic<int> passed{0};
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) {
        threads.emplace_back([&, number] {
            for (int turn = 0; turn < 500; ++turn) {
                turnstile.enter(steady);
                ++passed;
                if (number != 0 || turn % 8 != 0) turnstile.leave();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQUAL(passed.load(), 2'000);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_whoever_left_is_not_waited_for();
    test_whoever_does_not_leave_is_passed();
    test_all_of_a_crowd_get_through();
}
