// Every value falls into the bucket whose edges enclose it, and snapshots add up.
#include <random>

#include "check.hpp"
#include "tidegate/histogram.hpp"

using tidegate::Histogram;
using tidegate::HistogramSnapshot;

namespace {

constexpr int kLast = HistogramSnapshot::kBuckets - 1;

void check_value(std::uint64_t value) {
    const int index = Histogram::bucket(value);
    CHECK(index >= 0 && index <= kLast);
    if (index > 0) {
        CHECK(value >= HistogramSnapshot::upper_edge(index - 1), std::to_string(value));
    }
    if (index < kLast) {
        CHECK(value < HistogramSnapshot::upper_edge(index), std::to_string(value));
    }
}

void test_values_lie_between_the_edges_of_their_bucket() {
    for (std::uint64_t value = 0; value < 100'000; ++value) check_value(value);
    for (int power = 0; power < 64; ++power) {
        const std::uint64_t value = std::uint64_t{1} << power;
        check_value(value - 1);
        check_value(value);
        check_value(value + 1);
        check_value(value + value / 4);
        check_value(value + value / 4 * 3 - 1);
    }
    check_value(~std::uint64_t{0});
    std::mt19937_64 random(1);
    for (int i = 0; i < 100'000; ++i) check_value(random() >> (random() % 64));
}

void test_edges_rise_and_buckets_are_narrow() {
    for (int index = 1; index <= kLast; ++index) {
        const std::uint64_t low = HistogramSnapshot::upper_edge(index - 1);
        const std::uint64_t high = HistogramSnapshot::upper_edge(index);
        CHECK(low < high);
        if (low >= 4) CHECK(4 * (high - low) <= low, "at most a quarter wide");
    }
}

void test_snapshots_hold_counts_and_sum() {
    Histogram histogram;
    histogram.record(0);
    histogram.record(3, 5);
    histogram.record(1'000'000, 2);
    const HistogramSnapshot snapshot = histogram.snapshot();
    CHECK_EQUAL(snapshot.counts[0], 1u);
    CHECK_EQUAL(snapshot.counts[3], 5u);
    CHECK_EQUAL(snapshot.counts[static_cast<std::size_t>(Histogram::bucket(1'000'000))], 2u);
    CHECK_EQUAL(snapshot.sum, 2'000'015u);
    std::uint64_t total = 0;
    for (const std::uint64_t count : snapshot.counts) total += count;
    CHECK_EQUAL(total, 8u);
}

void test_a_tally_records_the_same() {
    Histogram one_by_one;
    Histogram tallied;
    std::mt19937_64 random(2);
    for (int batch = 0; batch < 100; ++batch) {
        Histogram::Tally tally(tallied);
        for (int row = 0; row < batch; ++row) {
            const std::uint64_t value = 100 + random() % (row % 2 == 0 ? 10 : 10'000);
            one_by_one.record(value);
            tally.record(value);
        }
    }
    CHECK(tallied.snapshot().counts == one_by_one.snapshot().counts);
    CHECK_EQUAL(tallied.snapshot().sum, one_by_one.snapshot().sum);
}

void test_with_a_least_value_of_one_a_power_of_two_is_the_largest_of_its_bucket() {
    for (const std::uint64_t power : {1u, 2u, 4u, 8u, 64u, 1024u}) {
        Histogram histogram(1);
        histogram.record(power);
        histogram.record(power + 1);
        const HistogramSnapshot snapshot = histogram.snapshot();
        CHECK_EQUAL(snapshot.sum, 2 * power + 1);
        std::uint64_t at_most = 0;
        for (int index = 0; index <= kLast; ++index) {
            const std::uint64_t edge = HistogramSnapshot::upper_edge(index) + snapshot.least;
            if (edge <= power + 1) at_most += snapshot.counts[static_cast<std::size_t>(index)];
        }
        CHECK_EQUAL(at_most, 1u);
    }
}

}  // namespace

int main() {
    test_values_lie_between_the_edges_of_their_bucket();
    test_edges_rise_and_buckets_are_narrow();
    test_snapshots_hold_counts_and_sum();
    test_a_tally_records_the_same();
    test_with_a_least_value_of_one_a_power_of_two_is_the_largest_of_its_bucket();
}
