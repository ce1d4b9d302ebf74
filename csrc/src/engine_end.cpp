// Engine: deadlines, closing, fork, and watching over the GIL.
#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "tidegate/engine.hpp"
#include "tidegate/futex.hpp"
#include "tidegate/gate.hpp"

namespace tidegate {

namespace {

/// Every so many runs one is nudged early, to learn whether that makes it shorter.
constexpr std::uint32_t kTrialPeriod = 32;

}  // namespace

void Engine::expire(Slab& slab, Nanos now) noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;
    Batch& batch = *slab.batch();
    Nanos earliest = kNever;
    bool settled = false;
    // Reset first, by an exchange: see Slab::set_deadline().
    slab.earliest_deadline().exchange(kNever, std::memory_order_seq_cst);
    const std::uint32_t reserved = slab.reserved();
    for (std::uint32_t row = 0; row < reserved; ++row) {
        const Nanos deadline = slab.deadline(row).load(relaxed);
        if (deadline == kNever || batch.slot(row) != SlotState::Queued) continue;
        if (deadline > now) {
            earliest = std::min(earliest, deadline);
        } else if (batch.settle(row, SlotState::Expired)) {
            Counters::add(counters_.expired);
            settled = true;
        }
    }
    Nanos known = slab.earliest_deadline().load(relaxed);
    while (earliest < known &&
           !slab.earliest_deadline().compare_exchange_weak(known, earliest, relaxed)) {
    }
    if (settled) batch.announce_settled();
}

Nanos Engine::on_timer(Nanos now) noexcept {
    Lock lock(mutex_);
    Nanos next = kNever;
    const auto check = [&](Slab& slab) {
        auto& earliest = slab.earliest_deadline();
        // seq_cst: pairs with Slab::set_deadline().
        if (earliest.load(std::memory_order_seq_cst) <= now) expire(slab, now);
        next = std::min(next, earliest.load(std::memory_order_seq_cst));
    };
    for (const auto& lane : lanes_) {
        for (Slab* slab : lane->ready) check(*slab);
        if (Slab* open = lane->open.load(std::memory_order_relaxed)) check(*open);
    }
    if (policy_.max_queue_delay != 0 && idle_.load(std::memory_order_relaxed) != 0) {
        next = std::min(next, next_due(now));
    }
    next = std::min(next, watch_gil(now));
    dispatch(lock);
    return next;
}

Nanos Engine::want_gil(Executor& executor) noexcept {
    Gate& gate = Gate::instance();
    const Nanos now = gate.want(clock_);
    // seq_cst, a Dekker pair with Timer::run(): either arm() sees its reset, or on_timer() this.
    executor.gil_wanted_at.store(now, std::memory_order_seq_cst);
    timer_.arm(now + kWatchPeriod);
    return now;
}

void Engine::got_gil(Executor& executor, Nanos wanted_at) noexcept {
    executor.gil_wanted_at.store(kNever, std::memory_order_relaxed);
    Gate::instance().got(wanted_at, clock_);
}

Nanos Engine::watch_gil(Nanos now) noexcept {
    Gate& gate = Gate::instance();
    Nanos next = kNever;
    bool starving = false;
    for (const auto& executor : executors_) {
        const Nanos wanted_at = executor->gil_wanted_at.load(std::memory_order_seq_cst);
        if (wanted_at != kNever) {
            // Looked at when it has waited for long, and more often from then on.
            starving = starving || now - wanted_at >= kWatchPeriod;
            next = std::min(next, std::max(wanted_at + kWatchPeriod, now + kWatchPeriod / 4));
            continue;
        }
        // A batch on a device waits for no GIL.
        if (executor->running.empty() || executor->kind == ExecutorKind::Device) continue;
        // The model itself may be waiting for the GIL on its way back. It is overdue when it takes
        // longer than it usually does; then ask, and ask less often as time goes by.
        const Nanos elapsed = now - executor->busy_since;
        const bool trial = executor->runs % kTrialPeriod == kTrialPeriod - 1;
        // Somewhat more than it takes when all is well, or every other run would be looked at.
        const Nanos expected = trial || executor->typical_run == 0
                                   ? kWatchPeriod / 2
                                   : executor->typical_run + executor->typical_run / 8;
        const Nanos pause = std::max(kWatchPeriod / 4, elapsed / 8);
        if (elapsed < expected) {
            next = std::min(next, executor->busy_since + expected);
            continue;
        }
        if (trial || gate.contended()) gate.ask();
        if (elapsed > 2 * expected + kWatchPeriod && !trial) gate.nudge();
        next = std::min(next, now + pause);
    }
    if (starving) gate.nudge();
    // Stay awake through a busy spell instead of being woken for each batch of it.
    const std::uint64_t batches = counters_.batches.load(std::memory_order_relaxed);
    if (batches != batches_at_last_watch_) next = std::min(next, now + kWatchPeriod);
    batches_at_last_watch_ = batches;
    return next;
}

