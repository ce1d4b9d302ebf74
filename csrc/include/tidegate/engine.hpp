// The engine: lanes, executors and the rules of who runs which batch when.
//
// Life of a row, with the GIL or without:
//   reserve() a slot, copy, commit()                            submitting thread
//   await_work() → [linger] → seal() → claim() → model → finish()   executor, leader or inline loop
//
// One mutex guards what changes per batch: which slab is open, the queue of full slabs, who is
// idle. Reserving and committing a row take no lock. The mutex is never held while the GIL is
// waited for.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "tidegate/batch.hpp"
#include "tidegate/clock.hpp"
#include "tidegate/lane.hpp"
#include "tidegate/linger.hpp"
#include "tidegate/policy.hpp"
#include "tidegate/recorder.hpp"
#include "tidegate/statistics.hpp"
#include "tidegate/timer.hpp"
#include "tidegate/types.hpp"

namespace tidegate {

/// The right to run an instance of the model; held by at most one thread at a time.
struct Executor {
    Executor(ExecutorKind k, std::uint32_t n) : kind(k), number(n) {}
    const ExecutorKind kind;
    const std::uint32_t number;          // among the engine's executors
    std::atomic<std::uint32_t> word{0};  // futex word: bumped to wake the thread
    // The rest is under the engine's mutex.
    ExecutorState state = ExecutorState::Busy;
    struct Running {
        Batch* batch;
        std::uint32_t rows;  // reserved
        Nanos since;
    };
    std::vector<Running> running;  // batches taken and not finished
    Nanos busy_since = 0;
    Nanos cycle_start = 0;      // when it set out for its batch: the GIL and the model follow
    Nanos last_pause = kNever;  // how long it was idle before its last batch
    Nanos typical_run = 0;      // how long a run takes when nothing gets in its way
    std::uint32_t runs = 0;
    bool nudged = false;
    std::atomic<Nanos> gil_wanted_at{kNever};  // read by the timer
};

class Engine {
  public:
    /// Without `timer_thread`, tests call on_timer() themselves.
    explicit Engine(const Policy& policy, const Clock& clock = SteadyClock::instance(),
                    bool timer_thread = true);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    /// \pre before the first reserve() on it
    Lane& add_lane(std::vector<std::size_t> row_bytes);
    /// A lane whose rows are reserved with reserve_weighed(); `ragged` says which columns are.
    Lane& add_weighed_lane(std::vector<std::size_t> row_bytes, std::vector<bool> ragged);
    /// Whatever has a thread needs the timer's, too.
    /// \throws std::system_error when there is none to be had
    Executor& add_executor(ExecutorKind kind);

    // -- submitting --

    /// Reserves `least` to `most` contiguous slots of one batch.
    Status reserve(Lane& lane, std::uint32_t least, std::uint32_t most, Nanos deadline,
                   Reservation& reservation) noexcept;
    /// Reserves one slot of a weighed lane, with room for its tokens. What does not fit into the
    /// open batch closes it. \pre the request alone is not above max_batch_cost
    Status reserve_weighed(Lane& lane, Weight weight, Nanos deadline,
                           Reservation& reservation) noexcept;
    /// True if nothing of a lane waits, so that its memory can serve other requests.
    bool is_empty(Lane& lane) noexcept;
    /// Publishes copied rows and wakes whom it may concern.
    void commit(Lane& lane, Reservation& reservation) noexcept;
    /// Like commit(), for a caller that will wait: if an executor is idle and nobody else is about
    /// to come, the caller takes its batch and must run it and call finish().
    bool commit_or_lead(Lane& lane, Reservation& reservation, Executor*& executor,
                        Taken& taken) noexcept;
    /// True if `rows` rows fit into the queue now.
    bool has_room(Lane& lane, std::uint64_t rows) noexcept;
    /// Gives the lane memory for one more batch.
    /// Returns the owner of memory that it replaces (of another size), or null.
    void* add_buffer(Lane& lane, std::uint32_t capacity, std::vector<std::byte*> columns,
                     void* owner, TokenMemory tokens = {});
    /// Takes a waiting request back. False when it is not waiting any more.
    bool settle(Batch& batch, std::uint32_t index, SlotState state) noexcept;
    /// A batch that will end before the queue can have more room, retained; null if there is none.
    /// Without a lane, of any weighed one.
    Batch* pending_batch(Lane* lane) noexcept;

    // -- running --

