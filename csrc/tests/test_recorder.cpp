// The flight recorder keeps the last batches, in order, whoever writes and reads at the same time.
#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "race.hpp"
#include "rig.hpp"
#include "tidegate/recorder.hpp"

using namespace tidegate;
using tidegate::testing::kRaceRounds;
using tidegate::testing::Request;
using tidegate::testing::Rig;
using tidegate::testing::Waiter;

namespace {

constexpr std::uint64_t kCapacity = Recorder::kCapacity;

std::vector<BatchRecord> records_of(const Recorder& recorder) {
    std::vector<BatchRecord> records(kCapacity);
    records.resize(recorder.copy(records.data()));
    return records;
}

std::vector<BatchRecord> records_of(const Engine& engine) {
    std::vector<BatchRecord> records(kCapacity);
    records.resize(engine.recent_batches(records.data()));
    return records;
}

/// Adds a record whose times all follow from its number, which is returned.
std::uint64_t add(Recorder& recorder) {
    BatchRecord& record = *recorder.add();
    const std::uint64_t number = record.sequence;
    record.submitted = static_cast<Nanos>(number);
    record.taken = record.submitted + 1;
    record.model_started = record.submitted + 2;
    record.model_ended = record.submitted + 3;
    record.rows = static_cast<std::uint32_t>(number % 100);
    return number;
}

void check_made(const BatchRecord& record) {
    const auto number = static_cast<Nanos>(record.sequence);
    CHECK_EQUAL(record.submitted, number);
    CHECK_EQUAL(record.taken, number + 1);
    CHECK_EQUAL(record.model_started, number + 2);
    CHECK_EQUAL(record.model_ended, number + 3);
    CHECK_EQUAL(record.rows, record.sequence % 100);
    if (record.delivered != kNever) CHECK_EQUAL(record.delivered, number + 4);
}

void test_the_last_batches_are_kept_oldest_first() {
    Recorder recorder;
    CHECK(records_of(recorder).empty());
    const std::uint64_t total = 2 * kCapacity + 10;
    for (std::uint64_t number = 0; number < total; ++number) {
        CHECK_EQUAL(add(recorder), number);
        if (number != 0 && number != 300 && number % 1000 != 0 && number != kCapacity) continue;
        const std::vector<BatchRecord> records = records_of(recorder);
        CHECK_EQUAL(records.size(), std::min(number + 1, kCapacity));
        for (std::size_t i = 0; i < records.size(); ++i) {
            CHECK_EQUAL(records[i].sequence, number + 1 - records.size() + i);
            check_made(records[i]);
        }
    }
}

void test_a_delivery_is_noted_once_and_only_for_its_own_batch() {
    Recorder recorder;
    recorder.delivered(5, 9);  // of a batch that was never recorded
    for (std::uint64_t number = 0; number < 10; ++number) add(recorder);
    recorder.delivered(3, 7);
    recorder.delivered(3, 8);
    const std::vector<BatchRecord> records = records_of(recorder);
    for (const BatchRecord& record : records) {
        CHECK_EQUAL(record.delivered, record.sequence == 3 ? 7 : kNever);
    }
    for (std::uint64_t number = 10; number < kCapacity + 5; ++number) add(recorder);
    recorder.delivered(4, 9);  // so late that a later batch has its place
    CHECK_EQUAL(records_of(recorder).back().sequence, kCapacity + 4);
    CHECK_EQUAL(records_of(recorder).back().delivered, kNever);
    recorder.delivered(kCapacity + 4, 11);
    CHECK_EQUAL(records_of(recorder).back().delivered, 11);
}

void test_readers_see_whole_records_while_writers_go_round() {
    Recorder recorder;
    std::mutex mutex;  // stands for the engine's
    const auto total = static_cast<std::uint64_t>(kRaceRounds) * 2;
    std::uint64_t added = 0;  // under mutex
    const auto write = [&] {
        for (;;) {
            std::uint64_t sequence = 0;
            {
                const std::lock_guard lock(mutex);
                if (added == total) return;
                sequence = add(recorder);
                ++added;
            }
            recorder.delivered(sequence, static_cast<Nanos>(sequence) + 4);
        }
    };
    const auto read = [&] {
        std::vector<BatchRecord> records(kCapacity);
        for (std::uint64_t last = 0; last + 1 < total;) {
            std::size_t count = 0;
            {
                const std::lock_guard lock(mutex);
                count = recorder.copy(records.data());
                CHECK_EQUAL(count, std::min(added, kCapacity));
            }
            for (std::size_t i = 0; i < count; ++i) {
                check_made(records[i]);
                if (i > 0) CHECK_EQUAL(records[i].sequence, records[i - 1].sequence + 1);
            }
            if (count > 0) last = records[count - 1].sequence;
            std::this_thread::yield();
        }
    };
    std::thread other_writer(write);
    std::thread reader(read);
    std::thread other_reader(read);
    write();
    other_writer.join();
    reader.join();
    other_reader.join();
    for (const BatchRecord& record : records_of(recorder)) {
        CHECK_EQUAL(record.delivered, static_cast<Nanos>(record.sequence) + 4);
    }
}

void test_the_engine_records_when_what_happened() {
    Rig rig(Policy{.max_batch_size = 4});
    rig.engine.add_executor(ExecutorKind::Thread);
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    rig.clock.advance(100);
    const Request gone = rig.submit(1);
    rig.clock.advance(10);
    rig.submit(2);
    rig.submit(3);
    CHECK(rig.engine.settle(*gone.batch, gone.index, SlotState::Cancelled));
    rig.clock.advance(1'000);
    const Nanos taken_at = rig.clock.now();
    Taken taken = rig.take(executor);
    rig.clock.advance(20);
    CHECK_EQUAL(rig.engine.claim(taken), 2u);
    const Nanos started_at = rig.clock.now();
    rig.clock.advance(5'000);
    rig.engine.finish(executor, taken, Outcome::Completed, 0, 1);
    rig.engine.give_back(executor);
    const std::vector<BatchRecord> records = records_of(rig.engine);
    CHECK_EQUAL(records.size(), 1u);
    const BatchRecord& record = records.front();
    CHECK_EQUAL(record.sequence, 0u);
    CHECK_EQUAL(record.submitted, taken_at - 1'000);  // not that of the cancelled row
    CHECK_EQUAL(record.taken, taken_at);
    CHECK_EQUAL(record.model_started, started_at);
    CHECK_EQUAL(record.model_ended, started_at + 5'000);
    CHECK_EQUAL(record.delivered, record.model_ended);  // there was nobody to be told
    CHECK_EQUAL(record.rows, 2u);
    CHECK_EQUAL(record.failed_rows, 1u);
    CHECK_EQUAL(record.executor, 1u);
    CHECK(record.reason == DispatchReason::Idle);
    CHECK(record.outcome == Outcome::Completed);
    CHECK(!record.led);
}

void test_every_outcome_and_reason_is_recorded_but_no_batch_without_rows() {
    Rig rig(Policy{.max_batch_size = 2});
    Executor& executor = rig.engine.add_executor(ExecutorKind::Inline);
    rig.submit(1);
    rig.submit(2);
    rig.run(executor, Outcome::Failed);
    const Request unwanted = rig.submit(3);
    CHECK(rig.engine.settle(*unwanted.batch, unwanted.index, SlotState::Cancelled));
    rig.run(executor);
    rig.submit(4);
    Taken taken = rig.take(executor);
    CHECK_EQUAL(rig.engine.claim(taken), 1u);
    rig.engine.close(false);
    rig.engine.abandon_running();
    rig.engine.finish(executor, taken, Outcome::Completed, 0, 0);
    const std::vector<BatchRecord> records = records_of(rig.engine);
    CHECK_EQUAL(records.size(), 2u);
    CHECK(records[0].reason == DispatchReason::Full);
    CHECK(records[0].outcome == Outcome::Failed);
    CHECK_EQUAL(records[0].failed_rows, 2u);
    CHECK(records[1].outcome == Outcome::Abandoned);
    CHECK_EQUAL(records[1].failed_rows, 0u);
}

void test_a_batch_that_a_caller_led_is_known() {
    Rig rig(Policy{});
    Waiter waiter(rig.engine);
    Reservation reservation;
    CHECK(rig.reserve(1, 1, kNever, reservation) == Status::Ok);
    rig.keep(reservation, 7);
    Executor* executor = nullptr;
    Taken taken;
    CHECK(rig.engine.commit_or_lead(rig.lane, reservation, executor, taken));
    rig.finish(*executor, taken);
    rig.engine.give_back(*executor);
    CHECK(records_of(rig.engine).at(0).led);
    CHECK_EQUAL(records_of(rig.engine).at(0).submitted, reservation.submitted);
    rig.engine.close(true);
    CHECK(waiter.status() == Status::Stop);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_the_last_batches_are_kept_oldest_first();
    test_a_delivery_is_noted_once_and_only_for_its_own_batch();
    test_readers_see_whole_records_while_writers_go_round();
    test_the_engine_records_when_what_happened();
    test_every_outcome_and_reason_is_recorded_but_no_batch_without_rows();
    test_a_batch_that_a_caller_led_is_known();
}
