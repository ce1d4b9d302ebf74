// Lets the threads that one batch has woken take the GIL one after another.
//
// All callers of a batch wake up at once and want the GIL. Left to themselves on several cores they
// pile up inside the interpreter's lock: each hand-over is then a futex call, a wake-up on another
// core and often a thief in between, some 15 to 20 µs instead of two. So before they ask for the
// GIL they pass a turnstile: one goes, the others yield their core until it has come back to wait
// for its next answer, which is when it let the GIL go.
//
// It is a hint and no lock. Whoever sees no movement for a while goes past: the one before is busy
// with something else, and the interpreter's lock is the right place to wait then.
#pragma once

#include <atomic>
#include <cstdint>

#include "tidegate/clock.hpp"

namespace tidegate {

class Turnstile {
  public:
    static Turnstile& instance() noexcept;

    /// Before this thread asks for the GIL, after it was woken.
    void enter(const Clock& clock) noexcept;
    /// After this thread has released the GIL to wait.
    void leave() noexcept;
    /// The child of a fork has none of the other threads.
    void reset_after_fork() noexcept { taken_.store(false, std::memory_order_relaxed); }

  private:
    /// Without movement for this long, one goes past.
    static constexpr Nanos kPatience = 25 * kMicrosecond;

    // Relaxed throughout: it orders nothing, it only spaces threads out.
    std::atomic<bool> taken_{false};
    std::atomic<std::uint32_t> turns_{0};
};

}  // namespace tidegate
