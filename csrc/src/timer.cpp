// Timer: arming, and the loop of its thread.
#include "tidegate/timer.hpp"

#include <algorithm>
#include <deque>
#include <new>
#include <system_error>
#include <utility>

#include "tidegate/futex.hpp"

namespace tidegate {

Timer::Timer(const Clock& clock, std::function<Nanos(Nanos)> due, bool threaded)
    : clock_(clock), due_(std::move(due)), threaded_(threaded) {}

Timer::~Timer() { stop(); }

void Timer::start() {
    if (!threaded_) return;
    const std::lock_guard lock(start_mutex_);
    // Relaxed: under the lock that orders start and stop.
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    // release: pairs with arm().
    started_.store(true, std::memory_order_release);
}

void Timer::arm(Nanos instant) noexcept {
    // seq_cst: a Dekker pair with run(): either it reads our instant, or we see its reset and bump
    // the word that it is about to sleep on.
    Nanos armed = armed_.load(std::memory_order_seq_cst);
    do {
        if (armed <= instant) return;
    } while (!armed_.compare_exchange_weak(armed, instant, std::memory_order_seq_cst));
    if (!threaded_) return;
    // acquire: pairs with the store in start().
    if (!started_.load(std::memory_order_acquire)) {
        try {
            start();
        } catch (const std::system_error&) {
            armed_.store(kNever, std::memory_order_seq_cst);
            return;
        }
    }
    word_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake_all(word_);
}

void Timer::run() noexcept {
    use_fine_timers();
    for (;;) {
        const std::uint32_t seen = word_.load(std::memory_order_seq_cst);
        // acquire: pairs with stop().
        if (stopping_.load(std::memory_order_acquire)) return;
        armed_.store(kNever, std::memory_order_seq_cst);
        const Nanos next = due_(clock_.now());
        Nanos armed = armed_.load(std::memory_order_seq_cst);
        while (next < armed &&
               !armed_.compare_exchange_weak(armed, next, std::memory_order_seq_cst)) {
        }
        futex_wait(word_, seen, std::min(next, armed));
    }
}

void Timer::stop() noexcept {
    std::thread thread;
    {
        const std::lock_guard lock(start_mutex_);
        stopping_.store(true, std::memory_order_release);
        thread.swap(thread_);
    }
    word_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake_all(word_);
    // Joined outside the lock: the thread may be waiting for someone who is in arm().
    if (thread.joinable()) thread.join();
}

void Timer::forget_thread() noexcept {
    stopping_.store(true, std::memory_order_relaxed);
    new (&start_mutex_) std::mutex;  // as it may have been held
    // Kept for ever: a handle of a thread that this process does not have must not be touched.
    static auto* const forgotten = new std::deque<std::thread>;
    forgotten->push_back(std::move(thread_));
}

}  // namespace tidegate
