// Server: listening, and passing on between workers and Python.
#include "server.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <system_error>

namespace tidegate::frontend {

namespace {

struct FreeAddresses {
    void operator()(addrinfo* found) const noexcept { freeaddrinfo(found); }
};

/// A socket that listens at `address`, whose port is filled in.
int listen_at(Address& address) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* raw = nullptr;
    const std::string port = std::to_string(address.port);
    const char* const host = address.host.empty() ? nullptr : address.host.c_str();
    if (const int error = getaddrinfo(host, port.c_str(), &hints, &raw); error != 0) {
        throw std::runtime_error("the address " + address.host +
                                 " cannot be resolved: " + gai_strerror(error));
    }
    const std::unique_ptr<addrinfo, FreeAddresses> found(raw);
    int error = 0;
    for (const addrinfo* each = raw; each != nullptr; each = each->ai_next) {
        const int listener = socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (listener < 0) {
            error = errno;
            continue;
        }
        const int yes = 1;
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (address.shared) setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
        if (bind(listener, each->ai_addr, each->ai_addrlen) == 0 &&
            listen(listener, SOMAXCONN) == 0) {
            sockaddr_storage bound{};
            socklen_t size = sizeof bound;
            getsockname(listener, reinterpret_cast<sockaddr*>(&bound), &size);
            address.port = ntohs(bound.ss_family == AF_INET6
                                     ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                     : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
            return listener;
        }
        error = errno;
        ::close(listener);
    }
    throw std::system_error(error, std::generic_category(),
                            "cannot listen at " + address.host + ":" + port);
}

}  // namespace

Server::Server(Settings settings, const Address& address, std::uint32_t threads, TlsContext tls,
               const Waist& waist)
    : settings_(std::move(settings)), tls_(std::move(tls)), address_(address) {
    listener_ = listen_at(address_);
    try {
        for (std::uint32_t number = 0; number < threads; ++number) {
            workers_.push_back(
                std::make_unique<Worker>(number, settings_, *this, waist, listener_, tls_.get()));
        }
    } catch (...) {
        workers_.clear();
        ::close(listener_);
        throw;
    }
}

Server::~Server() {
    stop();
    workers_.clear();
    ::close(listener_);
}

void Server::publish(std::shared_ptr<const Catalogue> catalogue) {
    if (!ours()) return;
    for (const auto& worker : workers_) worker->publish(catalogue);
}

void Server::answer(PythonAnswer answer) {
    if (!ours()) return;
    const std::size_t number = answer.id & 0xff;
    if (number < workers_.size()) workers_[number]->answer(std::move(answer));
}

void Server::retry() {
    if (!ours()) return;
    for (const auto& worker : workers_) worker->retry();
}

void Server::drain() {
    // A shutdown would end the parent's listening, too.
    if (!ours()) return;
    {
        const std::lock_guard lock(mutex_);
        draining_ = true;
    }
    // Clients that connect from now on are refused by the kernel.
    shutdown(listener_, SHUT_RDWR);
    for (const auto& worker : workers_) worker->drain();
}

bool Server::drained() const noexcept {
    const auto is_empty = [](const auto& worker) { return worker->empty(); };
    return !ours() || std::all_of(workers_.begin(), workers_.end(), is_empty);
}

void Server::stop() noexcept {
    if (!ours()) return;
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    arrived_.notify_all();
    for (const auto& worker : workers_) worker->stop();
    for (const auto& worker : workers_) worker->join();
}

std::vector<Event> Server::take(Nanos timeout) {
    std::vector<Event> events;
    if (!ours()) return events;
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, std::chrono::nanoseconds(timeout),
                      [this] { return !events_.empty() || stopped_; });
    events.swap(events_);
    return events;
}

WorkerStatistics Server::statistics() const noexcept {
    WorkerStatistics all;
    for (const auto& worker : workers_) {
        const WorkerStatistics one = worker->statistics();
        all.connections += one.connections;
        all.accepted += one.accepted;
        all.requests += one.requests;
        all.python_requests += one.python_requests;
    }
    return all;
}

void Server::call(PythonCall call) {
    Event event;
    event.call = std::move(call);
    post(std::move(event));
}

void Server::cancel(std::uint64_t id) {
    Event event;
    event.kind = Event::Kind::Cancel;
    event.call.id = id;
    post(std::move(event));
}

void Server::need_buffer(std::size_t offer) {
    Event event;
    event.kind = Event::Kind::NeedBuffer;
    event.offer = offer;
    post(std::move(event));
}

void Server::post(Event event) {
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        first = events_.empty();
        // Many rows may ask for the same buffer before Python comes to it.
        if (event.kind == Event::Kind::NeedBuffer && !first &&
            events_.back().kind == Event::Kind::NeedBuffer && events_.back().offer == event.offer) {
            return;
        }
        events_.push_back(std::move(event));
    }
    if (first) arrived_.notify_one();
}

}  // namespace tidegate::frontend