void Engine::wake_all() noexcept {
    for (const auto& executor : executors_) {
        executor->word.fetch_add(1, std::memory_order_relaxed);
        futex_wake_all(executor->word);
    }
}

void Engine::refuse(Lane& lane, Slab& slab) noexcept {
    Batch& batch = *slab.batch();
    const std::uint32_t reserved = slab.reserved();
    // Not under the mutex: who copies a row may need the GIL to go on, and its holder the mutex.
    slab.wait_committed(reserved);
    for (std::uint32_t row = 0; row < reserved; ++row) {
        if (batch.settle(row, SlotState::Refused)) Counters::add(counters_.closed);
    }
    {
        const std::lock_guard lock(mutex_);
        if (batch.tenant != nullptr) orphans_.push_back(batch.tenant);
        recycle(lane, slab);
    }
    if (batch.decide(Outcome::Abandoned, 0)) batch.publish();
    batch.release();
    end_running();
}

void Engine::close(bool drain) noexcept {
    if (forked()) return;
    std::vector<std::pair<Lane*, Slab*>> refused;
    {
        const Lock lock(mutex_);
        const Phase phase = phase_.load(std::memory_order_relaxed);
        if (phase == Phase::Closed || (phase == Phase::Draining && drain)) return;
        // seq_cst: pairs with accepting(), and with end_running() for wait_drained().
        phase_.store(drain ? Phase::Draining : Phase::Closed, std::memory_order_seq_cst);
        for (const auto& lane : lanes_) {
            if (lane->open.load(std::memory_order_relaxed) != nullptr) retire_open(*lane);
            if (drain) continue;
            for (Slab* slab : lane->ready) {
                refused.emplace_back(lane.get(), slab);
                if (lane->weighed) weighed_waiting_ -= slab->reserved();
            }
            lane->ready.clear();
            lane->ready_rows = 0;
        }
        // Not drained before they have ended.
        running_.fetch_add(static_cast<std::uint32_t>(refused.size()), std::memory_order_relaxed);
        drained_word_.fetch_add(1, std::memory_order_seq_cst);  // pairs with wait_drained()
        futex_wake_all(drained_word_);
        wake_all();  // they find work, or that they should stop
    }
    for (const auto& [lane, slab] : refused) refuse(*lane, *slab);
}

void Engine::end_running() noexcept {
    // seq_cst, a Dekker pair with close() and wait_drained(): either that sees the count fall, or
    // we see the closing.
    running_.fetch_sub(1, std::memory_order_seq_cst);
    if (phase_.load(std::memory_order_seq_cst) != Phase::Open) {
        drained_word_.fetch_add(1, std::memory_order_seq_cst);
        futex_wake_all(drained_word_);
    }
}

void Engine::abandon_running() noexcept {
    if (forked()) return;
    const std::lock_guard lock(mutex_);
    for (const auto& executor : executors_) {
        for (const auto& [batch, rows, since] : executor->running) {
            if (!batch->decide(Outcome::Abandoned, 0)) continue;
            for (std::uint32_t row = 0; row < rows; ++row) {
                // Not claimed yet, or claimed and with the model: either way it ends here.
                if (batch->settle(row, SlotState::Refused) ||
                    batch->slot(row) == SlotState::Claimed) {
                    Counters::add(counters_.closed);
                }
            }
            batch->publish();
        }
    }
}

bool Engine::wait_drained(Nanos deadline) noexcept {
    for (;;) {
        if (forked()) return true;  // nothing here will end any more
        const std::uint32_t seen = drained_word_.load(std::memory_order_seq_cst);
        {
            const std::lock_guard lock(mutex_);
            std::uint64_t waiting = running_.load(std::memory_order_seq_cst);
            for (const auto& lane : lanes_) waiting += lane->waiting_rows();
            if (waiting == 0) return true;
        }
        if (futex_wait(drained_word_, seen, deadline) == FutexResult::TimedOut) return false;
    }
}

void Engine::mark_forked() noexcept {
    phase_.store(Phase::Forked, std::memory_order_release);
    // This is the only thread, and one that is not here may have held the mutex.
    new (&mutex_) std::mutex;
    timer_.forget_thread();
    for (const auto& lane : lanes_) lane->open.store(nullptr, std::memory_order_release);
}

}  // namespace tidegate
