// Batch: claiming, finishing and waiting.
#include "tidegate/batch.hpp"

#include <sched.h>

#include "tidegate/futex.hpp"

namespace tidegate {

Batch::Batch(std::uint32_t capacity)
    : capacity_(capacity), slots_(new std::atomic<SlotState>[capacity] {}) {}

Batch::~Batch() = default;

void Batch::retain() noexcept {
    // Relaxed: who copies a reference holds one already.
    references_.fetch_add(1, std::memory_order_relaxed);
}

void Batch::release() noexcept {
    // acq_rel: the last owner sees all that earlier owners did before letting go.
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

bool Batch::settle(std::uint32_t index, SlotState state) noexcept {
    SlotState expected = SlotState::Queued;
    // acq_rel: pairs with slot(); the loser sees what the winner decided.
    return slots_[index].compare_exchange_strong(expected, state, std::memory_order_acq_rel);
}

std::vector<std::uint32_t> Batch::claim(std::uint32_t reserved) noexcept {
    std::vector<std::uint32_t> holes;
    for (std::uint32_t index = 0; index < reserved; ++index) {
        if (!settle(index, SlotState::Claimed)) holes.push_back(index);
    }
    live_ = reserved - static_cast<std::uint32_t>(holes.size());
    return holes;
}

void Batch::move_row(std::uint32_t slot, std::uint32_t row) {
    if (row_of_.empty()) {
        row_of_.resize(capacity_);
        for (std::uint32_t index = 0; index < capacity_; ++index) row_of_[index] = index;
    }
    row_of_[slot] = row;
}

bool Batch::decide(Outcome outcome, std::int32_t model_status) noexcept {
    const std::lock_guard lock(mutex_);
    if (outcome_ != Outcome::None) return false;
    outcome_ = outcome;
    model_status_ = model_status;
    return true;
}

bool Batch::publish() {
    std::vector<Subscription> subscriptions;
    {
        const std::lock_guard lock(mutex_);
        // seq_cst, a Dekker pair with wait(): either the sleeper sees kDone or we see the sleeper.
        // It also releases all that was written for callers, and pairs with done().
        word_.fetch_or(kDone, std::memory_order_seq_cst);
        subscriptions.swap(subscriptions_);
    }
    const bool asleep = sleepers_.load(std::memory_order_seq_cst) != 0;
    if (asleep) futex_wake_all(word_);
    for (const Subscription& subscription : subscriptions) {
        subscription.port->add_in_flight(-1);
        subscription.port->post({subscription.token, NoticeKind::Finished});
        subscription.port->release();
    }
    return asleep || !subscriptions.empty();
}

void Batch::wake_sleepers() noexcept {
    // seq_cst: as in publish(); the changed word keeps a waiter that looked before from sleeping.
    word_.fetch_add(kAnnounced, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) futex_wake_all(word_);
}

void Batch::announce_settled() {
    wake_sleepers();
    const std::lock_guard lock(mutex_);
    // Under the lock, so that no Settled notice can follow the Finished one.
    for (const Subscription& subscription : subscriptions_) {
        subscription.port->post({subscription.token, NoticeKind::Settled});
    }
}

bool Batch::subscribe(Port& port, void* token) {
    const std::lock_guard lock(mutex_);
    // Relaxed: publish() sets it under the same mutex.
    if ((word_.load(std::memory_order_relaxed) & kDone) != 0) return false;
    subscriptions_.push_back({&port, token});
    port.retain();
    port.add_in_flight(1);
    return true;
}

void* Batch::unsubscribe(Port& port) noexcept {
    const std::lock_guard lock(mutex_);
    for (auto it = subscriptions_.begin(); it != subscriptions_.end(); ++it) {
        if (it->port != &port) continue;
        void* const token = it->token;
        subscriptions_.erase(it);
        port.forget(token);
        port.add_in_flight(-1);
        port.release();
        return token;
    }
    return nullptr;
}

void* Batch::show(const OutputView* views, std::size_t count, void* keeper) {
    shown_.assign(views, views + count);
    // seq_cst, a Dekker pair with leave(): readers of an abandoned batch may leave meanwhile, and
    // either the last of them finds the keeper or we find that there are none.
    keeper_.store(keeper, std::memory_order_seq_cst);
    if (readers_.load(std::memory_order_seq_cst) != 0) return nullptr;
    return keeper_.exchange(nullptr, std::memory_order_seq_cst);
}

void* Batch::leave() noexcept {
    // seq_cst: see show().
    if (readers_.fetch_sub(1, std::memory_order_seq_cst) != 1) return nullptr;
    return keeper_.exchange(nullptr, std::memory_order_seq_cst);
}

WaitResult Batch::wait(std::uint32_t index, Nanos deadline, Nanos spin,
                       const Clock& clock) noexcept {
    const auto settled = [&] {
        if (index >= capacity_) return false;
        const SlotState state = slot(index);
        return state != SlotState::Queued && state != SlotState::Claimed;
    };
    // Relaxed: once others sleep here, a short wait is unlikely and spinning only takes their core.
    if (spin > 0 && sleepers_.load(std::memory_order_relaxed) == 0) {
        const Nanos spin_end = clock.now() + spin;
        while (clock.now() < spin_end) {
            if (done()) return WaitResult::Done;
            if (settled()) return WaitResult::Settled;
            sched_yield();
        }
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);  // pairs with publish()
    WaitResult result = WaitResult::Done;
    for (;;) {
        const std::uint32_t seen = word_.load(std::memory_order_seq_cst);
        if ((seen & kDone) != 0) break;
        if (settled()) {
            result = WaitResult::Settled;
            break;
        }
        const FutexResult woken = futex_wait(word_, seen, deadline);
        if (woken == FutexResult::Woken) continue;
        if (done()) break;
        result = woken == FutexResult::TimedOut ? WaitResult::TimedOut : WaitResult::Interrupted;
        break;
    }
    // Relaxed: a count too high only costs a wake-up.
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return result;
}

}  // namespace tidegate
