// Engine: holding an executor back for callers that are about to return.
#include <algorithm>

#include "tidegate/engine.hpp"

namespace tidegate {

void Engine::stop_lingering() noexcept {
    lingering_ = nullptr;
    // seq_cst, a Dekker pair with announce(): either it sees that nobody lingers and wakes an idle
    // executor, or whoever looks for work after this sees its row.
    linger_target_.store(0, std::memory_order_seq_cst);
}

void Engine::linger(Executor& executor, Lock& lock) noexcept {
    if (policy_.max_queue_delay != 0 || lingering_ != nullptr ||
        phase_.load(std::memory_order_relaxed) != Phase::Open) {
        return;
    }
    const bool promised = executor.state == ExecutorState::Signalled;
    std::uint32_t lanes = 0;
    const auto rows_waiting = [&]() -> std::uint32_t {
        std::uint64_t rows = 0;
        lanes = 0;
        for (const auto& lane : lanes_) {
            const std::uint64_t here = lane->waiting_rows();
            rows += here;
            lanes += here != 0;
        }
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(rows, kMaxBatchSize));
    };
    const std::uint32_t waiting = rows_waiting();
    // With rows in several lanes there is more to do than one batch: whoever is about to return
    // has until the others are done.
    if (waiting >= policy_.max_batch_size || lanes > 1) return;
    const std::uint32_t more = linger_.expected_more(waiting);
    if (more == 0) return;

    if (promised) --promised_;
    executor.state = ExecutorState::Lingering;
    lingering_ = &executor;
    // seq_cst: see stop_lingering(). The row that makes it this many wakes the executor.
    linger_target_.store(std::min(waiting + more, policy_.max_batch_size),
                         std::memory_order_seq_cst);
    const Nanos start = clock_.now();
    const Nanos end = start + linger_.longest();
    // Who was answered just now has to wake up and ask again before any row comes.
    Nanos gap = linger_.first_gap();
    std::uint32_t rows = rows_waiting();
    Nanos now = start;
    while (rows < linger_target_.load(std::memory_order_relaxed) && now < end) {
        sleep(executor, lock, std::min(now + gap, end));
        now = clock_.now();
        if (executor.state != ExecutorState::Lingering) break;  // it has what it waited for
        if (phase_.load(std::memory_order_relaxed) != Phase::Open) break;
        const std::uint32_t before = rows;
        rows = rows_waiting();
        if (rows == before || lanes > 1) break;  // arrivals have paused, or there is more to do
        gap = linger_.gap();
    }
    if (executor.state == ExecutorState::Lingering) {
        stop_lingering();
        executor.state = ExecutorState::Busy;
        if (due_batches(now) > promised_) {
            executor.state = ExecutorState::Signalled;
            ++promised_;
        }
    }
    rows = rows_waiting();
    if (rows > 0) linger_.record_linger(std::max(1u, waiting), rows, now - start);
}

}  // namespace tidegate
