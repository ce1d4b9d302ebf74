// Engine: what is due, which lane is served next, and by whom.
#include <algorithm>
#include <array>

#include "tidegate/engine.hpp"
#include "tidegate/futex.hpp"

namespace tidegate {

bool Engine::open_is_due(const Lane& lane, Slab& slab, Nanos now) const noexcept {
    const std::uint32_t reserved = slab.reserved();
    if (reserved == 0) return false;
    // No more rows can come: waiting for them would be in vain.
    if (reserved >= slab.limit().load(std::memory_order_relaxed)) return true;
    if (lane.weighed && weighed_waiting_ >= policy_.queue_rows()) return true;
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
        // While an executor lingers, fewer rows than it hopes for are nobody's business.
        if (open != nullptr && open_is_due(*lane, *open, now) &&
            (lingering_ == nullptr ||
             open->reserved() >= linger_target_.load(std::memory_order_relaxed))) {
            ++due;
        }
    }
    return static_cast<std::uint32_t>(due);
}

Nanos Engine::next_due(Nanos now) const noexcept {
    Nanos next = kNever;
    for (const auto& lane : lanes_) {
        Slab* open = lane->open.load(std::memory_order_relaxed);
        if (open == nullptr || open->reserved() == 0) continue;
        // seq_cst: pairs with reserve().
        const Nanos due =
            add_saturating(open->oldest().load(std::memory_order_seq_cst), policy_.max_queue_delay);
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
    if (lingering_ != nullptr) return lingering_;
    Executor* chosen = nullptr;
    for (const auto& executor : executors_) {
        if (executor->kind == ExecutorKind::Inline || executor->state != ExecutorState::Idle) {
            continue;
        }
        // Of several devices the one with the least under way; of threads just the first.
        if (executor->running.empty()) return executor.get();
        if (chosen == nullptr || executor->running.size() < chosen->running.size()) {
            chosen = executor.get();
        }
    }
    return chosen;
}

void Engine::dispatch(Lock& lock) noexcept {
    std::array<Executor*, 16> chosen{};
    std::size_t count = 0;
    const std::uint32_t due = due_batches(clock_.now());
    while (promised_ < due && count < chosen.size()) {
        Executor* executor = choose_idle();
        if (executor == nullptr) break;
        leave_idle(*executor);
        executor->state = ExecutorState::Signalled;
        ++promised_;
        // Relaxed: the state under the mutex decides; the word only ends the sleep.
        executor->word.fetch_add(1, std::memory_order_relaxed);
        chosen[count++] = executor;
    }
    lock.unlock();
    for (std::size_t i = 0; i < count; ++i) futex_wake(chosen[i]->word, 1);
}

Lane* Engine::pick(Nanos now) noexcept {
    Lane* chosen = nullptr;
    Nanos oldest = kNever;
    Lane* full = nullptr;
    Nanos oldest_full = kNever;
    for (const auto& lane : lanes_) {
        Slab* slab = lane->ready.empty() ? nullptr : lane->ready.front();
        if (slab == nullptr) {
            Slab* open = lane->open.load(std::memory_order_relaxed);
            if (open != nullptr && open_is_due(*lane, *open, now)) slab = open;
        }
        if (slab == nullptr) continue;
        const Nanos since = slab->oldest().load(std::memory_order_relaxed);
        if (chosen == nullptr || since < oldest) {
            chosen = lane.get();
            oldest = since;
        }
        if (!lane->ready.empty() && (full == nullptr || since < oldest_full)) {
            full = lane.get();
            oldest_full = since;
        }
    }
    if (full == nullptr || full == chosen) return chosen;
    // A full batch makes better use of the model than one that still fills, but the requests of a
    // rare kind must get their turn as well.
    if (chosen->passed_over >= kMostPassedOver) return chosen;
    ++chosen->passed_over;
    return full;
}

}  // namespace tidegate
