// The batch timer thread: sleeps on one absolute deadline, never polls, never takes the GIL.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "tidegate/clock.hpp"

namespace tidegate {

class Timer {
  public:
    /// `due(now)` does what is due and returns the next instant that something will be.
    /// Without `threaded`, arm() only notes the instant.
    Timer(const Clock& clock, std::function<Nanos(Nanos)> due, bool threaded = true);
    ~Timer();
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    /// Starts the thread, unless it runs. \throws std::system_error when there is none to be had
    void start();
    /// Makes sure that `due` runs at `instant` or earlier. Starts the thread on first use; where
    /// there is none to be had, nothing runs before another instant asks for it.
    void arm(Nanos instant) noexcept;
    /// The earliest instant asked for since `due` last ran.
    Nanos armed() const noexcept { return armed_.load(std::memory_order_relaxed); }
    /// Ends the thread. Idempotent; arm() does nothing afterwards.
    void stop() noexcept;
    /// The child of a fork has no timer thread; nothing may be joined there.
    void forget_thread() noexcept;

  private:
    void run() noexcept;

    const Clock& clock_;
    const std::function<Nanos(Nanos)> due_;
    const bool threaded_;
    std::atomic<Nanos> armed_{kNever};    // the earliest instant asked for
    std::atomic<std::uint32_t> word_{0};  // futex word, changes when armed_ moves forward
    std::atomic<bool> stopping_{false};
    std::atomic<bool> started_{false};
    std::mutex start_mutex_;
    std::thread thread_;  // under start_mutex_
};

}  // namespace tidegate