    /// Sleeps until there is work for `executor` (Ok) or it should end (Stop); lingers for callers
    /// that are about to return. After nudge() it answers Nothing, once, instead of sleeping.
    /// \pre The GIL is not held.
    Status await_work(Executor& executor) noexcept;
    /// Takes the batch that await_work() promised. Called late, with the GIL held, so that all that
    /// came meanwhile rides along. Nothing: somebody else took it.
    Status seal(Executor& executor, Taken& taken) noexcept;
    /// Leaves the batch that await_work() promised to whoever comes next. \pre instead of seal()
    void decline(Executor& executor) noexcept;
    /// Has an executor that sleeps in await_work(), or is about to, return for other things.
    void nudge(Executor& executor) noexcept;
    /// Takes a full batch if one waits, for an executor that has just run a short one.
    Status seal_next(Executor& executor, Taken& taken) noexcept;
    /// seal() for ExecutorKind::Inline: takes what is there unless it is being run already.
    Status try_take(Executor& executor, Taken& taken) noexcept;
    /// Claims the rows of a sealed batch and closes the holes of cancelled ones. Returns the rows
    /// left to run. \pre all committed
    std::uint32_t claim(Taken& taken) noexcept;
    /// True if the slab's memory should be kept for the next batch; else detach() it first.
    bool keeps_memory(const Taken& taken) noexcept;
    /// Ends the batch; `failed_rows` of its rows have an error of their own.
    /// \pre The GIL is not held.
    void finish(Executor& executor, Taken& taken, Outcome outcome, std::int32_t status,
                std::uint32_t failed_rows) noexcept;
    /// finish() by a native thread: leaves the tenant, and memory that is not kept, with the
    /// orphans.
    void finish_with_orphans(Executor& executor, Taken& taken, std::int32_t status) noexcept;
    /// Ends an executor that can run nothing any more, while others go on. \pre between two batches
    void retire(Executor& executor) noexcept;
    /// Gives back an executor lent by commit_or_lead() or try_take().
    /// True if it is an inline one and more work waits for it.
    bool give_back(Executor& executor) noexcept;

    /// An executor is about to wait for the GIL; the result goes to got_gil().
    Nanos want_gil(Executor& executor) noexcept;
    void got_gil(Executor& executor, Nanos wanted_at) noexcept;

    // -- policy, ends of life, inspection --

    Policy policy() const;
    void set_policy(const Policy& policy);
    Statistics statistics() const;
    /// The last Recorder::kCapacity batches that the model was called with and that have ended,
    /// into `into`, which has room for so many; returns how many.
    std::size_t recent_batches(BatchRecord* into) const noexcept;

    /// Refuses new requests; with `drain` the waiting ones are served, else they are refused too.
    void close(bool drain) noexcept;
    /// Ends the batches that are still running, as Abandoned.
    void abandon_running() noexcept;
    /// Waits until nothing waits or runs. False at `deadline`. \pre The GIL is not held.
    bool wait_drained(Nanos deadline) noexcept;
    /// Ends the timer thread. \pre closed and drained
    void stop_timer() noexcept { timer_.stop(); }
    bool accepting() const noexcept {
        return phase_.load(std::memory_order_acquire) == Phase::Open;
    }
    /// In the child of a fork: nothing works any more, nothing is joined, no lock is taken.
    void mark_forked() noexcept;
    bool forked() const noexcept { return phase_.load(std::memory_order_acquire) == Phase::Forked; }
    /// What a batch was called with besides its rows and their tokens.
    void count_padding(std::uint64_t rows, std::uint64_t tokens,
                       std::uint64_t padding_tokens) noexcept;
    void count_rejected(std::uint64_t rows) noexcept { Counters::add(counters_.rejected, rows); }

    /// What the timer thread does: expires, wakes, and says when it is next needed.
    Nanos on_timer(Nanos now) noexcept;

    /// True if batches end so fast that a waiting thread should spin before it sleeps.
    bool waits_are_short() const noexcept { return linger_.service() < 20 * kMicrosecond; }
    const Clock& clock() const noexcept { return clock_; }
    std::uint32_t max_batch_size() const noexcept {
        return max_batch_size_.load(std::memory_order_relaxed);
    }
    /// Tenants whose batches nobody took, or a native thread ended, and owners of memory that it
    /// did not keep; the caller owns them now.
    std::size_t take_orphans(void** into, std::size_t most);
    /// Leaves a tenant or an owner for take_orphans(). \pre mutex_ is not held
    void add_orphan(void* tenant);
    /// Owners of all slab memory, which the caller owns now. \pre nothing runs any more
    std::vector<void*> detach_all();

