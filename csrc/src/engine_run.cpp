// Engine: what executors, leaders and inline loops do.
#include <sched.h>

#include <algorithm>
#include <utility>

#include "tidegate/compaction.hpp"
#include "tidegate/engine.hpp"
#include "tidegate/futex.hpp"
#include "tidegate/gate.hpp"

namespace tidegate {

namespace {

/// An idle executor spins this long first when its pauses are short: sleeping costs more.
/// A sleeping core takes some 25 µs to wake, and a loop that wakes, answers and asks again twice
/// that; the pauses of a lone coroutine are to be caught.
constexpr Nanos kSpin = 100 * kMicrosecond;
constexpr Nanos kShortPause = 150 * kMicrosecond;
/// One that spun sees a row at once, while whoever submitted it still holds the GIL, for as long as
/// an event loop needs to go to sleep. Asking sooner means waiting for it, asleep.
constexpr Nanos kSettle = 10 * kMicrosecond;
/// Slabs of a lane that keep their memory while nothing uses them, besides one per executor.
constexpr std::size_t kSpareSlabs = 4;
constexpr std::size_t kFewLanes = 4;
/// Of more lanes than this none keeps any: they are for keys that may never come back.
constexpr std::size_t kManyLanes = 64;

}  // namespace

void Engine::make_idle(Executor& executor) noexcept {
    executor.state = ExecutorState::Idle;
    // seq_cst: the executor's half of the Dekker pair in Slab::reserve(); due_batches() follows.
    idle_.fetch_add(1, std::memory_order_seq_cst);
}

void Engine::leave_idle(Executor& executor) noexcept {
    if (&executor == lingering_) {
        stop_lingering();
    } else {
        idle_.fetch_sub(1, std::memory_order_seq_cst);
    }
}

void Engine::sleep(Executor& executor, Lock& lock, Nanos deadline) noexcept {
    const std::uint32_t seen = executor.word.load(std::memory_order_relaxed);
    const bool spin = executor.last_pause <= kShortPause;
    lock.unlock();
    if (spin) {
        const Nanos spin_end = std::min(deadline, add_saturating(clock_.now(), kSpin));
        while (executor.word.load(std::memory_order_relaxed) == seen && clock_.now() < spin_end) {
            sched_yield();
        }
        if (executor.word.load(std::memory_order_relaxed) != seen) {
            const Nanos settled = add_saturating(clock_.now(), kSettle);
            while (clock_.now() < settled) sched_yield();
        }
    }
    futex_wait(executor.word, seen, deadline);
    lock.lock();
}

Status Engine::await_work(Executor& executor) noexcept {
    // Lingering sleeps for tens of microseconds, which the usual slack would double.
    if (executor.cycle_start == 0) use_fine_timers();
    Lock lock(mutex_);
    const Nanos free_since = clock_.now();
    if (executor.cycle_start != 0) linger_.record_cycle(free_since - executor.cycle_start);
    for (;;) {
        if (executor.state == ExecutorState::Busy || executor.state == ExecutorState::Signalled) {
            // Free, or woken by the first row of a batch: others may be on their way.
            linger(executor, lock);
            if (executor.state == ExecutorState::Signalled) break;
        }
        if (executor.state != ExecutorState::Lent) {
            if (executor.state != ExecutorState::Idle) make_idle(executor);
            const Nanos now = clock_.now();
            if (due_batches(now) > promised_) {
                leave_idle(executor);
                executor.state = ExecutorState::Signalled;
                ++promised_;
                break;
            }
            if (phase_.load(std::memory_order_relaxed) != Phase::Open) {
                leave_idle(executor);
                executor.state = ExecutorState::Gone;
                return Status::Stop;
            }
            if (std::exchange(executor.nudged, false)) {
                leave_idle(executor);
                executor.state = ExecutorState::Busy;
                executor.cycle_start = 0;  // what it does meanwhile is no run
                return Status::Nothing;
            }
            arm_for_delay(now);
        }
        sleep(executor, lock, kNever);
    }
    executor.cycle_start = clock_.now();
    executor.last_pause = executor.cycle_start - free_since;
    return Status::Ok;
}

void Engine::take_slab(Lane& lane, Slab& slab, Executor& executor, Taken& taken,
                       Nanos now) noexcept {
    taken = {&lane,   &slab,           slab.batch(),         slab.owner(),
             nullptr, slab.reserved(), DispatchReason::Full, now};
    if (lane.open.load(std::memory_order_relaxed) == &slab) {
        taken.reserved = slab.seal();
        lane.open.store(nullptr, std::memory_order_release);
        if (taken.reserved < policy_.max_batch_size) {
            taken.reason =
                policy_.max_queue_delay == 0 ? DispatchReason::Idle : DispatchReason::Delay;
        }
    } else {
        lane.ready.pop_front();
        lane.ready_rows -= taken.reserved;
        refresh_limit(lane);
        if (phase_.load(std::memory_order_relaxed) != Phase::Open) {
            taken.reason = DispatchReason::Drain;
        }
    }
    if (lane.weighed) {
        weighed_waiting_ -= taken.reserved;
        if (slab.sealed_for_cost()) taken.reason = DispatchReason::Cost;
    }
    lane.passed_over = 0;
    // Whoever runs one row here and now need not look at the clock again; else claim() does.
    const bool at_once =
        executor.kind == ExecutorKind::Inline || executor.state == ExecutorState::Lent;
    taken.model_started = at_once && taken.reserved == 1 ? now : kNever;
    executor.running.push_back({taken.batch, taken.reserved, now});
    executor.busy_since = now;
    running_.fetch_add(1, std::memory_order_relaxed);  // under mutex_, as the look at the queue is
}

bool Engine::take(Executor& executor, Taken& taken, Nanos now) noexcept {
    Lane* lane = pick(now);
    if (lane == nullptr) return false;
    Slab* slab =
        lane->ready.empty() ? lane->open.load(std::memory_order_relaxed) : lane->ready.front();
    take_slab(*lane, *slab, executor, taken, now);
    return true;
}

Status Engine::seal(Executor& executor, Taken& taken) noexcept {
    Lock lock(mutex_);
    --promised_;
    executor.state = ExecutorState::Busy;
    if (!take(executor, taken, clock_.now())) return Status::Nothing;
    if (idle_.load(std::memory_order_relaxed) != 0) dispatch(lock);
    return Status::Ok;
}

void Engine::decline(Executor& executor) noexcept {
    Lock lock(mutex_);
    --promised_;
    executor.state = ExecutorState::Busy;
    executor.cycle_start = 0;  // how long it stays away is no run
    dispatch(lock);
}

void Engine::nudge(Executor& executor) noexcept {
    {
        const std::lock_guard lock(mutex_);
        executor.nudged = true;
        executor.word.fetch_add(1, std::memory_order_relaxed);  // read under the mutex
    }
    futex_wake_all(executor.word);
}

Status Engine::seal_next(Executor& executor, Taken& taken) noexcept {
    const Lock lock(mutex_);
    std::size_t ready = 0;
    for (const auto& lane : lanes_) ready += lane->ready.size();
    if (ready <= promised_) return Status::Nothing;
    const Nanos now = clock_.now();
    Lane* lane = pick(now);
    if (lane == nullptr || lane->ready.empty()) return Status::Nothing;
    take_slab(*lane, *lane->ready.front(), executor, taken, now);
    return Status::Ok;
}

Status Engine::try_take(Executor& executor, Taken& taken) noexcept {
    const Lock lock(mutex_);
    if (executor.state != ExecutorState::Idle || forked()) return Status::Nothing;
    const Nanos now = clock_.now();
    if (!take(executor, taken, now)) return Status::Nothing;
    executor.state = ExecutorState::Busy;
    executor.cycle_start = now;
    return Status::Ok;
}

void Engine::record_ages(Histogram& histogram, const Taken& taken, Nanos now) noexcept {
    Histogram::Tally tally(histogram);
    for (std::uint32_t row = 0; row < taken.reserved; ++row) {
        if (taken.batch->slot(row) != SlotState::Claimed) continue;
        const Nanos age = now - taken.slab->submitted(row);
        tally.record(static_cast<std::uint64_t>(std::max<Nanos>(0, age)));
    }
}

std::uint32_t Engine::claim(Taken& taken) noexcept {
    Batch& batch = *taken.batch;
    taken.tenant = std::exchange(batch.tenant, nullptr);
    // A deadline that has passed counts, even if the timer has not come to it yet. Relaxed: the
    // commits were acquired.
    if (taken.slab->earliest_deadline().load(std::memory_order_relaxed) <= taken.started) {
        expire(*taken.slab, taken.started);
    }
    const std::vector<std::uint32_t> holes = batch.claim(taken.reserved);
    if (!holes.empty()) close_holes(taken, holes);
    const std::uint32_t live = batch.live();
    record_ages(counters_.queue_duration, taken, taken.started);
    std::uint32_t first = 0;
    while (first < taken.reserved && batch.slot(first) != SlotState::Claimed) ++first;
    taken.oldest = taken.slab->submitted(first < taken.reserved ? first : 0);
    if (taken.model_started == kNever) taken.model_started = clock_.now();
    return live;
}

bool Engine::keeps_memory(const Taken& taken) noexcept {
    const std::lock_guard lock(mutex_);
    // With many lanes each keeps little, and whoever gets the memory back gives it to another.
    const std::size_t lanes = taken.lane->weighed ? lanes_.size() : 1;
    const std::size_t spare = lanes > kManyLanes  ? 0
                              : lanes > kFewLanes ? 1
                                                  : kSpareSlabs + executors_.size();
    return taken.slab->capacity() == policy_.max_batch_size &&
           taken.slab->token_capacity() >= taken.lane->token_capacity &&
           taken.lane->free.size() < spare;
}

void Engine::recycle(Lane& lane, Slab& slab) noexcept {
    (slab.attached() ? lane.free : lane.bare).push_back(&slab);
}

void Engine::record_run(Executor& executor, const Taken& taken, Nanos now) noexcept {
    const Nanos run = now - taken.started;
    Nanos& typical = executor.typical_run;
    // Falls at once and rises slowly: what a run takes when nothing gets in its way.
    typical = typical == 0 || run < typical ? run : typical + (run - typical) / 32;
    ++executor.runs;
    linger_.record_batch(taken.batch->live(),
                         taken.lane->weighed ? weighed_waiting_ : taken.lane->waiting_rows());
}

std::uint64_t Engine::record_batch(const Executor& executor, const Taken& taken, Nanos now,
                                   std::uint32_t failed_rows) noexcept {
    BatchRecord* const added = recorder_.add();
    if (added == nullptr) return ~std::uint64_t{0};
    BatchRecord& record = *added;
    record.submitted = taken.oldest;
    record.taken = taken.started;
    record.model_started = taken.model_started;
    record.model_ended = now;
    record.rows = taken.batch->live();
    record.failed_rows = failed_rows;
    record.executor = executor.number;
    record.reason = taken.reason;
    record.outcome = taken.batch->outcome();
    record.led = executor.state == ExecutorState::Lent;
    return record.sequence;
}

void Engine::finish(Executor& executor, Taken& taken, Outcome outcome, std::int32_t status,
                    std::uint32_t failed_rows) noexcept {
    const Nanos now = clock_.now();
    Batch& batch = *taken.batch;
    const std::uint32_t live = batch.live();
    const auto run = static_cast<std::uint64_t>(std::max<Nanos>(0, now - taken.started));
    record_ages(counters_.request_duration, taken, now);
    const bool decided = batch.decide(outcome, status);  // not if it was abandoned
    const std::uint32_t failed = outcome == Outcome::Completed ? failed_rows : live;
    std::uint64_t sequence = 0;
    {
        const std::lock_guard lock(mutex_);
        std::erase_if(executor.running,
                      [&](const Executor::Running& other) { return other.batch == &batch; });
        if (live > 0) {
            record_run(executor, taken, now);
            sequence = record_batch(executor, taken, now, decided ? failed : 0);
        }
        recycle(*taken.lane, *taken.slab);
    }
    // Counted before the callers wake, so that they find themselves counted.
    if (live > 0) {
        Counters::add(counters_.batches);
        Counters::add(counters_.rows, live);
        Counters::add(counters_.dispatched[static_cast<std::size_t>(taken.reason)]);
        counters_.batch_duration.record(run);
        counters_.batch_size.record(live);
    }
    if (decided) {
        Counters::add(counters_.completed, live - failed);
        Counters::add(counters_.failed, failed);
    }
    const bool told = decided && batch.publish();
    batch.release();
    taken.batch = nullptr;
    // Reading the clock is a good part of what a batch of one row takes in all.
    if (live > 0) recorder_.delivered(sequence, told ? clock_.now() : now);
    end_running();  // last, so that whoever waited for it finds every request ended
}

void Engine::finish_with_orphans(Executor& executor, Taken& taken, std::int32_t status) noexcept {
    // Outputs belong to the tenant, which only a holder of the GIL may let go of. Noted first,
    // since finish() lets the slab go; left after it, since callers may still read the outputs.
    void* const tenant = taken.tenant;
    void* const owner = keeps_memory(taken) ? nullptr : taken.slab->detach();
    finish(executor, taken, status == 0 ? Outcome::Completed : Outcome::Failed, status, 0);
    if (tenant != nullptr) add_orphan(tenant);
    if (owner != nullptr) add_orphan(owner);
}

void Engine::retire(Executor& executor) noexcept {
    Lock lock(mutex_);
    executor.state = ExecutorState::Gone;
    dispatch(lock);  // it may have taken the place of one that is idle
}

bool Engine::give_back(Executor& executor) noexcept {
    Lock lock(mutex_);
    const Nanos now = clock_.now();
    if (executor.kind == ExecutorKind::Inline) {
        linger_.record_cycle(now - executor.cycle_start);
        executor.state = ExecutorState::Idle;
        return due_batches(now) > 0;
    }
    if (executor.state != ExecutorState::Lent) return false;
    linger_.record_cycle(now - executor.cycle_start);
    make_idle(executor);
    if (phase_.load(std::memory_order_relaxed) != Phase::Open) {
        wake_all();
    } else {
        arm_for_delay(now);  // the policy may have got a delay since the executor was lent
        dispatch(lock);
    }
    return false;
}

}  // namespace tidegate
