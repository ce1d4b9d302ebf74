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
    std::atomic<int> called{0};
    std::atomic<int> answered{0};
    std::atomic<int> finished{0};
    const auto wait_for = [](const std::atomic<int>& number, int round) {
        for (int tries = 0; number.load() <= round; ++tries) {
            if (tries > 1'000) std::this_thread::yield();
        }
    };
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
            wait_for(called, round);
            answered.store(round + 1);
            dawdle(random);
            right(round);
            finished.store(round + 1);
        }
    });
    std::minstd_rand random(1);
    for (int round = 0; round < rounds; ++round) {
        called.store(round + 1);
        wait_for(answered, round);  // so that both run now, if there are two cores
        dawdle(random);
        left(round);
        wait_for(finished, round);
        check(round);
    }
    other.join();
}

template <typename Left, typename Right>
void race(int rounds, Left left, Right right) {
    race(rounds, left, right, [](int) {});
}

}  // namespace tidegate::testing
