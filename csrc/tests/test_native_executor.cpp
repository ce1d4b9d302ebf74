// A C function as a model: it sees the inputs, writes the outputs, and its status is the outcome.
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "check.hpp"
#include "rig.hpp"
#include "tidegate/native_executor.hpp"

using namespace tidegate;
using tidegate::testing::Memory;

namespace {

constexpr std::uint32_t kBatch = 8;
constexpr int kThreads = 3;
constexpr std::int64_t kRows = 1'000;  // of each thread
constexpr std::int64_t kPoison = 13;   // a batch that holds it fails

/// Adds two columns; fails with a status when it finds the poison.
std::int32_t add(void* user_data, std::int64_t rows, const void* const* inputs,
                 void* const* outputs) {
    const auto* left = static_cast<const std::int64_t*>(inputs[0]);
    const auto* right = static_cast<const std::int64_t*>(inputs[1]);
    auto* sums = static_cast<std::int64_t*>(outputs[0]);
    *static_cast<std::int64_t*>(user_data) += rows;
    for (std::int64_t row = 0; row < rows; ++row) {
        if (left[row] == kPoison) return 42;
        sums[row] = left[row] + right[row];
    }
    return 0;
}

/// The outputs of one batch; kept until the end, when each must have come back once.
struct Tenants {
    std::mutex mutex;
    std::vector<std::unique_ptr<std::vector<std::int64_t>>> all;  // under mutex

    void settle_in(Batch& batch) {
        auto outputs = std::make_unique<std::vector<std::int64_t>>(batch.capacity());
        batch.tenant = outputs.get();
        batch.outputs = {outputs->data()};
        const std::lock_guard lock(mutex);
        all.push_back(std::move(outputs));
    }
};

struct Result {
    Outcome outcome;
    std::int32_t status;
    std::int64_t sum;
};

Result call(Engine& engine, Lane& lane, Memory& memory, Tenants& tenants, std::int64_t left,
            std::int64_t right) {
    Reservation reservation;
    while (engine.reserve(lane, 1, 1, kNever, reservation) == Status::BufferNeeded) {
        memory.give(engine, lane, kBatch);
    }
    Batch& batch = *reservation.batch;
    batch.retain();
    if (reservation.index == 0) tenants.settle_in(batch);
    std::memcpy(reservation.slab->column(0) + reservation.index * 8, &left, 8);
    std::memcpy(reservation.slab->column(1) + reservation.index * 8, &right, 8);
    engine.commit(lane, reservation);
    CHECK(batch.wait(reservation.index, kNever, 0, engine.clock()) == WaitResult::Done);
    const auto* sums = static_cast<const std::int64_t*>(batch.outputs[0]);
    const Result result{batch.outcome(), batch.model_status(),
                        sums[batch.row_of(reservation.index)]};
    batch.release();
    return result;
}

void test_threads_call_a_native_model() {
    Engine engine(Policy{.max_batch_size = kBatch});
    Lane& lane = engine.add_lane({8, 8});
    Memory memory;
    Tenants tenants;
    std::int64_t rows = 0;
    NativeExecutor executor(engine, add, &rows);
    std::vector<std::thread> threads;
    for (int number = 0; number < kThreads; ++number) {
        threads.emplace_back([&, number] {
            for (std::int64_t i = 0; i < kRows; ++i) {
                const std::int64_t left = 1'000'000 * (number + 1) + i;
                const Result result = call(engine, lane, memory, tenants, left, -i);
                CHECK(result.outcome == Outcome::Completed);
                CHECK_EQUAL(result.sum, left - i);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    const Result failure = call(engine, lane, memory, tenants, kPoison, 0);
    CHECK(failure.outcome == Outcome::Failed);
    CHECK_EQUAL(failure.status, 42);
    engine.close(true);
    CHECK(engine.wait_drained(kNever));
    executor.join();
    CHECK_EQUAL(rows, kThreads * kRows + 1);
    const Statistics statistics = engine.statistics();
    CHECK_EQUAL(statistics.completed, static_cast<std::uint64_t>(kThreads * kRows));
    CHECK_EQUAL(statistics.failed, 1u);
    CHECK_EQUAL(statistics.batches, tenants.all.size());
    std::set<void*> orphans;
    void* some[16];
    while (const std::size_t count = engine.take_orphans(some, 16)) {
        for (std::size_t i = 0; i < count; ++i) CHECK(orphans.insert(some[i]).second);
    }
    CHECK_EQUAL(orphans.size(), tenants.all.size());
    for (void* owner : engine.detach_all()) memory.let_go(owner);
    CHECK_EQUAL(memory.size(), 0u);
}

void test_a_batch_without_rows_is_not_run() {
    Engine engine(Policy{.max_queue_delay = 10 * kMillisecond});
    Lane& lane = engine.add_lane({8, 8});
    Memory memory;
    Tenants tenants;
    memory.give(engine, lane, engine.max_batch_size());
    std::int64_t rows = 0;
    NativeExecutor executor(engine, add, &rows);
    Reservation reservation;
    CHECK(engine.reserve(lane, 1, 1, kNever, reservation) == Status::Ok);
    Batch& batch = *reservation.batch;
    batch.retain();
    tenants.settle_in(batch);
    CHECK(engine.settle(batch, 0, SlotState::Cancelled));
    engine.commit(lane, reservation);
    CHECK(batch.wait(0xffff'ffff, kNever, 0, engine.clock()) == WaitResult::Done);
    batch.release();
    engine.close(true);
    executor.join();
    CHECK_EQUAL(rows, 0);
    CHECK_EQUAL(engine.statistics().cancelled, 1u);
    for (void* owner : engine.detach_all()) memory.let_go(owner);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung();
    test_threads_call_a_native_model();
    test_a_batch_without_rows_is_not_run();
}
