// The promise of one batch: one state per request, one word that all its callers wait on.
//
// A request is (batch, slot). Nothing is written per request when a batch finishes: one store, at
// most one futex call, one notice per subscribed port. It outlives the staging buffer its rows were
// copied into, for as long as a caller holds a future.
//
//   slot:   Queued ──claim()──────────▶ Claimed      the batch's outcome is the request's
//             ├────settle(Cancelled)──▶ Cancelled    by its caller
//             ├────settle(Expired)────▶ Expired      by the timer or a waiting caller
//             └────settle(Refused)────▶ Refused      by close(drain=False)
//   batch:  pending ──decide()──▶ decided ──publish()──▶ done    exactly once
//
// Whoever wins the transition out of Queued owns the request's outcome.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "tidegate/clock.hpp"
#include "tidegate/port.hpp"
#include "tidegate/types.hpp"

namespace tidegate {

class Batch {
  public:
    explicit Batch(std::uint32_t capacity);
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    void retain() noexcept;
    void release() noexcept;

    // -- the caller's side --

    /// True once publish() has run; everything it published is then visible.
    bool done() const noexcept {
        // pairs with publish(): outcome, rows and the model's outputs were written before.
        return (word_.load(std::memory_order_acquire) & kDone) != 0;
    }
    SlotState slot(std::uint32_t index) const noexcept {
        // pairs with settle() and claim().
        return slots_[index].load(std::memory_order_acquire);
    }
    /// Takes a waiting request out of the batch. False when somebody else decided first.
    bool settle(std::uint32_t index, SlotState state) noexcept;
    /// Sleeps until the batch is done or the slot is settled; yields for `spin` first. An index
    /// beyond the capacity waits for the batch alone.
    /// \pre The GIL is not held.
    WaitResult wait(std::uint32_t index, Nanos deadline, Nanos spin, const Clock& clock) noexcept;
    /// Asks for notices on `port`. False, and nothing is posted, when the batch is done.
    bool subscribe(Port& port, void* token);
    /// Takes a subscription back, with what was posted for it; returns its token, null if there is
    /// none (any more).
    void* unsubscribe(Port& port) noexcept;

    Outcome outcome() const noexcept { return outcome_; }
    std::int32_t model_status() const noexcept { return model_status_; }
    /// The output row of a claimed slot. \pre done()
    std::uint32_t row_of(std::uint32_t index) const noexcept {
        return row_of_.empty() ? index : row_of_[index];
    }

    // -- the executor's side --

    /// Claims what still waits among the first `reserved` slots. Returns the holes: slots that were
    /// settled before, ascending.
    std::vector<std::uint32_t> claim(std::uint32_t reserved) noexcept;
    /// Says that the row of `slot` was moved to `row` to fill a hole. \pre between claim and
    /// publish
    void move_row(std::uint32_t slot, std::uint32_t row);
    /// Decides how the batch ends. False when that had been decided before.
    bool decide(Outcome outcome, std::int32_t model_status) noexcept;
    /// Ends a decided batch: publishes, wakes, notifies. True if there was anybody to be told.
    /// \pre The GIL is not held if anybody else waits (the woken would pile up behind it).
    bool publish();
    /// Tells sleepers and ports that some slots were settled.
    void announce_settled();
    /// Tells sleepers alone, for a slot that its own caller has settled.
    void wake_sleepers() noexcept;

    /// Claimed rows; set by claim().
    std::uint32_t live() const noexcept { return live_; }
    std::uint32_t capacity() const noexcept { return capacity_; }

    // -- readers: native threads that answer their requests from the outputs, without the GIL --

    /// Announces one more reader. \pre one of its rows is reserved and not committed
    void add_reader() noexcept {
        // Relaxed: published to the executor by the commit that follows.
        readers_.fetch_add(1, std::memory_order_relaxed);
    }
    /// True if somebody will read. Once all rows are committed it can only become false.
    bool has_readers() const noexcept { return readers_.load(std::memory_order_relaxed) != 0; }
    /// Shows the outputs to the readers and keeps `keeper`, which owns them. Returns it if there
    /// are no readers (any more). \pre before publish()
    void* show(const OutputView* views, std::size_t count, void* keeper);
    /// What was shown. \pre done() with Outcome::Completed, by a reader
    const std::vector<OutputView>& shown() const noexcept { return shown_; }
    /// One reader is finished, or reads no more. Returns what the last one is to let go of, else
    /// null. \pre its rows are committed
    void* leave() noexcept;

    /// The binding's side of this batch. Set before the first commit; handed to whoever takes the
    /// batch, or left with the engine's orphans.
    void* tenant = nullptr;
    /// Where a native model writes, one pointer per output. Set before the first commit.
    std::vector<void*> outputs;

  private:
    ~Batch();

    struct Subscription {
        Port* port;
        void* token;
    };
    static constexpr std::uint32_t kDone = 1;
    static constexpr std::uint32_t kAnnounced = 2;  // counts up in the bits above kDone

    // The futex word: bit 0 is kDone, the rest a count of announcements so that none is missed.
    std::atomic<std::uint32_t> word_{0};
    std::atomic<std::uint32_t> sleepers_{0};
    std::atomic<std::uint32_t> references_{1};
    const std::uint32_t capacity_;
    std::uint32_t live_ = 0;
    std::atomic<std::uint32_t> readers_{0};
    std::atomic<void*> keeper_{nullptr};
    std::vector<OutputView> shown_;
    // Written before word_ gets kDone, read after it was seen.
    Outcome outcome_ = Outcome::None;
    std::int32_t model_status_ = 0;
    std::vector<std::uint32_t> row_of_;
    const std::unique_ptr<std::atomic<SlotState>[]> slots_;
    std::mutex mutex_;
    std::vector<Subscription> subscriptions_;  // under mutex_
};

}  // namespace tidegate
