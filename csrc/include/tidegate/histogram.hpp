// A histogram with logarithmic buckets: four per power of two, so at most 25 % wide.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace tidegate {

/// Copy of a Histogram's counts at one moment.
struct HistogramSnapshot {
    static constexpr int kBuckets = 4 * 40;
    std::array<std::uint64_t, kBuckets> counts{};
    std::uint64_t sum = 0;
    /// The least value that there can be: all edges lie so much higher.
    std::uint64_t least = 0;

    /// Exclusive upper edge of bucket `index`, of values from 0.
    static constexpr std::uint64_t upper_edge(int index) noexcept {
        const int power = index / 4;
        const auto quarter = static_cast<std::uint64_t>(index % 4);
        return power == 0 ? quarter + 1 : (5 + quarter) << (power - 1);
    }
};

/// Counts unsigned values. Any thread records; relaxed throughout: counts order nothing.
class Histogram {
  public:
    /// With 1 as the least value a power of two is the largest value of its bucket, not the least:
    /// then the buckets tell how many values are at most so many.
    explicit Histogram(std::uint64_t least = 0) noexcept : least_(least) {}

    /// \pre `value` is at least the least
    void record(std::uint64_t value, std::uint64_t times = 1) noexcept {
        counts_[static_cast<std::size_t>(bucket(value - least_))].fetch_add(
            times, std::memory_order_relaxed);
        sum_.fetch_add(value * times, std::memory_order_relaxed);
    }

    HistogramSnapshot snapshot() const noexcept {
        HistogramSnapshot copy;
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            copy.counts[i] = counts_[i].load(std::memory_order_relaxed);
        }
        copy.sum = sum_.load(std::memory_order_relaxed);
        copy.least = least_;
        return copy;
    }

    /// Values below 4 have a bucket each; 2^p to 2^(p+1) is cut into four.
    static constexpr int bucket(std::uint64_t value) noexcept {
        if (value < 4) return static_cast<int>(value);
        const int power = static_cast<int>(std::bit_width(value)) - 1;
        const int quarter = static_cast<int>((value >> (power - 2)) & 3);
        const int index = 4 * (power - 1) + quarter;
        return index < HistogramSnapshot::kBuckets ? index : HistogramSnapshot::kBuckets - 1;
    }

    /// Records the values of one batch, which mostly fall into few buckets, with few atomic writes.
    class Tally {
      public:
        explicit Tally(Histogram& histogram) noexcept : histogram_(histogram) {}
        ~Tally() { flush(); }
        Tally(const Tally&) = delete;
        Tally& operator=(const Tally&) = delete;

        void record(std::uint64_t value) noexcept {
            const int index = bucket(value - histogram_.least_);
            if (index != index_) flush();
            index_ = index;
            ++count_;
            sum_ += value;
        }

      private:
        void flush() noexcept {
            if (count_ == 0) return;
            histogram_.counts_[static_cast<std::size_t>(index_)].fetch_add(
                count_, std::memory_order_relaxed);
            histogram_.sum_.fetch_add(sum_, std::memory_order_relaxed);
            count_ = sum_ = 0;
        }

        Histogram& histogram_;
        int index_ = 0;
        std::uint64_t count_ = 0;
        std::uint64_t sum_ = 0;
    };

  private:
    const std::uint64_t least_;
    std::array<std::atomic<std::uint64_t>, HistogramSnapshot::kBuckets> counts_{};
    std::atomic<std::uint64_t> sum_{0};
};

}  // namespace tidegate
