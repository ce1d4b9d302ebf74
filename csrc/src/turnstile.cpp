// Turnstile: one at a time, as long as they move.
#include "tidegate/turnstile.hpp"

#include <sched.h>

namespace tidegate {

namespace {

thread_local bool inside = false;

}  // namespace

Turnstile& Turnstile::instance() noexcept {
    static Turnstile turnstile;
    return turnstile;
}

void Turnstile::enter(const Clock& clock) noexcept {
    if (taken_.exchange(true, std::memory_order_relaxed)) {
        std::uint32_t seen = turns_.load(std::memory_order_relaxed);
        Nanos moved = clock.now();
        do {
            sched_yield();
            const std::uint32_t turns = turns_.load(std::memory_order_relaxed);
            const Nanos now = clock.now();
            if (turns != seen) {
                seen = turns;
                moved = now;
            } else if (now - moved > kPatience) {
                break;
            }
        } while (taken_.load(std::memory_order_relaxed) ||
                 taken_.exchange(true, std::memory_order_relaxed));
    }
    turns_.fetch_add(1, std::memory_order_relaxed);
    inside = true;
}

void Turnstile::leave() noexcept {
    if (!inside) return;
    inside = false;
    taken_.store(false, std::memory_order_relaxed);
}

}  // namespace tidegate
