// Linger: the moving averages behind the decision.
#include "tidegate/linger.hpp"

#include <algorithm>

namespace tidegate {

namespace {

constexpr Nanos kLongestReturn = 500 * kMicrosecond;
constexpr std::uint32_t kTryAgainAfter = 32;  // refusals between two trials that keep it honest

Nanos blend(Nanos average, Nanos sample) noexcept { return average + (sample - average) / 8; }

}  // namespace

void Linger::record_batch(std::uint32_t rows, std::uint64_t waiting) noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;
    const auto under_way =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(rows + waiting, 1u << 30));
    // Rises at once, fades by an eighth: a crowd that left is forgotten in a few batches.
    const std::uint32_t before = crowd();
    crowd_.store(std::max(under_way, before - (before + 7) / 8), relaxed);
}

void Linger::record_cycle(Nanos away) noexcept {
    const Nanos average = service_.load(std::memory_order_relaxed);
    service_.store(average == 0 ? away : blend(average, away), std::memory_order_relaxed);
}

std::uint32_t Linger::expected_more(std::uint32_t waiting) noexcept {
    const std::uint32_t expected = crowd();
    if (expected <= waiting) return 0;
    const std::uint32_t more = expected - waiting;
    const Nanos service = service_.load(std::memory_order_relaxed);
    // What all of them save by not waiting a run, against one pause of those that are here.
    if (static_cast<Nanos>(more) * service <= static_cast<Nanos>(waiting) * gap()) return 0;
    if (gain_.load(std::memory_order_relaxed) < 0) {
        const std::uint32_t refusals = refusals_.load(std::memory_order_relaxed) + 1;
        refusals_.store(refusals % kTryAgainAfter, std::memory_order_relaxed);
        if (refusals < kTryAgainAfter) return 0;
    }
    return more;
}

void Linger::record_linger(std::uint32_t first, std::uint32_t rows, Nanos waited) noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;
    const Nanos service = service_.load(relaxed);
    const Nanos gained = rows > first ? rows - first : 0;
    // The first waited all the time, those that followed half of it on average.
    const Nanos cost = (first + gained / 2) * waited;
    gain_.store(blend(gain_.load(relaxed), gained * service - cost), relaxed);
    if (gained == 0) return;
    // The mean pause between arrivals, eight times over, within bounds.
    const Nanos pause = 8 * waited / gained;
    gap_.store(std::clamp(blend(gap_.load(relaxed), pause), kShortestGap, kLongestGap), relaxed);
}

Nanos Linger::first_gap() const noexcept {
    return std::max(gap(), std::min(service_.load(std::memory_order_relaxed) / 4, kLongestReturn));
}

Nanos Linger::longest() const noexcept {
    return std::clamp(service_.load(std::memory_order_relaxed), 2 * kShortestGap, kLongest);
}

}  // namespace tidegate
