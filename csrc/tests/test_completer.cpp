// Batches on a device end in order, with what the device said, while more of them are started.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "tidegate/completer.hpp"

using namespace tidegate;

namespace {

/// A device whose events are reached when a test says so.
class Device {
  public:
    struct Event {
        Device* device;
        int status;
        bool reached = false;
    };

    Event* record(int status) {
        const std::lock_guard lock(mutex_);
        events_.push_back(std::make_unique<Event>(Event{this, status}));
        return events_.back().get();
    }
    void reach(Event* event) {
        {
            const std::lock_guard lock(mutex_);
            event->reached = true;
        }
        changed_.notify_all();
    }
    static int wait(void* pointer) {
        auto* event = static_cast<Event*>(pointer);
        std::unique_lock lock(event->device->mutex_);
        event->device->changed_.wait(lock, [event] { return event->reached; });
        return event->status;
    }
    static int enter(void* context) {
        static_cast<Device*>(context)->entered = std::this_thread::get_id();
        return 0;
    }
    DeviceCalls calls() { return {&Device::wait, &Device::enter, this}; }

    std::thread::id entered;

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::unique_ptr<Event>> events_;  // under mutex_
};

/// An engine whose batches have a row each.
struct Rows {
    explicit Rows(std::uint32_t most)
        : engine(Policy{.max_batch_size = most, .max_queue_size = 1 << 20}),
          lane(engine.add_lane({8})),
          executor(engine.add_executor(ExecutorKind::Device)) {}
    ~Rows() {
        for (Batch* batch : batches) batch->release();
        engine.close(false);
        engine.detach_all();
    }

    Batch* submit(std::uint64_t value) {
        Reservation reservation;
        while (engine.reserve(lane, 1, 1, kNever, reservation) == Status::BufferNeeded) {
            memory.push_back(std::make_unique<std::byte[]>(8 * engine.max_batch_size()));
            engine.add_buffer(lane, engine.max_batch_size(), {memory.back().get()},
                              memory.back().get());
        }
        std::memcpy(reservation.slab->column(0) + reservation.index * 8, &value, 8);
        Batch* batch = reservation.batch;
        batch->retain();
        batches.push_back(batch);
        batch->tenant = this;  // what the executor would leave with the orphans
        engine.commit(lane, reservation);
        return batch;
    }
    Taken take() {
        CHECK(engine.await_work(executor) == Status::Ok);
        Taken taken;
        CHECK(engine.seal(executor, taken) == Status::Ok);
        taken.slab->wait_committed(taken.reserved);
        CHECK(engine.claim(taken) > 0);
        return taken;
    }

