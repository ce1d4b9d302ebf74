// Rows that take up more than a place: cost, tokens, one queue for several lanes, turns.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "tidegate/engine.hpp"

using namespace tidegate;

namespace {

/// A lane with a ragged column of 2-byte tokens and a plain one of 3-byte rows, and its memory.
struct Ragged {
    explicit Ragged(Engine& e) : engine(e), lane(e.add_weighed_lane({2, 3}, {true, false})) {}

    void give(std::uint32_t rows, std::uint32_t tokens) {
        buffers.push_back(std::make_unique<Buffer>());
        Buffer& buffer = *buffers.back();
        buffer.tokens.resize(std::size_t{tokens} * 2 + 1);
        buffer.rows.resize(std::size_t{rows} * 3);
        buffer.offsets.resize(rows + 1);
        engine.add_buffer(lane, rows, {buffer.tokens.data(), buffer.rows.data()}, &buffer,
                          {tokens, buffer.offsets.data()});
    }
    /// Submits a row of `tokens` tokens that all say `value`.
    Status submit(std::uint8_t value, std::uint32_t tokens, double cost, Reservation& reservation,
                  Nanos deadline = kNever) {
        const Status status = engine.reserve_weighed(lane, {tokens, cost}, deadline, reservation);
        if (status != Status::Ok) return status;
        std::memset(reservation.slab->column(0) + std::size_t{reservation.first_token} * 2, value,
                    std::size_t{tokens} * 2);
        std::memset(reservation.slab->column(1) + std::size_t{reservation.index} * 3, value, 3);
        engine.commit(lane, reservation);
        return status;
    }
    Reservation must_submit(std::uint8_t value, std::uint32_t tokens, double cost) {
        Reservation reservation;
        CHECK(submit(value, tokens, cost, reservation) == Status::Ok);
        return reservation;
    }

    struct Buffer {
        std::vector<std::byte> tokens, rows;
        std::vector<std::int32_t> offsets;
    };
    Engine& engine;
    Lane& lane;
    std::vector<std::unique_ptr<Buffer>> buffers;
};

/// Runs one batch; returns the tokens of each row as "value*count ..." and checks both columns.
std::string run(Engine& engine, Executor& executor, DispatchReason* reason = nullptr) {
    Taken taken;
    if (engine.try_take(executor, taken) != Status::Ok) return "nothing";
    if (reason != nullptr) *reason = taken.reason;
    const std::uint32_t live = engine.claim(taken);
    std::string said;
    const std::int32_t* offsets = taken.slab->offsets();
    CHECK_EQUAL(offsets[0], 0);
    for (std::uint32_t row = 0; row < live; ++row) {
        const int value = std::to_integer<int>(taken.slab->column(1)[std::size_t{row} * 3 + 2]);
        for (std::int32_t at = offsets[row] * 2; at < offsets[row + 1] * 2; ++at) {
            CHECK_EQUAL(std::to_integer<int>(taken.slab->column(0)[at]), value);
        }
        said += std::to_string(value) + "*" + std::to_string(offsets[row + 1] - offsets[row]) + " ";
    }
    engine.finish(executor, taken, Outcome::Completed, 0, 0);
    engine.give_back(executor);
    return said;
}

void test_a_batch_is_closed_by_cost_by_tokens_and_by_rows() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 3, .max_batch_cost = 10}, clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged lane(engine);
    Reservation reservation;
    CHECK(lane.submit(1, 4, 6, reservation) == Status::BufferNeeded);
    for (int i = 0; i < 6; ++i) lane.give(3, 8);
    lane.must_submit(1, 4, 6);
    lane.must_submit(2, 1, 5);  // 11: closes the first
    lane.must_submit(3, 0, 5);  // 10: full to the brim
    lane.must_submit(4, 5, 1);
    lane.must_submit(5, 4, 1);  // 9 tokens: closes the one before
    lane.must_submit(6, 0, 1);
    lane.must_submit(7, 4, 1);   // the third row: full
    lane.must_submit(8, 8, 10);  // as much as there can be
    lane.must_submit(9, 0, 0);
    DispatchReason reason{};
    CHECK(run(engine, executor, &reason) == "1*4 ");
    CHECK(reason == DispatchReason::Cost);
    CHECK(run(engine, executor, &reason) == "2*1 3*0 ");
    CHECK(reason == DispatchReason::Cost);
    CHECK(run(engine, executor, &reason) == "4*5 ");
    CHECK(reason == DispatchReason::Full);
    CHECK(run(engine, executor, &reason) == "5*4 6*0 7*4 ");
    CHECK(reason == DispatchReason::Full);
    CHECK(run(engine, executor, &reason) == "8*8 ");
    CHECK(reason == DispatchReason::Cost);
    CHECK(run(engine, executor, &reason) == "9*0 ");
    CHECK(reason == DispatchReason::Idle);
    CHECK(run(engine, executor) == "nothing");
    // A row longer than any buffer asks for a larger one, and smaller ones are not opened again.
    CHECK(lane.submit(1, 9, 1, reservation) == Status::BufferNeeded);
    lane.give(3, 16);
    lane.must_submit(1, 9, 1);
    lane.must_submit(2, 7, 1);
    CHECK(run(engine, executor) == "1*9 2*7 ");
    CHECK_EQUAL(engine.statistics().dispatched[static_cast<std::size_t>(DispatchReason::Cost)], 3u);
}

