// The GIL hand-over: how an executor gets the GIL beside a thread that never quite lets it go.
//
// A thread that waits for the GIL beside an event loop which is busy in short steps can starve for
// seconds: the loop lets go for a microsecond or two in each poll, the waiter needs tens of
// microseconds to wake, finds the GIL taken, and its switch interval starts over. The gate knows
// who waits. When waiting proves slow it asks the event loops with requests in flight (through
// their ports) and whoever holds the GIL (through a pending call) to let it go and to stay away
// until the waiter says that it has it. Nobody touches the process's switch interval, and in a
// process that nobody starves none of this happens.
//
// The core never sees the GIL; it is told when its threads want it and have it. There is one gate
// per process, as there is one GIL.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "tidegate/clock.hpp"
#include "tidegate/port.hpp"

namespace tidegate {

class Gate {
  public:
    static Gate& instance() noexcept;

    /// How long whoever lets the GIL go stays away at the most.
    static constexpr Nanos kStayAway = 100 * kMicrosecond;

    /// One of ours is about to wait for the GIL. Returns the moment, to be given to got().
    Nanos want(const Clock& clock) noexcept;
    /// It holds the GIL now.
    void got(Nanos wanted_at, const Clock& clock) noexcept;
    /// Waiting for the GIL has been slow of late.
    bool contended() const noexcept { return contended_.load(std::memory_order_relaxed) > 0; }

    /// Something of ours waits for the GIL that should not have to, seen by the timer.
    void nudge() noexcept;
    /// Asks everybody who may hold the GIL to yield it.
    void ask(bool urgent = false) noexcept;
    /// True if the caller, who holds the GIL, should release it and call stay_away().
    bool asked() const noexcept { return asked_.load(std::memory_order_relaxed) != 0; }
    /// True if the waiter has waited so long that even a submitting thread, which is about to make
    /// its batch fuller, should let it go first.
    bool urgent() const noexcept { return asked_.load(std::memory_order_relaxed) >= kUrgent; }
    /// Sleeps until one of ours has had the GIL, at most kStayAway. \pre The GIL was released.
    void stay_away(const Clock& clock) noexcept;

    void add_port(Port& port);
    void remove_port(Port& port) noexcept;
    /// `callback` makes the thread that holds the GIL give it away; it is called without the GIL.
    void set_holder_hook(void (*callback)()) noexcept { holder_hook_ = callback; }
    /// The child of a fork has none of the waiting threads.
    void reset_after_fork() noexcept;

  private:
    static constexpr Nanos kSlow = 1 * kMillisecond;
    static constexpr std::uint32_t kAsked = 1;
    static constexpr std::uint32_t kUrgent = 2;
    static constexpr std::int32_t kWatchFor = 64;  // acquisitions after a slow one

    std::atomic<std::uint32_t> waiting_{0};
    std::atomic<std::uint32_t> asked_{0};
    std::atomic<std::uint32_t> turn_{0};  // futex word: counts acquisitions
    std::atomic<std::uint32_t> staying_away_{0};
    std::atomic<std::int32_t> contended_{0};
    std::atomic<void (*)()> holder_hook_{nullptr};
    std::mutex mutex_;
    std::vector<Port*> ports_;  // under mutex_
};

}  // namespace tidegate