    Engine engine;
    Lane& lane;
    Executor& executor;
    std::vector<std::unique_ptr<std::byte[]>> memory;
    std::vector<Batch*> batches;
};

void test_batches_end_in_order_and_with_their_status() {
    Rows rows(1);
    Device device;
    std::vector<Device::Event*> events;
    std::vector<Batch*> batches;
    {
        Completer completer(rows.engine, device.calls());
        for (int i = 0; i < 3; ++i) {
            batches.push_back(rows.submit(static_cast<std::uint64_t>(i)));
            const Taken taken = rows.take();
            events.push_back(device.record(i == 1 ? 700 : 0));
            completer.add(rows.executor, taken, events.back());
        }
        completer.wait_room(4);
        device.reach(events[1]);  // out of order: the first is still waited for
        CHECK(!batches[0]->done() && !batches[1]->done());
        device.reach(events[0]);
        completer.wait_room(2);  // two have ended
        CHECK(batches[0]->done() && batches[1]->done());
        CHECK(batches[0]->outcome() == Outcome::Completed);
        CHECK(batches[1]->outcome() == Outcome::Failed);
        CHECK_EQUAL(batches[1]->model_status(), 700);
        Ended endings[4];
        CHECK_EQUAL(completer.take_ended(endings, 1), 1u);
        CHECK_EQUAL(endings[0].status, 0);
        CHECK_EQUAL(completer.take_ended(endings, 4), 1u);
        CHECK_EQUAL(endings[0].status, 700);
        CHECK_EQUAL(completer.take_ended(endings, 4), 0u);
        device.reach(events[2]);
    }
    CHECK(batches[2]->done(), "all that was added has ended");
    CHECK(device.entered != std::thread::id{} && device.entered != std::this_thread::get_id());
    void* orphans[4];
    CHECK_EQUAL(rows.engine.take_orphans(orphans, 4), 3u);
    const Statistics now = rows.engine.statistics();
    CHECK_EQUAL(now.completed, 2u);
    CHECK_EQUAL(now.failed, 1u);
}

void test_an_idle_executor_hears_once_that_its_last_batch_has_ended() {
    Rows rows(1);
    Device device;
    Completer completer(rows.engine, device.calls());
    rows.submit(1);
    Device::Event* const event = device.record(700);
    completer.add(rows.executor, rows.take(), event);
    Ended endings[4];
    std::thread executor([&] {
        CHECK(rows.engine.await_work(rows.executor) == Status::Nothing);
        CHECK_EQUAL(completer.take_ended(endings, 4), 1u);
        CHECK(rows.engine.await_work(rows.executor) == Status::Ok, "work comes first, and as ever");
        Taken taken;
        CHECK(rows.engine.seal(rows.executor, taken) == Status::Ok);
        taken.slab->wait_committed(taken.reserved);
        CHECK_EQUAL(rows.engine.claim(taken), 1u);
        rows.engine.finish(rows.executor, taken, Outcome::Completed, 0, 0);
        CHECK(rows.engine.await_work(rows.executor) == Status::Stop);
    });
    device.reach(event);
    const auto idle = [&] {
        return rows.engine.statistics().executors[0].state == ExecutorState::Idle;
    };
    // Told, it has looked, and sleeps again: nothing wakes it but work.
    completer.wait_room(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    while (!idle()) std::this_thread::yield();
    CHECK_EQUAL(endings[0].status, 700);
    Batch* const batch = rows.submit(2);
    CHECK(batch->wait(0, kNever, 0, rows.engine.clock()) == WaitResult::Done);
    rows.engine.close(true);
    executor.join();
    void* orphans[4];
    rows.engine.take_orphans(orphans, 4);
}

/// Callers, an executor with a ring of three, and a device that is late, all at once.
void test_a_ring_under_way() {
    constexpr std::uint32_t kDepth = 3;
    constexpr std::uint64_t kRows = 3000;
    Rows rows(4);
    Device device;
    std::atomic<std::uint64_t> started{0};
    std::mutex mutex;
    std::deque<Device::Event*> pending;
    std::atomic<bool> done{false};
    std::thread gpu([&] {
        for (;;) {
            Device::Event* event = nullptr;
            {
                const std::lock_guard lock(mutex);
                if (!pending.empty()) {
                    event = pending.front();
                    pending.pop_front();
                } else if (done) {
                    return;
                }
            }
            if (event == nullptr) {
                std::this_thread::yield();
            } else {
                device.reach(event);
            }
        }
    });
    std::thread executor([&] {
        Completer completer(rows.engine, device.calls());
        std::uint64_t ended = 0;
        Ended endings[8];
        for (;;) {
            completer.wait_room(kDepth);
            ended += completer.take_ended(endings, 8);
            CHECK(started - ended < kDepth, "never more than the ring has room for");
            const Status status = rows.engine.await_work(rows.executor);
            if (status == Status::Stop) break;
            if (status == Status::Nothing) continue;  // the callers have paused
            Taken taken;
            if (rows.engine.seal(rows.executor, taken) != Status::Ok) continue;
            taken.slab->wait_committed(taken.reserved);
            CHECK(rows.engine.claim(taken) > 0);
            Device::Event* event = device.record(0);
            ++started;
            completer.add(rows.executor, taken, event);
            const std::lock_guard lock(mutex);
            pending.push_back(event);
        }
    });
    for (std::uint64_t value = 0; value < kRows; ++value) {
        Batch* batch = rows.submit(value);
        if (value % 64 == 0) {
            CHECK(batch->wait(rows.batches.size(), kNever, 0, rows.engine.clock()) ==
                  WaitResult::Done);
        }
    }
    rows.engine.close(true);
    CHECK(rows.engine.wait_drained(kNever));
    executor.join();
    done = true;
    gpu.join();
    CHECK_EQUAL(rows.engine.statistics().completed, kRows);
    void* orphans[16];
    while (rows.engine.take_orphans(orphans, 16) == 16) {
    }
}

}  // namespace

int main() {
    test_batches_end_in_order_and_with_their_status();
    test_an_idle_executor_hears_once_that_its_last_batch_has_ended();
    test_a_ring_under_way();
}
