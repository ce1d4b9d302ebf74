// Engine: rows that take up more than a place, in lanes that share one queue.
#include <algorithm>

#include "tidegate/engine.hpp"

namespace tidegate {

Status Engine::reserve_weighed(Lane& lane, Weight weight, Nanos deadline,
                               Reservation& reservation) noexcept {
    if (forked()) return Status::Forked;
    Lock lock(mutex_);
    if (phase_.load(std::memory_order_relaxed) != Phase::Open) return Status::Closed;
    if (weighed_waiting_ >= policy_.queue_rows()) return Status::QueueFull;
    const Status status = open_for(lane, weight);
    if (status == Status::Ok) {
        Slab& slab = *lane.open.load(std::memory_order_relaxed);
        std::uint32_t index = 0;
        slab.reserve(1, 1, index);  // open_for() saw room, and all that fill it hold the mutex
        const Nanos now = clock_.now();
        reservation = {&slab, slab.batch(), slab.owner(), index, 1, slab.add_weight(index, weight),
                       now,   deadline};
        // seq_cst: as in reserve().
        if (index == 0) slab.oldest().store(now, std::memory_order_seq_cst);
        slab.submitted(index) = now;
        if (deadline != kNever) slab.set_deadline(index, 1, deadline);
        // Nothing more can come: it need not wait for a row that does not fit. Relaxed: as in
        // Slab::reserve(), and its readers hold the mutex or are the row's own announce().
        if (slab.weight().cost >= policy_.max_batch_cost) {
            slab.set_sealed_for_cost();
            slab.limit().store(index + 1, std::memory_order_relaxed);
        }
        ++weighed_waiting_;
        Counters::add(counters_.submitted);
    }
    // open_for() may have closed a batch; and with a full queue no lane waits for more rows.
    if (!lane.ready.empty() || weighed_waiting_ >= policy_.queue_rows()) dispatch(lock);
    return status;
}

Status Engine::open_for(Lane& lane, Weight weight) noexcept {
    if (Slab* slab = lane.open.load(std::memory_order_relaxed); slab != nullptr) {
        refresh_limit(lane);
        const std::uint32_t reserved = slab->reserved();
        const bool place = reserved < slab->limit().load(std::memory_order_relaxed) &&
                           slab->capacity() >= policy_.max_batch_size;
        const bool tokens = weight.tokens <= slab->token_capacity() - slab->weight().tokens;
        const bool cost =
            reserved == 0 || slab->weight().cost + weight.cost <= policy_.max_batch_cost;
        if (place && (tokens || weight.tokens == 0) && cost) return Status::Ok;
        if (!cost) slab->set_sealed_for_cost();
        retire_open(lane);
    }
    lane.token_capacity = std::max(weight.room, weight.tokens);
    Slab* slab = take_free(lane);
    if (slab == nullptr) return Status::BufferNeeded;
    slab->open(new Batch(slab->capacity()), policy_.max_batch_size);
    // release: pairs with those who look at the lane without the mutex.
    lane.open.store(slab, std::memory_order_release);
    return Status::Ok;
}

bool Engine::is_empty(Lane& lane) noexcept {
    const std::lock_guard lock(mutex_);
    return lane.waiting_rows() == 0;
}

void Engine::count_padding(std::uint64_t rows, std::uint64_t tokens,
                           std::uint64_t padding_tokens) noexcept {
    if (rows != 0) Counters::add(counters_.padding_rows, rows);
    if (tokens != 0) Counters::add(counters_.tokens, tokens);
    if (padding_tokens != 0) Counters::add(counters_.padding_tokens, padding_tokens);
}

}  // namespace tidegate
