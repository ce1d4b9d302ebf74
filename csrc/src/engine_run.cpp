// Engine: what executors, leaders and inline loops do.
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "tidegate/engine.hpp"
#include "tidegate/futex.hpp"
#include "tidegate/gate.hpp"

namespace tidegate {

namespace {

/// An idle executor spins this long first when its pauses are short: sleeping costs more.
constexpr Nanos kSpin = 20 * kMicrosecond;
constexpr Nanos kShortPause = 60 * kMicrosecond;
/// Slabs of a lane that keep their memory while nothing uses them, besides one per executor.
constexpr std::size_t kSpareSlabs = 4;

}  // namespace

bool Engine::open_is_due(Slab& slab, Nanos now) const noexcept {
    const std::uint32_t reserved = slab.reserved();
    if (reserved == 0) return false;
    // No more rows can come: waiting for them would be in vain.
    if (reserved >= slab.limit().load(std::memory_order_relaxed)) return true;
    if (policy_.max_queue_delay == 0) return true;
    // kNever for the moment between reservation and store; its owner announces it later.
    const Nanos oldest = slab.oldest().load(std::memory_order_seq_cst);
    return oldest != kNever && add_saturating(oldest, policy_.max_queue_delay) <= now;
}

std::uint32_t Engine::due_batches(Nanos now) const noexcept {
    std::size_t due = 0;
    for (const auto& lane : lanes_) {
        due += lane->ready.size();
        Slab* open = lane->open.load(std::memory_order_relaxed);
        if (open != nullptr && open_is_due(*open, now)) ++due;
    }
    return static_cast<std::uint32_t>(due);
}

Nanos Engine::next_due(Nanos now) const noexcept {
    Nanos next = kNever;
    for (const auto& lane : lanes_) {
        Slab* open = lane->open.load(std::memory_order_relaxed);
        if (open == nullptr || open->reserved() == 0) continue;
        // seq_cst: pairs with reserve().
        const Nanos due = add_saturating(open->oldest().load(std::memory_order_seq_cst),
                                         policy_.max_queue_delay);
        // What is due already is dispatched at once and needs no timer.
        if (due > now) next = std::min(next, due);
    }
    return next;
}

void Engine::arm_for_delay(Nanos now) noexcept {
    if (policy_.max_queue_delay == 0) return;
    if (const Nanos next = next_due(now); next != kNever) timer_.arm(next);
}

Executor* Engine::choose_idle() noexcept {
    for (const auto& executor : executors_) {
        if (executor->kind == ExecutorKind::Thread && executor->state == ExecutorState::Idle) {
            return executor.get();
        }
    }
    return nullptr;
}

void Engine::dispatch(Lock& lock) noexcept {
    std::array<Executor*, 16> chosen{};
    std::size_t count = 0;
    const std::uint32_t due = due_batches(clock_.now());
    while (promised_ < due && count < chosen.size()) {
        Executor* executor = choose_idle();
        if (executor == nullptr) break;
        executor->state = ExecutorState::Signalled;
        ++promised_;
        idle_.fetch_sub(1, std::memory_order_seq_cst);
        // Relaxed: the state under the mutex decides; the word only ends the sleep.
        executor->word.fetch_add(1, std::memory_order_relaxed);
        chosen[count++] = executor;
    }
    lock.unlock();
    for (std::size_t i = 0; i < count; ++i) futex_wake(chosen[i]->word, 1);
}

void Engine::make_idle(Executor& executor, Nanos now) noexcept {
    executor.state = ExecutorState::Idle;
    executor.idle_since = now;
    // seq_cst: the executor's half of the Dekker pair in Slab::reserve(); due_batches() follows.
    idle_.fetch_add(1, std::memory_order_seq_cst);
}

Status Engine::await_work(Executor& executor) noexcept {
    Lock lock(mutex_);
    for (;;) {
        Nanos now = clock_.now();
        if (executor.state != ExecutorState::Lent) {
            if (executor.state != ExecutorState::Idle) make_idle(executor, now);
            const std::uint32_t due = due_batches(now);
            if (due > promised_) {
                executor.state = ExecutorState::Signalled;
                idle_.fetch_sub(1, std::memory_order_seq_cst);
                ++promised_;
                break;
            }
            if (phase_.load(std::memory_order_relaxed) != Phase::Open) {
                executor.state = ExecutorState::Gone;
                idle_.fetch_sub(1, std::memory_order_seq_cst);
                return Status::Stop;
            }
            arm_for_delay(now);
        }
        const std::uint32_t seen = executor.word.load(std::memory_order_relaxed);
        const bool spin = executor.last_pause <= kShortPause;
        lock.unlock();
        if (spin) {
            const Nanos spin_end = now + kSpin;
            while (executor.word.load(std::memory_order_relaxed) == seen &&
                   clock_.now() < spin_end) {
                sched_yield();
            }
        }
        futex_wait(executor.word, seen, kNever);
        lock.lock();
        if (executor.state == ExecutorState::Signalled) break;
    }
    executor.last_pause = clock_.now() - executor.idle_since;
    const bool may_linger = policy_.max_queue_delay == 0;
    lock.unlock();
    if (may_linger) linger(executor);
    return Status::Ok;
}

void Engine::linger(Executor&) noexcept {
    Slab* slab = nullptr;
    std::uint64_t generation = 0;
    std::uint32_t waiting = 0;
    std::uint32_t target = 0;
    {
        const Lock lock(mutex_);
        if (phase_.load(std::memory_order_relaxed) != Phase::Open) return;
        for (const auto& lane : lanes_) {
            if (!lane->ready.empty()) return;
            Slab* open = lane->open.load(std::memory_order_relaxed);
            if (open != nullptr && open->reserved() > 0) slab = open;
        }
        if (slab == nullptr) return;
        generation = slab->generation();
        waiting = slab->reserved();
        const std::uint32_t more = linger_.expected_more(waiting);
        if (more == 0) return;
        target = std::min(waiting + more, slab->limit().load(std::memory_order_relaxed));
    }
    const Nanos gap = linger_.gap();
    const Nanos start = clock_.now();
    const Nanos end = start + linger_.longest();
    Nanos last_arrival = start;
    std::uint32_t seen = waiting;
    Nanos now = start;
    while (seen < target && now < end && now - last_arrival < gap) {
        sched_yield();
        now = clock_.now();
        const std::uint32_t reserved = slab->reserved();
        // Looked at after the rows, which are of this generation then.
        if (slab->generation() != generation) return;  // somebody else took it
        if (reserved != seen) last_arrival = now;
        seen = reserved;
    }
    linger_.record_linger(waiting, seen - waiting, now - start);
}

Lane* Engine::pick(Nanos now) noexcept {
    Lane* chosen = nullptr;
    Nanos oldest = kNever;
    for (const auto& lane : lanes_) {
        Slab* slab = lane->ready.empty() ? nullptr : lane->ready.front();
        if (slab == nullptr) {
            Slab* open = lane->open.load(std::memory_order_relaxed);
            if (open != nullptr && open_is_due(*open, now)) slab = open;
        }
        if (slab == nullptr) continue;
        const Nanos since = slab->oldest().load(std::memory_order_relaxed);
        if (chosen == nullptr || since < oldest) {
            chosen = lane.get();
            oldest = since;
        }
    }
    return chosen;
}

void Engine::take_slab(Lane& lane, Slab& slab, Executor& executor, Taken& taken,
                       Nanos now) noexcept {
    taken = {&lane,           &slab, slab.batch(), slab.owner(), nullptr,
             slab.reserved(), DispatchReason::Full, now};
    if (lane.open.load(std::memory_order_relaxed) == &slab) {
        taken.reserved = slab.seal();
        lane.open.store(nullptr, std::memory_order_release);
        if (taken.reserved < policy_.max_batch_size) {
            taken.reason = policy_.max_queue_delay == 0 ? DispatchReason::Idle
                                                        : DispatchReason::Delay;
        }
    } else {
        lane.ready.pop_front();
        lane.ready_rows -= taken.reserved;
        refresh_limit(lane);
        if (phase_.load(std::memory_order_relaxed) != Phase::Open) {
            taken.reason = DispatchReason::Drain;
        }
    }
    executor.running.push_back({taken.batch, taken.reserved});
    executor.busy_since = now;
    running_.fetch_add(1, std::memory_order_relaxed);  // under mutex_, as the look at the queue is
}

bool Engine::take(Executor& executor, Taken& taken, Nanos now) noexcept {
    Lane* lane = pick(now);
    if (lane == nullptr) return false;
    Slab* slab = lane->ready.empty() ? lane->open.load(std::memory_order_relaxed)
                                     : lane->ready.front();
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

Status Engine::seal_next(Executor& executor, Taken& taken) noexcept {
    const Lock lock(mutex_);
    const Nanos now = clock_.now();
    for (const auto& lane : lanes_) {
        if (!lane->ready.empty() && promised_ < lane->ready.size()) {
            take_slab(*lane, *lane->ready.front(), executor, taken, now);
            return Status::Ok;
        }
    }
    return Status::Nothing;
}

Status Engine::try_take(Executor& executor, Taken& taken) noexcept {
    const Lock lock(mutex_);
    if (executor.state != ExecutorState::Idle) return Status::Nothing;
    if (!take(executor, taken, clock_.now())) return Status::Nothing;
    executor.state = ExecutorState::Busy;
    return Status::Ok;
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
    // The last live row moves into the first hole, and so on; holes at the end just fall off.
    std::uint32_t last = taken.reserved;
    std::size_t end = holes.size();
    for (std::size_t next = 0; next < end;) {
        --last;
        if (holes[end - 1] == last) {
            --end;
            continue;
        }
        const std::uint32_t hole = holes[next++];
        for (std::size_t column = 0; column < taken.slab->columns().size(); ++column) {
            const std::size_t bytes = taken.lane->row_bytes[column];
            std::byte* base = taken.slab->column(column);
            std::memcpy(base + hole * bytes, base + last * bytes, bytes);
        }
        batch.move_row(last, hole);
    }
    const std::uint32_t live = batch.live();
    for (std::uint32_t row = 0; row < taken.reserved; ++row) {
        if (batch.slot(row) == SlotState::Claimed) {
            counters_.queue_duration.record(static_cast<std::uint64_t>(
                std::max<Nanos>(0, taken.started - taken.slab->submitted(row))));
        }
    }
    return live;
}

bool Engine::keeps_memory(const Taken& taken) noexcept {
    const std::lock_guard lock(mutex_);
    return taken.slab->capacity() == policy_.max_batch_size &&
           taken.lane->free.size() < kSpareSlabs + executors_.size();
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
    linger_.record_batch(taken.batch->live(), taken.lane->waiting_rows(),
                         now - executor.busy_since);
}

void Engine::finish(Executor& executor, Taken& taken, Outcome outcome, std::int32_t status,
                    std::uint32_t failed_rows) noexcept {
    const Nanos now = clock_.now();
    Batch& batch = *taken.batch;
    const std::uint32_t live = batch.live();
    const auto run = static_cast<std::uint64_t>(std::max<Nanos>(0, now - taken.started));
    for (std::uint32_t row = 0; row < taken.reserved; ++row) {
        if (batch.slot(row) == SlotState::Claimed) {
            counters_.request_duration.record(static_cast<std::uint64_t>(
                std::max<Nanos>(0, now - taken.slab->submitted(row))));
        }
    }
    const bool decided = batch.decide(outcome, status);  // not if it was abandoned
    {
        const std::lock_guard lock(mutex_);
        std::erase_if(executor.running,
                      [&](const Executor::Running& other) { return other.batch == &batch; });
        if (live > 0) record_run(executor, taken, now);
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
        const std::uint32_t failed = outcome == Outcome::Completed ? failed_rows : live;
        Counters::add(counters_.completed, live - failed);
        Counters::add(counters_.failed, failed);
    }
    if (decided) batch.publish();
    batch.release();
    taken.batch = nullptr;
    // Last, so that whoever waited until all is drained finds every request ended. seq_cst, a Dekker
    // pair with close() and wait_drained(): either that sees the count fall, or we see the closing.
    running_.fetch_sub(1, std::memory_order_seq_cst);
    if (phase_.load(std::memory_order_seq_cst) != Phase::Open) {
        drained_word_.fetch_add(1, std::memory_order_seq_cst);
        futex_wake_all(drained_word_);
    }
}

void Engine::give_back(Executor& executor) noexcept {
    Lock lock(mutex_);
    if (executor.kind == ExecutorKind::Inline) {
        executor.state = ExecutorState::Idle;
        return;
    }
    if (executor.state != ExecutorState::Lent) return;
    const Nanos now = clock_.now();
    make_idle(executor, now);
    if (phase_.load(std::memory_order_relaxed) != Phase::Open) {
        wake_all();
    } else {
        arm_for_delay(now);  // the policy may have got a delay since the executor was lent
        dispatch(lock);
    }
}

}  // namespace tidegate