void test_memory_for_short_rows_is_not_opened_for_longer_ones() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 4}, clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged lane(engine);
    lane.give(4, 8);
    lane.give(4, 8);
    Reservation reservation;
    CHECK(engine.reserve_weighed(lane.lane, {2, 0, 8}, kNever, reservation) == Status::Ok);
    std::memset(reservation.slab->column(0), 1, 4);
    std::memset(reservation.slab->column(1), 1, 3);
    engine.commit(lane.lane, reservation);
    // It does not fit behind the other, and the next memory would soon be full as well.
    CHECK(engine.reserve_weighed(lane.lane, {7, 0, 28}, kNever, reservation) ==
          Status::BufferNeeded);
    lane.give(4, 28);
    CHECK(engine.reserve_weighed(lane.lane, {7, 0, 28}, kNever, reservation) == Status::Ok);
    CHECK_EQUAL(reservation.slab->token_capacity(), 28u);
    std::memset(reservation.slab->column(0), 2, 14);
    std::memset(reservation.slab->column(1), 2, 3);
    engine.commit(lane.lane, reservation);
    CHECK(run(engine, executor) == "1*2 ");
    CHECK(run(engine, executor) == "2*7 ");
}

void test_a_batch_that_is_full_to_its_cost_stays_so_while_its_last_row_is_copied() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 4, .max_queue_delay = kMillisecond, .max_batch_cost = 5},
                  clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged lane(engine);
    lane.give(4, 8);
    lane.give(4, 8);
    Reservation last;
    CHECK(engine.reserve_weighed(lane.lane, {0, 5}, kNever, last) == Status::Ok);
    lane.must_submit(2, 0, 0);  // would fit, but has a batch of its own
    std::memset(last.slab->column(1), 1, 3);
    engine.commit(lane.lane, last);
    DispatchReason reason{};
    CHECK(run(engine, executor, &reason) == "1*0 ");
    CHECK(reason == DispatchReason::Cost);
    CHECK(run(engine, executor) == "nothing");
    clock.advance(kMillisecond);
    CHECK(run(engine, executor, &reason) == "2*0 ");
    CHECK(reason == DispatchReason::Delay);
}

void test_nobody_waits_for_more_rows_while_the_queue_is_full() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 8, .max_queue_delay = kMillisecond, .max_queue_size = 3},
                  clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged one(engine), other(engine);
    one.give(8, 16), other.give(8, 16);
    one.must_submit(1, 1, 0);
    other.must_submit(2, 1, 0);
    CHECK(run(engine, executor) == "nothing");
    one.must_submit(3, 1, 0);
    CHECK(run(engine, executor) == "1*1 3*1 ");
    CHECK(run(engine, executor) == "nothing", "there is room again");
    clock.advance(kMillisecond);
    CHECK(run(engine, executor) == "2*1 ");
}

