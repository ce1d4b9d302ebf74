// Completer: waiting for a device, in the order in which it was given work.
#include "tidegate/completer.hpp"

#include <algorithm>

#include "tidegate/futex.hpp"

namespace tidegate {

namespace {

/// A device without work for so long lets go of its last batches. Not at once: that takes the GIL,
/// which whoever has just been answered wants as well.
constexpr Nanos kIdle = 100 * kMillisecond;

}  // namespace

Completer::Completer(Engine& engine, DeviceCalls calls)
    : engine_(engine), calls_(calls), thread_([this] { run(); }) {}

Completer::~Completer() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        added_.fetch_add(1, std::memory_order_relaxed);  // read under the mutex before sleeping
    }
    futex_wake_all(added_);
    thread_.join();
}

void Completer::add(Executor& executor, const Taken& taken, void* event) {
    {
        const std::lock_guard lock(mutex_);
        flights_.push_back({&executor, taken, event});
        ++under_way_;
        added_.fetch_add(1, std::memory_order_relaxed);  // as in the destructor
    }
    futex_wake(added_, 1);
}

void Completer::wait_room(std::uint32_t most) noexcept {
    for (;;) {
        std::uint32_t seen = 0;
        {
            const std::lock_guard lock(mutex_);
            if (under_way_ < most) return;
            seen = ended_.load(std::memory_order_relaxed);  // changes under the mutex
        }
        futex_wait(ended_, seen, kNever);
    }
}

std::size_t Completer::take_ended(Ended* into, std::size_t most) {
    const std::lock_guard lock(mutex_);
    const std::size_t count = std::min(most, endings_.size());
    std::copy_n(endings_.begin(), count, into);
    endings_.erase(endings_.begin(), endings_.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
}

void Completer::run() noexcept {
    // What it answers is what the first wait would: that says it to the batch as well.
    if (calls_.enter != nullptr) calls_.enter(calls_.context);
    Executor* to_tell = nullptr;  // whose batch was the last to end
    for (;;) {
        Flight flight{};
        std::uint32_t seen = 0;
        bool found = false;
        {
            const std::lock_guard lock(mutex_);
            if (!flights_.empty()) {
                flight = flights_.front();
                flights_.pop_front();
                found = true;
            } else if (stopping_) {
                return;
            }
            seen = added_.load(std::memory_order_relaxed);  // changes under the mutex
        }
        if (!found) {
            const Nanos until = to_tell == nullptr ? kNever : engine_.clock().now() + kIdle;
            if (futex_wait(added_, seen, until) == FutexResult::TimedOut) {
                engine_.nudge(*to_tell);
                to_tell = nullptr;
            }
            continue;
        }
        const std::int32_t status = calls_.wait(flight.event);
        const Nanos ended = engine_.clock().now();
        engine_.finish_with_orphans(*flight.executor, flight.taken, status);
        {
            const std::lock_guard lock(mutex_);
            endings_.push_back({status, ended});
            --under_way_;
            ended_.fetch_add(1, std::memory_order_relaxed);
        }
        futex_wake_all(ended_);
        to_tell = flight.executor;
    }
}

}  // namespace tidegate
