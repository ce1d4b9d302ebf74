// Two threads that do something at the same time, over and over, each time a little differently.
#pragma once

#include <atomic>
#include <cstdint>
#include <random>
#include <thread>

namespace tidegate::testing {

/// How many rounds a race is worth: a sanitizer makes each cost much more.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr int kRaceRounds = 2'000;
#else
inline constexpr int kRaceRounds = 20'000;
#endif

/// Runs `left(round)` and `right(round)` against each other, then `check(round)` alone.
template <typename Left, typename Right, typename Check>
void race(int rounds, Left left, Right right, Check check) {
    std::atomic<int> started{0};
    std::atomic<int> finished{0};
    const auto dawdle = [](std::minstd_rand& random) {
        // Relaxed: it only takes time.
        std::atomic<int> count{static_cast<int>(random() % 200)};
        while (count.fetch_sub(1, std::memory_order_relaxed) > 0) {
        }
        if (random() % 16 == 0) std::this_thread::yield();
    };
    std::thread other([&] {
        std::minstd_rand random(2);
        for (int round = 0; round < rounds; ++round) {
            while (started.load() <= round) std::this_thread::yield();
            dawdle(random);
            right(round);
            finished.store(round + 1);
        }
    });
    std::minstd_rand random(1);
    for (int round = 0; round < rounds; ++round) {
        started.store(round + 1);
        dawdle(random);
        left(round);
        while (finished.load() <= round) std::this_thread::yield();
        check(round);
    }
    other.join();
}

template <typename Left, typename Right>
void race(int rounds, Left left, Right right) {
    race(rounds, left, right, [](int) {});
}

}  // namespace tidegate::testing
