// Engine: what submitting threads do.
#include <algorithm>

#include "tidegate/engine.hpp"

namespace tidegate {

Status Engine::reserve(Lane& lane, std::uint32_t least, std::uint32_t most, Nanos deadline,
                       Reservation& reservation) noexcept {
    for (;;) {
        // acquire: pairs with open_next(); the slab's fields are those of this generation.
        Slab* slab = lane.open.load(std::memory_order_acquire);
        std::uint32_t index = 0;
        const std::uint32_t count = slab == nullptr ? 0 : slab->reserve(least, most, index);
        if (count != 0) {
            const Nanos now = clock_.now();
            reservation = {slab, slab->batch(), slab->owner(), index, count, 0, now, deadline};
            // seq_cst, a Dekker pair with next_due(): either it sees this, or announce() sees that
            // an executor is idle and arms the timer.
            if (index == 0) slab->oldest().store(now, std::memory_order_seq_cst);
            for (std::uint32_t row = index; row < index + count; ++row) {
                slab->submitted(row) = now;
            }
            if (deadline != kNever) slab->set_deadline(index, count, deadline);
            Counters::add(counters_.submitted, count);
            return Status::Ok;
        }
        if (forked()) return Status::Forked;
        Lock lock(mutex_);
        if (phase_.load(std::memory_order_relaxed) != Phase::Open) return Status::Closed;
        if (lane.open.load(std::memory_order_relaxed) != slab) continue;
        const Status status = open_next(lane, least);
        if (!lane.ready.empty()) dispatch(lock);  // it may have retired the open slab
        if (status != Status::Ok) return status;
    }
}

Status Engine::open_next(Lane& lane, std::uint32_t least) noexcept {
    const std::uint64_t queue_rows = policy_.queue_rows();
    if (Slab* slab = lane.open.load(std::memory_order_relaxed); slab != nullptr) {
        refresh_limit(lane);
        const std::uint32_t reserved = slab->reserved();
        const std::uint32_t limit = slab->limit().load(std::memory_order_relaxed);
        if (limit >= reserved + least) return Status::Ok;
        const bool outgrown = slab->capacity() < policy_.max_batch_size;
        if ((reserved == 0 && !outgrown) || lane.ready_rows + reserved + least > queue_rows) {
            return Status::QueueFull;
        }
        retire_open(lane);
    }
    if (lane.ready_rows + least > queue_rows) return Status::QueueFull;
    Slab* slab = take_free(lane);
    if (slab == nullptr) return Status::BufferNeeded;
    const auto limit = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(policy_.max_batch_size, queue_rows - lane.ready_rows));
    slab->open(new Batch(slab->capacity()), limit);
    // release: pairs with reserve().
    lane.open.store(slab, std::memory_order_release);
    return Status::Ok;
}

Slab* Engine::take_free(Lane& lane) noexcept {
    while (!lane.free.empty()) {
        Slab* slab = lane.free.back();
        lane.free.pop_back();
        if (slab->capacity() >= policy_.max_batch_size &&
            slab->token_capacity() >= lane.token_capacity) {
            return slab;
        }
        lane.bare.push_back(slab);  // too small since the policy changed, or rows got longer
    }
    return nullptr;
}

void Engine::retire_open(Lane& lane) noexcept {
    Slab* slab = lane.open.load(std::memory_order_relaxed);
    lane.open.store(nullptr, std::memory_order_release);
    if (const std::uint32_t reserved = slab->seal(); reserved != 0) {
        lane.ready_rows += reserved;
        lane.ready.push_back(slab);
    } else {
        slab->batch()->release();
        recycle(lane, *slab);
    }
}

void Engine::refresh_limit(Lane& lane) noexcept {
    Slab* slab = lane.open.load(std::memory_order_relaxed);
    // What is full to its cost stays so, for whoever filled it to notice and close.
    if (slab == nullptr || slab->sealed_for_cost()) return;
    const std::uint64_t queue_rows = policy_.queue_rows();
    const std::uint64_t largest = std::min(policy_.max_batch_size, slab->capacity());
    // Weighed lanes share the queue; reserve_weighed() counts what waits in all of them.
    const std::uint64_t room = lane.weighed                   ? largest
                               : queue_rows > lane.ready_rows ? queue_rows - lane.ready_rows
                                                              : 0;
    slab->limit().store(static_cast<std::uint32_t>(std::min(largest, room)),
                        std::memory_order_relaxed);
}

void Engine::commit(Lane& lane, Reservation& reservation) noexcept {
    reservation.slab->commit(reservation.count);
    announce(lane, reservation);
}

