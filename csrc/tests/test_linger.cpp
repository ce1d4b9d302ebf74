// Lingering is tried for a crowd that pays, within bounds, and given up when it does not pay.
#include "check.hpp"
#include "tidegate/linger.hpp"

using namespace tidegate;

namespace {

void test_a_lone_caller_is_never_kept_waiting() {
    Linger linger;
    CHECK(linger.alone(1));
    CHECK_EQUAL(linger.expected_more(1), 0u);
    linger.record_batch(1, 0);
    linger.record_cycle(kMillisecond);
    CHECK(linger.alone(1));
    CHECK_EQUAL(linger.expected_more(1), 0u);
}

void test_a_crowd_is_expected_back_and_forgotten() {
    Linger linger;
    linger.record_batch(6, 2);
    linger.record_cycle(kMillisecond);
    CHECK(linger.alone(8));
    CHECK(!linger.alone(7));
    CHECK_EQUAL(linger.expected_more(1), 7u);
    CHECK_EQUAL(linger.expected_more(8), 0u);
    int batches = 0;
    while (!linger.alone(1)) {
        linger.record_batch(1, 0);
        CHECK(++batches <= 20, "a crowd that left is forgotten");
    }
    CHECK(batches >= 3, "but not at once");
}

void test_a_short_run_is_not_worth_a_wait() {
    Linger linger;
    linger.record_batch(8, 0);
    linger.record_cycle(kMicrosecond);
    CHECK_EQUAL(linger.expected_more(4), 0u);
}

void test_what_does_not_pay_is_given_up_and_tried_again() {
    Linger linger;
    linger.record_batch(8, 0);
    linger.record_cycle(kMillisecond);
    CHECK_EQUAL(linger.expected_more(2), 6u);
    linger.record_linger(2, 2, 100 * kMicrosecond);  // nobody came
    int refusals = 0;
    while (linger.expected_more(2) == 0) CHECK(++refusals < 100);
    CHECK(refusals >= 10, "not every time");
    linger.record_linger(2, 8, 100 * kMicrosecond);  // six rows saved a run of a millisecond
    CHECK_EQUAL(linger.expected_more(2), 6u);
}

void test_the_gap_is_learned_within_bounds() {
    Linger linger;
    linger.record_batch(8, 0);
    linger.record_cycle(kMillisecond);
    for (int i = 0; i < 100; ++i) linger.record_linger(1, 8, 7 * kMicrosecond);
    CHECK_EQUAL(linger.gap(), Linger::kShortestGap);
    for (int i = 0; i < 100; ++i) linger.record_linger(1, 8, 7 * kMillisecond);
    CHECK(linger.gap() > Linger::kLongestGap * 9 / 10);
    CHECK(linger.gap() <= Linger::kLongestGap);
    const Nanos gap = linger.gap();
    linger.record_linger(1, 1, kMillisecond);
    CHECK_EQUAL(linger.gap(), gap);  // no arrival, nothing to learn from
}

void test_lingering_is_no_longer_than_a_run() {
    Linger linger;
    CHECK(linger.longest() >= Linger::kShortestGap);
    linger.record_cycle(200 * kMicrosecond);
    CHECK_EQUAL(linger.service(), 200 * kMicrosecond);
    CHECK_EQUAL(linger.longest(), 200 * kMicrosecond);
    for (int i = 0; i < 100; ++i) linger.record_cycle(100 * kMillisecond);
    CHECK_EQUAL(linger.longest(), Linger::kLongest);
}

}  // namespace

int main() {
    test_a_lone_caller_is_never_kept_waiting();
    test_a_crowd_is_expected_back_and_forgotten();
    test_a_short_run_is_not_worth_a_wait();
    test_what_does_not_pay_is_given_up_and_tried_again();
    test_the_gap_is_learned_within_bounds();
    test_lingering_is_no_longer_than_a_run();
}
