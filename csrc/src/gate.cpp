// Gate: counting who waits for the GIL, and asking for it.
#include "tidegate/gate.hpp"

#include <algorithm>
#include <new>

#include "tidegate/futex.hpp"

namespace tidegate {

Gate& Gate::instance() noexcept {
    // Never destroyed: threads that outlive the interpreter may still ask.
    static Gate& gate = *new Gate;
    return gate;
}

Nanos Gate::want(const Clock& clock) noexcept {
    // Relaxed: the count is a hint to those who may give the GIL away.
    waiting_.fetch_add(1, std::memory_order_relaxed);
    if (contended()) ask();
    return clock.now();
}

void Gate::got(Nanos wanted_at, const Clock& clock) noexcept {
    if (waiting_.fetch_sub(1, std::memory_order_relaxed) == 1) {
        asked_.store(0, std::memory_order_relaxed);
    }
    // seq_cst, a Dekker pair with stay_away(): either it sees the new turn or we see it sleep.
    turn_.fetch_add(1, std::memory_order_seq_cst);
    if (staying_away_.load(std::memory_order_seq_cst) != 0) futex_wake_all(turn_);
    const std::int32_t watch = contended_.load(std::memory_order_relaxed);
    if (clock.now() - wanted_at > kSlow) {
        contended_.store(kWatchFor, std::memory_order_relaxed);
    } else if (watch > 0) {
        contended_.store(watch - 1, std::memory_order_relaxed);
    }
}

void Gate::nudge() noexcept {
    contended_.store(kWatchFor, std::memory_order_relaxed);
    ask(true);
}

void Gate::ask(bool urgent) noexcept {
    asked_.store(urgent ? kUrgent : kAsked, std::memory_order_relaxed);
    {
        const std::lock_guard lock(mutex_);
        for (Port* port : ports_) {
            if (port->in_flight() > 0) port->signal();
        }
    }
    // Relaxed: set once when the bindings are loaded.
    if (auto* hook = holder_hook_.load(std::memory_order_relaxed)) hook();
}

void Gate::stay_away(const Clock& clock) noexcept {
    const Nanos deadline = clock.now() + kStayAway;
    staying_away_.fetch_add(1, std::memory_order_seq_cst);  // pairs with got()
    const std::uint32_t turn = turn_.load(std::memory_order_seq_cst);
    while (asked() && turn_.load(std::memory_order_seq_cst) == turn) {
        if (futex_wait(turn_, turn, deadline) == FutexResult::TimedOut) break;
    }
    staying_away_.fetch_sub(1, std::memory_order_seq_cst);
    asked_.store(0, std::memory_order_relaxed);
}

void Gate::add_port(Port& port) {
    const std::lock_guard lock(mutex_);
    ports_.push_back(&port);
    port.retain();
}

void Gate::remove_port(Port& port) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = std::find(ports_.begin(), ports_.end(), &port);
    if (found == ports_.end()) return;
    ports_.erase(found);
    port.release();
}

void Gate::reset_after_fork() noexcept {
    // The mutex may have been held by a thread that the child does not have.
    new (&mutex_) std::mutex;
    ports_.clear();  // the parent's loops; their descriptors are shared, so never signalled again
    waiting_.store(0, std::memory_order_relaxed);
    staying_away_.store(0, std::memory_order_relaxed);
    asked_.store(0, std::memory_order_relaxed);
    contended_.store(0, std::memory_order_relaxed);
}

}  // namespace tidegate