void Engine::announce(Lane& lane, const Reservation& reservation) noexcept {
    const std::uint32_t end = reservation.index + reservation.count;
    // Relaxed: the limit that the reservation was made under, or a later one.
    const bool filled = end >= reservation.slab->limit().load(std::memory_order_relaxed);
    if (filled) {
        Lock lock(mutex_);
        if (lane.open.load(std::memory_order_relaxed) == reservation.slab &&
            (lane.weighed || reservation.slab->reserved() >= policy_.max_batch_size)) {
            retire_open(lane);
        }
        dispatch(lock);
    } else if (wakes_executor(reservation.index == 0, end)) {
        const Nanos delay = max_queue_delay_.load(std::memory_order_relaxed);
        if (delay == 0) {
            Lock lock(mutex_);
            dispatch(lock);
        } else {
            timer_.arm(add_saturating(reservation.submitted, delay));
        }
    }
    if (reservation.deadline != kNever) timer_.arm(reservation.deadline);
}

bool Engine::wakes_executor(bool first, std::uint32_t end) const noexcept {
    // seq_cst, both: the submitter's halves of the Dekker pairs in Slab::reserve() and
    // stop_lingering().
    const std::uint32_t target = linger_target_.load(std::memory_order_seq_cst);
    if (target != 0) return end >= target;
    return first && idle_.load(std::memory_order_seq_cst) != 0;
}

bool Engine::commit_or_lead(Lane& lane, Reservation& reservation, Executor*& executor,
                            Taken& taken) noexcept {
    reservation.slab->commit(reservation.count);
    // A deadline could not be kept while the caller is in the model, so such a caller never leads.
    if (reservation.deadline == kNever && reservation.index == 0 && wakes_executor(true, 1) &&
        max_queue_delay_.load(std::memory_order_relaxed) == 0) {
        Lock lock(mutex_);
        Executor* idle = policy_.caller_runs ? choose_idle() : nullptr;
        if (idle != nullptr && idle->kind == ExecutorKind::Thread && promised_ == 0 &&
            lane.ready.empty() && lane.open.load(std::memory_order_relaxed) == reservation.slab &&
            // Another executor may have run our batch meanwhile and the slab be open for the next.
            reservation.slab->batch() == reservation.batch &&
            reservation.slab->reserved() == reservation.count && linger_.alone(reservation.count)) {
            leave_idle(*idle);
            idle->state = ExecutorState::Lent;
            idle->cycle_start = reservation.submitted;
            take_slab(lane, *reservation.slab, *idle, taken, reservation.submitted);
            executor = idle;
            // The model may have to wait for the GIL on its way back.
            timer_.arm(reservation.submitted + kWatchPeriod);
            Counters::add(counters_.led);
            // If it lingered, it may have held back the rows of another lane.
            if (idle_.load(std::memory_order_relaxed) != 0) dispatch(lock);
            return true;
        }
    }
    announce(lane, reservation);
    return false;
}

bool Engine::has_room(Lane& lane, std::uint64_t rows) noexcept {
    if (forked()) return true;  // reserve() says what is wrong
    const std::lock_guard lock(mutex_);
    const std::uint64_t waiting = lane.weighed ? weighed_waiting_ : lane.waiting_rows();
    return waiting + rows <= policy_.queue_rows();
}

Batch* Engine::pending_batch(Lane* lane) noexcept {
    const std::lock_guard lock(mutex_);
    for (const auto& executor : executors_) {
        if (executor->kind != ExecutorKind::Inline) continue;
        // Whoever has a batch now takes the rest as well; if nobody has, it is for the caller to
        // do.
        if (executor->running.empty()) return nullptr;
        Batch* const running = executor->running.back().batch;
        running->retain();
        return running;
    }
    Slab* chosen = nullptr;
    bool chosen_full = false;
    for (const auto& other : lanes_) {
        if (lane == nullptr ? !other->weighed : other.get() != lane) continue;
        const bool full = !other->ready.empty();
        Slab* slab = full ? other->ready.front() : other->open.load(std::memory_order_relaxed);
        if (slab == nullptr || slab->reserved() == 0) continue;
        // Of several lanes the one that will be served next: as pick() chooses.
        const bool sooner =
            full != chosen_full
                ? full
                : chosen != nullptr && slab->oldest().load(std::memory_order_relaxed) <
                                           chosen->oldest().load(std::memory_order_relaxed);
        if (chosen != nullptr && !sooner) continue;
        chosen = slab;
        chosen_full = full;
    }
    if (chosen == nullptr) return nullptr;
    chosen->batch()->retain();
    return chosen->batch();
}

}  // namespace tidegate
