// A port wakes its consumer once per drain and never loses or repeats a notice.
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "race.hpp"
#include "tidegate/port.hpp"

using namespace tidegate;
using tidegate::testing::race;

namespace {

void* token(std::uintptr_t value) { return reinterpret_cast<void*>(value); }

bool readable(const Port& port) {
    pollfd descriptor{port.descriptor(), POLLIN, 0};
    return poll(&descriptor, 1, 0) == 1;
}

void test_one_wake_for_many_notices() {
    Port* port = new Port(/*blocking=*/false);
    std::vector<Notice> notices;
    CHECK(!readable(*port));
    port->take(notices);
    CHECK(notices.empty());
    for (std::uintptr_t i = 0; i < 100; ++i) port->post({token(i), NoticeKind::Finished});
    port->signal();
    std::uint64_t wakes = 0;
    CHECK(read(port->descriptor(), &wakes, sizeof wakes) == sizeof wakes);
    CHECK_EQUAL(wakes, 1u);
    port->take(notices);
    CHECK_EQUAL(notices.size(), 100u);
    for (std::uintptr_t i = 0; i < 100; ++i) CHECK(notices[i].token == token(i), "in order");
    port->take(notices);
    CHECK(notices.empty());
    port->post({token(7), NoticeKind::Settled});
    CHECK(readable(*port), "the next notice wakes again");
    port->take(notices);
    CHECK_EQUAL(notices.size(), 1u);
    CHECK(notices[0].kind == NoticeKind::Settled);
    CHECK(!readable(*port));
    port->release();
}

void test_a_signal_wakes_without_a_notice() {
    Port* port = new Port(/*blocking=*/false);
    port->signal();
    CHECK(readable(*port));
    std::vector<Notice> notices;
    port->take(notices);
    CHECK(notices.empty());
    CHECK(!readable(*port));
    port->release();
}

void test_in_flight_counts() {
    Port* port = new Port(/*blocking=*/false);
    port->add_in_flight(1);
    port->add_in_flight(1);
    port->add_in_flight(-1);
    CHECK_EQUAL(port->in_flight(), 1u);
    port->release();
}

void test_a_sleeping_consumer_hears_of_every_notice() {
    Port* port = new Port(/*blocking=*/true);
    std::uintptr_t expected = 0;
    race(
        5'000,
        [&](int round) {
            port->post({token(2 * static_cast<std::uintptr_t>(round)), NoticeKind::Finished});
            port->post({token(2 * static_cast<std::uintptr_t>(round) + 1), NoticeKind::Finished});
        },
        [&](int round) {
            std::vector<Notice> notices;
            // Would hang here if a notice were lost.
            while (expected < 2 * (static_cast<std::uintptr_t>(round) + 1)) {
                port->take(notices);
                for (const Notice& notice : notices) {
                    CHECK(notice.token == token(expected), "in order");
                    ++expected;
                }
            }
        });
    CHECK_EQUAL(expected, 10'000u);
    port->release();
}

void test_many_posters_one_consumer() {
    constexpr int kPosters = 3;
    constexpr std::uintptr_t kEach = 3'000;
    Port* port = new Port(/*blocking=*/true);
    std::vector<std::thread> posters;
    for (std::uintptr_t poster = 0; poster < kPosters; ++poster) {
        port->retain();
        posters.emplace_back([port, poster] {
            for (std::uintptr_t i = 0; i < kEach; ++i) {
                port->post({token(poster * kEach + i), NoticeKind::Finished});
                if (i % 7 == 0) port->signal();
                if (i % 64 == 0) std::this_thread::yield();
            }
            port->release();
        });
    }
    std::vector<std::uintptr_t> next(kPosters, 0);
    std::vector<Notice> notices;
    for (std::uintptr_t received = 0; received < kPosters * kEach; received += notices.size()) {
        port->take(notices);
        for (const Notice& notice : notices) {
            const auto value = reinterpret_cast<std::uintptr_t>(notice.token);
            CHECK_EQUAL(value % kEach, next[value / kEach]++);
        }
    }
    for (std::thread& poster : posters) poster.join();
    port->release();
}

}  // namespace

int main() {
    test_one_wake_for_many_notices();
    test_a_signal_wakes_without_a_notice();
    test_in_flight_counts();
    test_a_sleeping_consumer_hears_of_every_notice();
    test_many_posters_one_consumer();
}
