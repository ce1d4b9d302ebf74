// One thread of the front end: its connections, and the requests that it has in batches.
//
// It reads whatever has come, puts the rows into slots, and sleeps. When a batch is done its port
// says so, and the answers of all its requests are written, with one write for each connection.
// The GIL has no part in any of that.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "connection.hpp"
#include "offer.hpp"
#include "settings.hpp"

namespace tidegate::frontend {

/// A request that Python is to answer.
struct PythonCall {
    std::uint64_t id = 0;
    std::string path;
    std::string message;
    Nanos deadline = kNever;
};

/// Python's answer, or an order to a worker.
struct PythonAnswer {
    std::uint64_t id = 0;
    GrpcStatus status = GrpcStatus::Ok;
    std::string text;  // the message, or what the status means
    int pushback_milliseconds = 0;
};

/// What workers ask of Python; called without the GIL, from any worker.
class PythonSide {
  public:
    virtual ~PythonSide() = default;
    virtual void call(PythonCall call) = 0;
    virtual void cancel(std::uint64_t id) = 0;
    /// The lane of an offer has no memory for another batch.
    virtual void need_buffer(std::size_t offer) = 0;
};

/// The requests that one worker has in one batch.
struct Pending {
    std::shared_ptr<const Offer> offer;
    Batch* batch = nullptr;
    std::vector<Stream*> waiters;  // null once nobody waits
};

struct WorkerStatistics {
    std::uint64_t connections = 0;
    std::uint64_t accepted = 0;
    std::uint64_t requests = 0;  // read here
    std::uint64_t python_requests = 0;
};

class Worker final : public Requests {
  public:
    /// \pre `listener` does not block; it is shared, and closed by its owner.
    Worker(std::uint32_t number, const Settings& settings, PythonSide& python, const Waist& waist,
           int listener, SSL_CTX* tls);
    ~Worker() override;

    // Any thread.
    void publish(std::shared_ptr<const Catalogue> catalogue);
    void answer(PythonAnswer answer);
    /// Tries those again that had no memory for a batch.
    void retry();
    /// Takes no more connections or streams.
    void drain();
    /// Ends the thread; what is open is cut off.
    void stop();
    void join() noexcept;
    /// True once drained: no connection is left.
    bool empty() const noexcept { return open_.load(std::memory_order_acquire) == 0; }
    WorkerStatistics statistics() const noexcept;

    // Requests.
    void arrived(Stream& stream) override;
    void vanished(Stream& stream) noexcept override;
    Nanos now() const noexcept override;

  private:
    void order(bool Worker::* what);
    void close_descriptors() noexcept;
    void run();
    void end();
    void watch_listener();
    void accept();
    /// Leaves those who connect in the kernel's queue for a while.
    void pause_accepting();
    void resume_accepting();
    void stop_accepting();
    void serve(Connection& connection, std::uint32_t events);
    void close(Connection& connection);
    /// Has it closed once nobody iterates over what it owns.
    void doom(Connection& connection);
    void close_doomed();
    /// False: the thread is to end.
    bool take_orders();
    void take_notices();
    void flush_dirty();
    void check_time();
    int patience() const noexcept;
    void mark(Connection& connection);

    /// Reads a request and puts its rows into slots. False if Python is to answer it.
    bool submit(Stream& stream);
    void settle(Pending& pending, std::uint32_t slot, std::uint32_t rows) noexcept;
    void hand_to_python(Stream& stream);
    Pending& pending_of(const std::shared_ptr<const Offer>& offer, Batch* batch);
    void answer_ended(Stream& stream, SlotState state);
    void settled(Pending& pending);
    void finished(Pending& pending);

    const std::uint32_t number_;
    const Settings& settings_;
    PythonSide& python_;
    const Waist& waist_;
    const int listener_;
    SSL_CTX* const tls_;
    int epoll_ = -1;
    int wake_ = -1;

    // Of this thread alone.
    std::shared_ptr<const Catalogue> catalogue_;
    std::vector<std::unique_ptr<Connection>> connections_;
    std::vector<Connection*> dirty_;
    std::vector<Connection*> doomed_;
    std::vector<Stream*> parked_;
    std::unordered_map<std::uint64_t, Stream*> python_calls_;
    std::unordered_map<Batch*, std::unique_ptr<Pending>> pendings_;
    std::vector<std::unique_ptr<Pending>> spare_;
    Pending* last_ = nullptr;  // the batch of the latest row: mostly that of the next one too
    Port* port_ = nullptr;
    const char listener_tag_ = 0;  // its address stands for the listener
    std::uint64_t next_call_ = 0;
    Nanos next_check_ = 0;
    bool hurry_ = false;  // somebody is to be looked at within a second
    bool accepting_ = true;
    Nanos accept_again_ = kNever;  // while no descriptor is left for a connection
    bool draining_ = false;

    // Orders from other threads, under mutex_.
    std::mutex mutex_;
    std::vector<PythonAnswer> answers_;
    std::shared_ptr<const Catalogue> published_;
    bool retry_ = false;
    bool drain_ = false;
    bool stop_ = false;

    // Relaxed, all but open_: read for statistics. open_ is released when the last connection went.
    std::atomic<std::uint64_t> open_{0};
    std::atomic<std::uint64_t> accepted_{0};
    std::atomic<std::uint64_t> requests_{0};
    std::atomic<std::uint64_t> python_requests_{0};

    std::thread thread_;  // last: it uses all of the above
};

}  // namespace tidegate::frontend