  private:
    /// While batches run, the timer looks this often whether somebody starves for the GIL.
    static constexpr Nanos kWatchPeriod = 1 * kMillisecond;
    /// Full batches of other lanes may go before the batch with the oldest row, this many.
    static constexpr std::uint32_t kMostPassedOver = 4;

    enum class Phase : std::uint8_t { Open, Draining, Closed, Forked };
    using Lock = std::unique_lock<std::mutex>;

    // All \pre mutex_ is held, unless said otherwise.
    Status open_next(Lane& lane, std::uint32_t least) noexcept;
    Status open_for(Lane& lane, Weight weight) noexcept;
    Slab* take_free(Lane& lane) noexcept;
    void retire_open(Lane& lane) noexcept;
    void refresh_limit(Lane& lane) noexcept;
    bool open_is_due(const Lane& lane, Slab& slab, Nanos now) const noexcept;
    std::uint32_t due_batches(Nanos now) const noexcept;
    Nanos next_due(Nanos now) const noexcept;
    void arm_for_delay(Nanos now) noexcept;
    Lane* pick(Nanos now) noexcept;
    bool take(Executor& executor, Taken& taken, Nanos now) noexcept;
    void take_slab(Lane& lane, Slab& slab, Executor& executor, Taken& taken, Nanos now) noexcept;
    Executor* choose_idle() noexcept;
    /// Chooses idle executors for all due work; wakes them after the lock is dropped.
    void dispatch(Lock& lock) noexcept;
    bool wakes_executor(bool first, std::uint32_t end) const noexcept;   // takes no mutex
    void announce(Lane& lane, const Reservation& reservation) noexcept;  // takes the mutex
    void linger(Executor& executor, Lock& lock) noexcept;
    void stop_lingering() noexcept;
    void leave_idle(Executor& executor) noexcept;
    void sleep(Executor& executor, Lock& lock, Nanos deadline) noexcept;  // without the mutex
    void make_idle(Executor& executor) noexcept;
    void expire(Slab& slab, Nanos now) noexcept;   // without the mutex for a slab that was taken
    void refuse(Lane& lane, Slab& slab) noexcept;  // takes the mutex
    void end_running() noexcept;                   // takes no mutex
    void recycle(Lane& lane, Slab& slab) noexcept;
    Nanos watch_gil(Nanos now) noexcept;
    void wake_all() noexcept;
    static void record_ages(Histogram& histogram, const Taken& taken, Nanos now) noexcept;
    void record_run(Executor& executor, const Taken& taken, Nanos now) noexcept;
    std::uint64_t record_batch(const Executor& executor, const Taken& taken, Nanos now,
                               std::uint32_t failed_rows) noexcept;

    const Clock& clock_;
    mutable std::mutex mutex_;
    Policy policy_;                                     // under mutex_
    std::vector<std::unique_ptr<Lane>> lanes_;          // under mutex_
    std::vector<std::unique_ptr<Executor>> executors_;  // under mutex_
    std::uint32_t promised_ = 0;               // executors on their way to a batch; under mutex_
    std::uint64_t batches_at_last_watch_ = 0;  // under mutex_
    std::uint64_t weighed_waiting_ = 0;        // rows of all weighed lanes; under mutex_
    Recorder recorder_;                        // under mutex_, but for delivered()
    std::vector<void*> orphans_;               // under mutex_
    Linger linger_;
    Executor* lingering_ = nullptr;                // at most one; under mutex_
    std::atomic<std::uint32_t> linger_target_{0};  // rows that end its lingering; 0: nobody does
    Counters counters_;

    std::atomic<Phase> phase_{Phase::Open};
    std::atomic<std::uint32_t> idle_{0};     // executors in state Idle
    std::atomic<std::uint32_t> running_{0};  // batches taken or refused and not finished
    // Copies for those who read without the mutex.
    std::atomic<std::uint32_t> max_batch_size_;
    std::atomic<Nanos> max_queue_delay_;
    std::atomic<std::uint32_t> drained_word_{0};  // futex word: changes when a batch ends
    Timer timer_;                                 // last: its thread uses all of the above
};

}  // namespace tidegate
