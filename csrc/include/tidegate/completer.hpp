// Ends batches that run on a device, as soon as the device is done and without the GIL.
//
// The core knows no CUDA: it is given the address of a function that waits for an event, such as
// cuEventSynchronize, and events as opaque pointers. One thread waits for them in the order in
// which they were added, which is the order in which a device gets there, and ends each batch.
//
//   executor: take, start, add() ──▶ completer: wait for the event, finish the batch
//   executor: wait_room() ◀──────────────────── one more has ended
//   executor: take_ended()           lets the device's side go, which takes the GIL
//   executor: await_work() ◀── nudge() once nothing has been added for a while: the same, for the
//                              last batches
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "tidegate/engine.hpp"

namespace tidegate {

class Completer {
  public:
    Completer(Engine& engine, DeviceCalls calls);
    /// Waits for all that was added.
    ~Completer();
    Completer(const Completer&) = delete;
    Completer& operator=(const Completer&) = delete;

    /// Hands over a batch that was started and whose outputs its tenant has; `event` comes after
    /// them. The tenant is left with the engine's orphans.
    void add(Executor& executor, const Taken& taken, void* event);
    /// Waits until fewer than `most` batches are under way. \pre The GIL is not held.
    void wait_room(std::uint32_t most) noexcept;
    /// How the batches ended that did so since the last call, in order; at most `most` of them.
    std::size_t take_ended(Ended* into, std::size_t most);

  private:
    struct Flight {
        Executor* executor;
        Taken taken;
        void* event;
    };

    void run() noexcept;

    Engine& engine_;
    const DeviceCalls calls_;
    std::mutex mutex_;
    std::deque<Flight> flights_;   // started, not waited for; under mutex_
    std::deque<Ended> endings_;    // under mutex_
    std::uint32_t under_way_ = 0;  // under mutex_
    bool stopping_ = false;        // under mutex_
    // Futex words, changed under mutex_: to wake the waiting thread, and those in wait_room().
    std::atomic<std::uint32_t> added_{0};
    std::atomic<std::uint32_t> ended_{0};
    std::thread thread_;
};

}  // namespace tidegate
