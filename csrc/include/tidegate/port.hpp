// Where finished batches are reported to one consumer: an event loop or the callback thread.
//
// A port is a queue of notices and an eventfd. The descriptor is written only when the consumer has
// taken everything posted before, so a consumer is woken once however many batches finish.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "tidegate/types.hpp"

namespace tidegate {

class Port {
  public:
    /// \throws std::system_error when the process is out of file descriptors.
    explicit Port(bool blocking);
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;

    void retain() noexcept;
    void release() noexcept;

    int descriptor() const noexcept { return event_fd_; }

    /// Any thread. The consumer wakes up when it slept.
    void post(Notice notice);
    /// Wakes the consumer without a notice, so that it can give the GIL away.
    void signal() noexcept;
    /// Drops what was posted with this token.
    void forget(const void* token) noexcept;
    /// Consumer only: resets the descriptor (sleeping on it first if the port is blocking), then
    /// hands over everything posted so far.
    void take(std::vector<Notice>& into);

    /// Batches with a subscription here that are not finished.
    std::uint32_t in_flight() const noexcept { return in_flight_.load(std::memory_order_relaxed); }
    void add_in_flight(std::int32_t by) noexcept {
        // Relaxed: only a hint whom to ask for the GIL.
        in_flight_.fetch_add(static_cast<std::uint32_t>(by), std::memory_order_relaxed);
    }

  private:
    ~Port();
    void write_event() noexcept;

    const int event_fd_;
    std::atomic<std::uint32_t> references_{1};
    std::atomic<std::uint32_t> in_flight_{0};
    std::mutex mutex_;
    std::vector<Notice> queue_;  // under mutex_
    bool armed_ = false;         // under mutex_: written since the consumer last took
};

}  // namespace tidegate
