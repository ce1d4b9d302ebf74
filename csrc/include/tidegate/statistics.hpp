// Counters and histograms of one engine, and the snapshot that readers get.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "tidegate/clock.hpp"
#include "tidegate/histogram.hpp"
#include "tidegate/types.hpp"

namespace tidegate {

inline constexpr std::size_t kDispatchReasons = 5;

enum class ExecutorState : std::uint8_t { Idle, Lingering, Signalled, Busy, Lent, Gone };

struct ExecutorSnapshot {
    ExecutorState state;
    /// Seconds that the current batch has been running, 0 when idle.
    double busy_for;
};

/// Every submitted row ends in exactly one of completed, failed, cancelled, expired, closed.
struct Statistics {
    std::uint64_t submitted = 0;
    std::uint64_t completed = 0;
    std::uint64_t failed = 0;
    std::uint64_t cancelled = 0;
    std::uint64_t expired = 0;
    std::uint64_t closed = 0;
    std::uint64_t rejected = 0;  // refused at submission, never queued
    std::uint64_t batches = 0;
    std::uint64_t rows = 0;            // rows that models were called with
    std::uint64_t led = 0;             // batches run by a waiting caller
    std::uint64_t padding_rows = 0;    // that models were called with besides
    std::uint64_t tokens = 0;          // of ragged rows that models were called with
    std::uint64_t padding_tokens = 0;  // that models were called with besides
    std::uint64_t queue_depth = 0;
    std::array<std::uint64_t, kDispatchReasons> dispatched{};
    HistogramSnapshot queue_duration;    // nanoseconds, submission to the model's start
    HistogramSnapshot request_duration;  // nanoseconds, submission to the batch's end
    HistogramSnapshot batch_duration;    // nanoseconds, one model run
    HistogramSnapshot batch_size;        // rows
    std::vector<ExecutorSnapshot> executors;
};

/// What the engine counts.
struct Counters {
    std::atomic<std::uint64_t> submitted{0}, completed{0}, failed{0}, cancelled{0}, expired{0},
        closed{0}, rejected{0}, batches{0}, rows{0}, led{0}, padding_rows{0}, tokens{0},
        padding_tokens{0};
    std::array<std::atomic<std::uint64_t>, kDispatchReasons> dispatched{};
    Histogram queue_duration, request_duration, batch_duration, batch_size{1};

    static void add(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) noexcept {
        // release: pairs with Engine::statistics(); who sees a row's end sees its submission.
        counter.fetch_add(by, std::memory_order_release);
    }
};

}  // namespace tidegate
