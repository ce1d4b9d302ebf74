// Whether an idle executor should wait some microseconds for callers that are about to return.
//
// Going at once with what is there is right for a lone caller and wrong for a crowd that has just
// been woken: it sends one row and makes the rest wait a whole model run. So the executor lingers
// when more rows are expected, stops as soon as arrivals pause, and keeps a record of what
// lingering gained (rows that did not have to wait a run) against what it cost (time that the rows
// already there waited). When it does not pay it stops doing it, and tries again now and then.
#pragma once

#include <atomic>
#include <cstdint>

#include "tidegate/clock.hpp"

namespace tidegate {

class Linger {
  public:
    /// Without an arrival for this long, nothing more is coming.
    static constexpr Nanos kShortestGap = 50 * kMicrosecond;
    static constexpr Nanos kLongestGap = 150 * kMicrosecond;
    /// A crowd over many connections comes back one by one, every 10 to 15 µs.
    static constexpr Nanos kLongest = 1 * kMillisecond;

    /// A batch of `rows` ended; `waiting` rows were still queued.
    void record_batch(std::uint32_t rows, std::uint64_t waiting) noexcept;
    /// An executor was away for this long: getting the GIL, running the model, waking the callers.
    void record_cycle(Nanos away) noexcept;
    /// Rows expected besides the `waiting` ones, 0 if lingering is not worth a try.
    /// \pre Under the engine's mutex.
    std::uint32_t expected_more(std::uint32_t waiting) noexcept;
    /// True if nobody else is likely to come: a waiting caller may run the batch itself.
    bool alone(std::uint32_t waiting) const noexcept { return crowd() <= waiting; }
    /// Lingering took `waited` and made a batch of `rows` out of one of `first`.
    void record_linger(std::uint32_t first, std::uint32_t rows, Nanos waited) noexcept;
    /// How long arrivals may pause before lingering ends.
    Nanos gap() const noexcept { return gap_.load(std::memory_order_relaxed); }
    /// How long the first of those who were just answered may take to come back: they have to wake
    /// up, perhaps on a core that sleeps, and be scheduled. Longer than gap() if runs are long.
    Nanos first_gap() const noexcept;
    /// How long a batch takes to run, on average.
    Nanos service() const noexcept { return service_.load(std::memory_order_relaxed); }
    /// The longest that lingering can pay: no longer than a run takes.
    Nanos longest() const noexcept;

  private:
    std::uint32_t crowd() const noexcept { return crowd_.load(std::memory_order_relaxed); }

    // Written by executors, read by anyone; each value stands alone, so relaxed throughout.
    std::atomic<std::uint32_t> crowd_{0};  // rows that were under way when a batch last ended
    std::atomic<Nanos> service_{0};        // moving average of a batch's run
    std::atomic<Nanos> gain_{0};           // moving average of what a linger gained
    std::atomic<Nanos> gap_{60 * kMicrosecond};
    std::atomic<std::uint32_t> refusals_{0};
};

}  // namespace tidegate
