// An engine with one lane, its memory and its requests, for the tests that drive it by hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "tidegate/engine.hpp"

namespace tidegate::testing {

/// The staging memory of a lane; an allocation is let go of when the engine returns its owner.
class Memory {
  public:
    /// Gives `lane` a buffer, as a caller does that was told BufferNeeded.
    void give(Engine& engine, Lane& lane, std::uint32_t capacity) {
        auto buffer = std::make_unique<Buffer>();
        std::vector<std::byte*> columns;
        for (const std::size_t bytes : lane.row_bytes) {
            buffer->push_back(std::vector<std::byte>(bytes * capacity));
            columns.push_back(buffer->back().data());
        }
        void* const owner = buffer.get();
        {
            const std::lock_guard lock(mutex_);
            buffers_[owner] = std::move(buffer);
        }
        if (void* replaced = engine.add_buffer(lane, capacity, std::move(columns), owner)) {
            let_go(replaced);
        }
    }
    void let_go(void* owner) {
        const std::lock_guard lock(mutex_);
        CHECK_EQUAL(buffers_.erase(owner), 1u);
    }
    bool owns(void* owner) const {
        const std::lock_guard lock(mutex_);
        return buffers_.count(owner) != 0;
    }
    std::size_t size() const {
        const std::lock_guard lock(mutex_);
        return buffers_.size();
    }

  private:
    using Buffer = std::vector<std::vector<std::byte>>;  // one allocation per column
    mutable std::mutex mutex_;
    std::map<void*, std::unique_ptr<Buffer>> buffers_;  // under mutex_
};

/// A request as its caller holds it: slot `index` of a batch that is kept alive.
struct Request {
    Batch* batch = nullptr;
    std::uint32_t index = 0;
    std::uint64_t value = 0;

    SlotState state() const { return batch->slot(index); }
};

/// One lane of one-word rows. With the manual clock nothing happens unless the test does it.
class Rig {
  public:
    explicit Rig(const Policy& policy, std::vector<std::size_t> row_bytes = {sizeof(std::uint64_t)})
        : engine(policy, clock, /*timer_thread=*/false),
          lane(engine.add_lane(std::move(row_bytes))) {}
    Rig(const Rig&) = delete;
    Rig& operator=(const Rig&) = delete;
    ~Rig() {
        for (Request& request : requests_) request.batch->release();
        engine.close(false);
        for (void* owner : engine.detach_all()) memory.let_go(owner);
        CHECK_EQUAL(memory.size(), 0u);
    }

    /// reserve() that gives the lane memory when it asks for some.
    Status reserve(std::uint32_t least, std::uint32_t most, Nanos deadline,
                   Reservation& reservation) {
        for (;;) {
            const Status status = engine.reserve(lane, least, most, deadline, reservation);
            if (status != Status::BufferNeeded) return status;
            memory.give(engine, lane, engine.max_batch_size());
        }
    }

    /// Submits one row. \pre there is room
    Request submit(std::uint64_t value, Nanos deadline = kNever) {
        Request request;
        CHECK(try_submit(value, request, deadline) == Status::Ok, "the row is taken");
        return request;
    }
    Status try_submit(std::uint64_t value, Request& request, Nanos deadline = kNever) {
        Reservation reservation;
        const Status status = reserve(1, 1, deadline, reservation);
        if (status != Status::Ok) return status;
        request = keep(reservation, value);
        engine.commit(lane, reservation);
        return Status::Ok;
    }
    /// Copies `value` into the first reserved row; between reserve() and commit().
    Request keep(const Reservation& reservation, std::uint64_t value) {
        std::memcpy(reservation.slab->column(0) + reservation.index * sizeof value, &value,
                    sizeof value);
        reservation.batch->retain();
        requests_.push_back({reservation.batch, reservation.index, value});
        return requests_.back();
    }

    static std::uint64_t row(const Taken& taken, std::uint32_t index) {
        std::uint64_t value = 0;
        std::memcpy(&value, taken.slab->column(0) + index * sizeof value, sizeof value);
        return value;
    }

    /// Takes, claims and finishes one batch; returns the rows that the model was given. An executor
    /// with a thread was told before that there is work.
    std::vector<std::uint64_t> run(Executor& executor, Outcome outcome = Outcome::Completed) {
        Taken taken = take(executor);
        return finish(executor, taken, outcome);
    }
    Taken take(Executor& executor) {
        Taken taken;
        CHECK((executor.kind == ExecutorKind::Inline ? engine.try_take(executor, taken)
                                                     : engine.seal(executor, taken)) == Status::Ok,
              "there is a batch to run");
        return taken;
    }
    std::vector<std::uint64_t> finish(Executor& executor, Taken& taken,
                                      Outcome outcome = Outcome::Completed,
                                      std::uint32_t failed_rows = 0) {
        CHECK(taken.slab->all_committed(taken.reserved), "every row was committed");
        const std::uint32_t live = engine.claim(taken);
        std::vector<std::uint64_t> rows;
        for (std::uint32_t index = 0; index < live; ++index) rows.push_back(row(taken, index));
        if (!engine.keeps_memory(taken)) memory.let_go(taken.slab->detach());
        engine.finish(executor, taken, outcome, 0, failed_rows);
        if (executor.kind == ExecutorKind::Inline) engine.give_back(executor);
        return rows;
    }

    /// Every submitted row is accounted for. \pre nothing runs
    void check_counters() const {
        const Statistics s = engine.statistics();
        CHECK_EQUAL(s.submitted, requests_.size());
        CHECK_EQUAL(s.submitted,
                    s.completed + s.failed + s.cancelled + s.expired + s.closed + waiting());
    }
    /// Rows that still wait: the queue less those that were settled while they waited.
    std::uint64_t waiting() const {
        std::uint64_t waiting = 0;
        for (const Request& request : requests_) waiting += request.state() == SlotState::Queued;
        return waiting;
    }

    ManualClock clock;
    Engine engine;
    Lane& lane;
    Memory memory;

  private:
    std::vector<Request> requests_;
};

/// A thread that waits for work once. It is asleep in await_work(), or was given work, when the
/// constructor returns.
class Waiter {
  public:
    explicit Waiter(Engine& engine)
        : executor(engine.add_executor(ExecutorKind::Thread)),
          engine_(engine),
          index_(engine.statistics().executors.size() - 1),
          thread_([this] { status_ = engine_.await_work(executor); }) {
        while (state() == ExecutorState::Busy) std::this_thread::yield();
    }
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    ~Waiter() {
        if (thread_.joinable()) thread_.join();
    }

    ExecutorState state() const { return engine_.statistics().executors[index_].state; }
    /// What await_work() said; waits for it.
    Status status() {
        thread_.join();
        return status_;
    }

    Executor& executor;

  private:
    Engine& engine_;
    const std::size_t index_;
    Status status_ = Status::Nothing;
    std::thread thread_;
};

}  // namespace tidegate::testing
