// Engine: construction, policy, statistics.
#include "tidegate/engine.hpp"

#include <algorithm>
#include <utility>

#include "tidegate/futex.hpp"

namespace tidegate {

Engine::Engine(const Policy& policy, const Clock& clock, bool timer_thread)
    : clock_(clock),
      policy_(policy),
      max_batch_size_(policy.max_batch_size),
      max_queue_delay_(policy.max_queue_delay),
      timer_(clock, [this](Nanos now) { return on_timer(now); }, timer_thread) {
    policy.validate();
}

Engine::~Engine() {
    if (forked()) return;
    timer_.stop();
    // Whoever owns an engine has closed it and let its executors end; batches that were never
    // taken must still end.
    close(false);
}

Lane& Engine::add_lane(std::vector<std::size_t> row_bytes) {
    const std::lock_guard lock(mutex_);
    lanes_.push_back(std::make_unique<Lane>(std::move(row_bytes)));
    return *lanes_.back();
}

Lane& Engine::add_weighed_lane(std::vector<std::size_t> row_bytes, std::vector<bool> ragged) {
    const std::lock_guard lock(mutex_);
    lanes_.push_back(std::make_unique<Lane>(std::move(row_bytes), std::move(ragged)));
    return *lanes_.back();
}

Executor& Engine::add_executor(ExecutorKind kind) {
    // Now: later, in the middle of a request, nobody could be told that there is none.
    if (kind != ExecutorKind::Inline) timer_.start();
    const std::lock_guard lock(mutex_);
    const auto number = static_cast<std::uint32_t>(executors_.size());
    executors_.push_back(std::make_unique<Executor>(kind, number));
    if (kind == ExecutorKind::Inline) executors_.back()->state = ExecutorState::Idle;
    return *executors_.back();
}

void* Engine::add_buffer(Lane& lane, std::uint32_t capacity, std::vector<std::byte*> columns,
                         void* owner, TokenMemory tokens) {
    const std::lock_guard lock(mutex_);
    lane.token_capacity = tokens.capacity;
    Slab* slab = nullptr;
    if (lane.bare.empty()) {
        lane.slabs.push_back(std::make_unique<Slab>());
        slab = lane.slabs.back().get();
    } else {
        slab = lane.bare.back();
        lane.bare.pop_back();
    }
    void* replaced = slab->detach();
    slab->attach(capacity, std::move(columns), owner, tokens);
    lane.free.push_back(slab);
    return replaced;
}

Policy Engine::policy() const {
    const std::lock_guard lock(mutex_);
    return policy_;
}

void Engine::set_policy(const Policy& policy) {
    policy.validate();
    Lock lock(mutex_);
    policy_ = policy;
    max_batch_size_.store(policy.max_batch_size, std::memory_order_relaxed);
    max_queue_delay_.store(policy.max_queue_delay, std::memory_order_relaxed);
    for (const auto& lane : lanes_) refresh_limit(*lane);
    if (idle_.load(std::memory_order_relaxed) != 0) arm_for_delay(clock_.now());
    dispatch(lock);  // a shorter delay may be up already, a smaller batch full
}

Statistics Engine::statistics() const {
    const auto read = [](const std::atomic<std::uint64_t>& counter) {
        return counter.load(std::memory_order_acquire);  // pairs with Counters::add()
    };
    Statistics copy;
    copy.completed = read(counters_.completed);
    copy.failed = read(counters_.failed);
    copy.cancelled = read(counters_.cancelled);
    copy.expired = read(counters_.expired);
    copy.closed = read(counters_.closed);
    copy.rejected = read(counters_.rejected);
    copy.batches = read(counters_.batches);
    copy.rows = read(counters_.rows);
    copy.led = read(counters_.led);
    copy.padding_rows = read(counters_.padding_rows);
    copy.tokens = read(counters_.tokens);
    copy.padding_tokens = read(counters_.padding_tokens);
    // After the outcomes, so that a snapshot never shows more ended than submitted.
    copy.submitted = read(counters_.submitted);
    for (std::size_t i = 0; i < kDispatchReasons; ++i) {
        copy.dispatched[i] = read(counters_.dispatched[i]);
    }
    copy.queue_duration = counters_.queue_duration.snapshot();
    copy.request_duration = counters_.request_duration.snapshot();
    copy.batch_duration = counters_.batch_duration.snapshot();
    copy.batch_size = counters_.batch_size.snapshot();
    if (forked()) return copy;  // the mutex may be held by a thread that does not exist here
    const std::lock_guard lock(mutex_);
    // Not waiting_rows(): a cancelled row keeps its slot until the batch is sealed.
    const auto count_queued = [&copy](const Slab& slab) {
        const std::uint32_t reserved = slab.reserved();
        for (std::uint32_t row = 0; row < reserved; ++row) {
            if (slab.batch()->slot(row) == SlotState::Queued) ++copy.queue_depth;
        }
    };
    for (const auto& lane : lanes_) {
        for (const Slab* slab : lane->ready) count_queued(*slab);
        const Slab* open = lane->open.load(std::memory_order_relaxed);
        if (open != nullptr) count_queued(*open);
    }
    const Nanos now = clock_.now();
    for (const auto& executor : executors_) {
        const bool busy = !executor->running.empty();
        copy.executors.push_back(
            {executor->state,
             busy ? static_cast<double>(now - executor->running.front().since) * 1e-9 : 0.0});
    }
    return copy;
}

std::size_t Engine::recent_batches(BatchRecord* into) const noexcept {
    const std::lock_guard lock(mutex_);
    return recorder_.copy(into);
}

std::size_t Engine::take_orphans(void** into, std::size_t most) {
    const std::lock_guard lock(mutex_);
    const std::size_t count = std::min(most, orphans_.size());
    for (std::size_t i = 0; i < count; ++i) {
        into[i] = orphans_.back();
        orphans_.pop_back();
    }
    return count;
}

void Engine::add_orphan(void* tenant) {
    const std::lock_guard lock(mutex_);
    orphans_.push_back(tenant);
}

std::vector<void*> Engine::detach_all() {
    const std::lock_guard lock(mutex_);
    std::vector<void*> owners;
    for (const auto& lane : lanes_) {
        for (const auto& slab : lane->slabs) {
            if (slab->attached()) owners.push_back(slab->detach());
        }
        lane->bare.insert(lane->bare.end(), lane->free.begin(), lane->free.end());
        lane->free.clear();
    }
    return owners;
}

bool Engine::settle(Batch& batch, std::uint32_t index, SlotState state) noexcept {
    if (!batch.settle(index, state)) return false;
    Counters::add(state == SlotState::Expired ? counters_.expired : counters_.cancelled);
    batch.wake_sleepers();
    return true;
}

}  // namespace tidegate
