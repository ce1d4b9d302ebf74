// The gate asks only when waiting for the GIL was slow, and whom it asked is let go again.
#include <poll.h>

#include <atomic>
#include <thread>

#include "check.hpp"
#include "race.hpp"
#include "tidegate/gate.hpp"

using namespace tidegate;
using tidegate::testing::race;

namespace {

std::atomic<int> hook_calls{0};
void count_hook() { hook_calls.fetch_add(1); }

bool readable(const Port& port) {
    pollfd descriptor{port.descriptor(), POLLIN, 0};
    return poll(&descriptor, 1, 0) == 1;
}

void test_a_quick_turn_bothers_nobody() {
    Gate gate;
    ManualClock clock;
    for (int i = 0; i < 3; ++i) {
        const Nanos wanted_at = gate.want(clock);
        CHECK_EQUAL(wanted_at, clock.now());
        clock.advance(50 * kMicrosecond);
        gate.got(wanted_at, clock);
        CHECK(!gate.contended());
        CHECK(!gate.asked());
    }
}

void test_a_slow_turn_makes_the_next_ones_ask() {
    Gate gate;
    ManualClock clock;
    Nanos wanted_at = gate.want(clock);
    clock.advance(10 * kMillisecond);
    gate.got(wanted_at, clock);
    CHECK(gate.contended());
    CHECK(!gate.asked(), "it has the GIL now");
    int asked = 0;
    while (gate.contended()) {
        wanted_at = gate.want(clock);
        CHECK(gate.asked());
        gate.got(wanted_at, clock);
        CHECK(!gate.asked());
        CHECK(++asked < 1'000, "quick turns end it");
    }
    CHECK(asked > 1);
    wanted_at = gate.want(clock);
    CHECK(!gate.asked());
    gate.got(wanted_at, clock);
}

void test_one_of_two_who_wait_keeps_asking() {
    Gate gate;
    ManualClock clock;
    const Nanos first = gate.want(clock);
    const Nanos second = gate.want(clock);
    gate.ask();
    CHECK(gate.asked());
    CHECK(!gate.urgent());
    gate.nudge();
    CHECK(gate.contended());
    CHECK(gate.asked());
    CHECK(gate.urgent());
    gate.got(first, clock);
    CHECK(gate.asked(), "the other one still waits");
    gate.got(second, clock);
    CHECK(!gate.asked());
}

void test_loops_with_requests_and_the_main_thread_are_asked() {
    Gate gate;
    Port* busy = new Port(false);
    Port* quiet = new Port(false);
    Port* gone = new Port(false);
    busy->add_in_flight(1);
    gone->add_in_flight(1);
    gate.add_port(*busy);
    gate.add_port(*quiet);
    gate.add_port(*gone);
    gate.remove_port(*gone);
    gate.remove_port(*gone);
    gate.set_holder_hook(count_hook);
    hook_calls = 0;
    gate.ask();
    CHECK(readable(*busy));
    CHECK(!readable(*quiet));
    CHECK(!readable(*gone));
    CHECK_EQUAL(hook_calls.load(), 1);
    gate.reset_after_fork();
    CHECK(!gate.asked());
    std::vector<Notice> notices;
    busy->take(notices);
    gate.ask();
    CHECK(!readable(*busy), "the ports were the parent's");
    busy->release();  // the reset leaks the gate's references, as a forked child does
    quiet->release();
    busy->release();
    quiet->release();
    gone->release();
}

void test_staying_away_ends() {
    Gate gate;
    const Clock& steady = SteadyClock::instance();
    const Nanos start = steady.now();
    gate.stay_away(steady);  // nobody asked
    gate.ask();
    gate.stay_away(steady);  // nobody comes
    CHECK(steady.now() - start >= Gate::kStayAway);
    CHECK(!gate.asked(), "so nobody needs to stay away again");
}

void test_staying_away_against_coming() {
    Gate gate;
    const Clock& steady = SteadyClock::instance();
    race(
        2'000,
        [&](int) {
            const Nanos wanted_at = gate.want(steady);
            gate.ask();
            std::this_thread::yield();
            gate.got(wanted_at, steady);
        },
        [&](int) {
            if (gate.asked()) gate.stay_away(steady);
        },
        [&](int) { CHECK(!gate.asked()); });
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_a_quick_turn_bothers_nobody();
    test_a_slow_turn_makes_the_next_ones_ask();
    test_one_of_two_who_wait_keeps_asking();
    test_loops_with_requests_and_the_main_thread_are_asked();
    test_staying_away_ends();
    test_staying_away_against_coming();
}