void test_who_waits_for_room_waits_for_the_batch_that_goes_next() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 2}, clock, false);
    engine.add_executor(ExecutorKind::Thread);
    Ragged rare(engine), common(engine), later(engine);
    for (int i = 0; i < 2; ++i) rare.give(2, 8), common.give(2, 8), later.give(2, 8);
    CHECK(engine.pending_batch(nullptr) == nullptr);
    const auto pending = [&] {
        Batch* const batch = engine.pending_batch(nullptr);
        batch->release();
        return batch;
    };
    Batch* const first = rare.must_submit(1, 1, 0).batch;
    clock.advance(kMicrosecond);
    later.must_submit(2, 1, 0);
    CHECK(pending() == first, "the oldest");
    clock.advance(kMicrosecond);
    Batch* const full = common.must_submit(3, 1, 0).batch;
    common.must_submit(4, 1, 0);
    CHECK(pending() == full, "a full one before one that fills");
    engine.close(false);
}

void test_lanes_share_one_queue() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 2, .max_queue_size = 5}, clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged one(engine), other(engine);
    for (int i = 0; i < 4; ++i) one.give(2, 8), other.give(2, 8);
    for (std::uint8_t value = 0; value < 5; ++value) {
        CHECK(engine.has_room(one.lane, 1));
        (value % 2 == 0 ? one : other).must_submit(value, 1, 0);
    }
    CHECK(!engine.has_room(other.lane, 1));
    Reservation reservation;
    CHECK(one.submit(9, 1, 0, reservation) == Status::QueueFull);
    CHECK(other.submit(9, 1, 0, reservation) == Status::QueueFull);
    CHECK(run(engine, executor) == "0*1 2*1 ");
    CHECK(engine.has_room(other.lane, 2));
    CHECK(!engine.has_room(other.lane, 3));
    other.must_submit(5, 1, 0);
    other.must_submit(6, 1, 0);
    CHECK(one.submit(9, 1, 0, reservation) == Status::QueueFull);
    CHECK(!engine.is_empty(one.lane));
    engine.close(false);
    CHECK_EQUAL(engine.statistics().closed, 5u);
    CHECK(one.submit(9, 1, 0, reservation) == Status::Closed);
    CHECK(engine.is_empty(one.lane));
}

void test_the_oldest_row_is_passed_over_by_four_full_batches_at_most() {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = 2}, clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged rare(engine), common(engine);
    for (int i = 0; i < 8; ++i) rare.give(2, 8), common.give(2, 8);
    for (int round = 0; round < 2; ++round) {
        rare.must_submit(77, 1, 0);
        for (std::uint8_t value = 0; value < 12; ++value) {
            clock.advance(kMicrosecond);
            common.must_submit(value, 1, 0);
        }
        CHECK(run(engine, executor) == "0*1 1*1 ");
        CHECK(run(engine, executor) == "2*1 3*1 ");
        CHECK(run(engine, executor) == "4*1 5*1 ");
        CHECK(run(engine, executor) == "6*1 7*1 ");
        CHECK(run(engine, executor) == "77*1 ");
        CHECK(run(engine, executor) == "8*1 9*1 ");
        CHECK(run(engine, executor) == "10*1 11*1 ");
        CHECK(run(engine, executor) == "nothing");
    }
}

