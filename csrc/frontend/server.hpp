// The front end as a whole: a listening socket, its workers, and the queue of what Python is to do.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "settings.hpp"
#include "transport.hpp"
#include "worker.hpp"

namespace tidegate::frontend {

/// What Python is to do; see PythonSide.
struct Event {
    enum class Kind { Call, Cancel, NeedBuffer } kind = Kind::Call;
    PythonCall call;        // of a Cancel, its id alone
    std::size_t offer = 0;  // of a NeedBuffer
};

struct Address {
    std::string host;
    std::uint16_t port = 0;
    bool shared = false;  // other processes may listen there too (SO_REUSEPORT)
};

class Server final : public PythonSide {
  public:
    /// Listens at once. A port of 0 is any that is free.
    /// \throws std::system_error, std::runtime_error
    Server(Settings settings, const Address& address, std::uint32_t threads, TlsContext tls,
           const Waist& waist);
    ~Server() override;
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    const Address& address() const noexcept { return address_; }
    /// False in the child of a fork: its workers, its clients and its socket are the parent's, and
    /// a lock may be held for ever. Then orders do nothing, and it must not be destroyed.
    bool ours() const noexcept { return ::getpid() == process_; }

    // Any thread; none needs the GIL.
    void publish(std::shared_ptr<const Catalogue> catalogue);
    void answer(PythonAnswer answer);
    void retry();
    void drain();
    /// True once drained: no connection is left, or none is ours.
    bool drained() const noexcept;
    /// Ends the workers; take() returns what there is, then nothing.
    void stop() noexcept;
    /// Waits for events until `deadline`. \pre The GIL is not held.
    std::vector<Event> take(Nanos timeout);
    WorkerStatistics statistics() const noexcept;

    // PythonSide.
    void call(PythonCall call) override;
    void cancel(std::uint64_t id) override;
    void need_buffer(std::size_t offer) override;

  private:
    void post(Event event);

    const pid_t process_ = ::getpid();
    const Settings settings_;
    const TlsContext tls_;
    Address address_;
    int listener_ = -1;
    bool draining_ = false;  // under mutex_
    bool stopped_ = false;   // under mutex_
    std::mutex mutex_;
    std::condition_variable arrived_;
    std::vector<Event> events_;                     // under mutex_
    std::vector<std::unique_ptr<Worker>> workers_;  // last: they use all of the above
};

}  // namespace tidegate::frontend
