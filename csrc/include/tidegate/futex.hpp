// Sleeping on a 32-bit word: the kernel's futex with an absolute monotonic deadline.
//
// std::atomic::wait has no deadline and does not return on a signal, and its waiters live in a
// table per shared object. Waiting and waking are compiled into the core only.
#pragma once

#include <atomic>
#include <cstdint>

#include "tidegate/clock.hpp"

namespace tidegate {

enum class FutexResult : std::uint8_t { Woken, TimedOut, Interrupted };

/// Sleeps while `word` holds `expected`, at most until `deadline`. Spurious returns are allowed.
FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected,
                       Nanos deadline) noexcept;
/// Wakes at most `count` sleepers.
void futex_wake(std::atomic<std::uint32_t>& word, int count) noexcept;
/// Wakes all sleepers.
void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept;

/// Lets this thread's timed sleeps end within a microsecond of their deadline instead of fifty.
void use_fine_timers() noexcept;

}  // namespace tidegate