/// `rows` rows of changing lengths, of which those in `holes` (a bit each) are cancelled.
void check_holes(std::uint32_t rows, std::uint32_t holes, std::uint32_t lengths) {
    ManualClock clock;
    Engine engine(Policy{.max_batch_size = rows}, clock, false);
    Executor& executor = engine.add_executor(ExecutorKind::Inline);
    Ragged lane(engine);
    lane.give(rows, rows * 3);
    std::string expected;
    std::vector<std::pair<Reservation, std::uint32_t>> live;
    Batch* batch = nullptr;
    for (std::uint32_t row = 0; row < rows; ++row) {
        const std::uint32_t tokens = (lengths >> (2 * row) & 3) % 4;
        const Reservation reservation =
            lane.must_submit(static_cast<std::uint8_t>(10 + row), std::min(tokens, 3u), 0);
        if (batch == nullptr) (batch = reservation.batch)->retain();
        if ((holes >> row & 1) != 0) {
            CHECK(engine.settle(*reservation.batch, row, SlotState::Cancelled));
        } else {
            live.emplace_back(reservation, static_cast<std::uint32_t>(live.size()));
            expected += std::to_string(10 + row) + "*" + std::to_string(std::min(tokens, 3u)) + " ";
        }
    }
    CHECK(run(engine, executor) == expected);
    for (const auto& [reservation, place] : live) {
        CHECK_EQUAL(batch->row_of(reservation.index), place);
    }
    batch->release();
}

/// A clock that goes on with each look at it, and sees an executor linger that looks at it.
class Watch final : public Clock {
  public:
    Nanos now() const noexcept override {
        lingered |= executor != nullptr && executor->state == ExecutorState::Lingering;
        return now_ += kMicrosecond;
    }
    void advance(Nanos by) noexcept { now_ += by; }

    const Executor* executor = nullptr;
    mutable bool lingered = false;

  private:
    mutable Nanos now_ = kMillisecond;
};

/// Whether the executor lingers before it takes a batch, which then takes 10 ms and has `rows`.
bool lingers(Engine& engine, Executor& executor, Watch& watch, std::uint32_t rows) {
    watch.lingered = false;
    CHECK(engine.await_work(executor) == Status::Ok);
    Taken taken;
    CHECK(engine.seal(executor, taken) == Status::Ok);
    CHECK_EQUAL(engine.claim(taken), rows);
    watch.advance(10 * kMillisecond);
    engine.finish(executor, taken, Outcome::Completed, 0, 0);
    return watch.lingered;
}

void test_with_rows_of_two_lanes_nobody_lingers() {
    Watch watch;
    Engine engine(Policy{.max_batch_size = 64}, watch, false);
    Executor& executor = engine.add_executor(ExecutorKind::Thread);
    watch.executor = &executor;
    Ragged first(engine), second(engine);
    for (int i = 0; i < 4; ++i) {
        first.give(64, 64);
        second.give(64, 64);
    }
    for (int i = 0; i < 8; ++i) first.must_submit(1, 1, 1);
    CHECK(!lingers(engine, executor, watch, 8), "nobody is expected");
    first.must_submit(1, 1, 1);
    second.must_submit(2, 1, 1);
    CHECK(!lingers(engine, executor, watch, 1), "the others have the time of the second batch");
    CHECK(lingers(engine, executor, watch, 1), "and nothing else is to be done then");
    engine.close(false);
    void* orphans[4];
    engine.take_orphans(orphans, 4);
}

}  // namespace

int main() {
    test_a_batch_is_closed_by_cost_by_tokens_and_by_rows();
    test_memory_for_short_rows_is_not_opened_for_longer_ones();
    test_a_batch_that_is_full_to_its_cost_stays_so_while_its_last_row_is_copied();
    test_nobody_waits_for_more_rows_while_the_queue_is_full();
    test_who_waits_for_room_waits_for_the_batch_that_goes_next();
    test_lanes_share_one_queue();
    test_the_oldest_row_is_passed_over_by_four_full_batches_at_most();
    test_with_rows_of_two_lanes_nobody_lingers();
    std::uint32_t lengths = 12345;
    for (std::uint32_t rows = 1; rows <= 8; ++rows) {
        for (std::uint32_t holes = 0; holes < 1u << rows; ++holes) {
            lengths = lengths * 1664525 + 1013904223;
            check_holes(rows, holes, lengths >> 7);
        }
    }
}
