// The monotonic clock of the core, injected so that timing is tested without sleeping.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace tidegate {

/// Nanoseconds on the monotonic clock (an instant) or between two instants (a duration).
using Nanos = std::int64_t;

/// An instant that never comes: no deadline, nothing scheduled.
inline constexpr Nanos kNever = std::numeric_limits<Nanos>::max();
inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

/// `instant + duration` that stays at kNever instead of overflowing.
constexpr Nanos add_saturating(Nanos instant, Nanos duration) noexcept {
    return instant > kNever - duration ? kNever : instant + duration;
}

class Clock {
  public:
    virtual ~Clock() = default;
    virtual Nanos now() const noexcept = 0;
};

/// CLOCK_MONOTONIC, the clock that futex deadlines are given in.
class SteadyClock final : public Clock {
  public:
    Nanos now() const noexcept override;
    static const SteadyClock& instance() noexcept;
};

/// A clock that moves only when told to.
class ManualClock final : public Clock {
  public:
    // Relaxed: a test that moves the clock orders its own threads.
    Nanos now() const noexcept override { return now_.load(std::memory_order_relaxed); }
    void advance(Nanos by) noexcept { now_.fetch_add(by, std::memory_order_relaxed); }

  private:
    std::atomic<Nanos> now_{1'000 * kMillisecond};
};

}  // namespace tidegate
