// Worker: the loop of one thread.
#include "worker.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <system_error>
#include <utility>

namespace tidegate::frontend {

namespace {

constexpr int kEventsAtOnce = 256;
constexpr int kAcceptsAtOnce = 64;
constexpr Nanos kCheckPeriod = 1 * kSecond;
constexpr Nanos kAcceptPause = 100 * kMillisecond;

void watch(int epoll, int operation, int descriptor, std::uint32_t events, void* tag) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = tag;
    if (epoll_ctl(epoll, operation, descriptor, &event) != 0) {
        throw std::system_error(errno, std::generic_category(), "epoll_ctl");
    }
}

void ring(int descriptor) noexcept {
    const std::uint64_t one = 1;
    // It can only fail when it has been rung 2^64 - 2 times and nobody looked.
    static_cast<void>(!::write(descriptor, &one, sizeof one));
}

void hush(int descriptor) noexcept {
    std::uint64_t count = 0;
    static_cast<void>(!::read(descriptor, &count, sizeof count));
}

}  // namespace

Worker::Worker(std::uint32_t number, const Settings& settings, PythonSide& python,
               const Waist& waist, int listener, SSL_CTX* tls)
    : number_(number),
      settings_(settings),
      python_(python),
      waist_(waist),
      listener_(listener),
      tls_(tls),
      catalogue_(std::make_shared<Catalogue>()) {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    port_ = waist_.port_new(false);
    if (epoll_ < 0 || wake_ < 0 || port_ == nullptr) {
        const int error = errno;
        close_descriptors();
        throw std::system_error(error, std::generic_category(), "a worker's descriptors");
    }
    try {
        watch(epoll_, EPOLL_CTL_ADD, wake_, EPOLLIN, &wake_);
        watch(epoll_, EPOLL_CTL_ADD, waist_.port_descriptor(port_), EPOLLIN, &port_);
        watch_listener();
        thread_ = std::thread([this] { run(); });
    } catch (...) {
        close_descriptors();
        throw;
    }
    // At most 15 bytes.
    pthread_setname_np(thread_.native_handle(), ("tidegate-h2-" + std::to_string(number_)).c_str());
}

Worker::~Worker() {
    stop();
    if (thread_.joinable()) thread_.join();
    close_descriptors();
}

void Worker::close_descriptors() noexcept {
    if (port_ != nullptr) waist_.port_release(port_);
    if (wake_ >= 0) ::close(wake_);
    if (epoll_ >= 0) ::close(epoll_);
}

Nanos Worker::now() const noexcept {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);  // the core's clock; its table asks for an engine
    return time.tv_sec * kSecond + time.tv_nsec;
}

// -- orders from other threads --

void Worker::publish(std::shared_ptr<const Catalogue> catalogue) {
    {
        const std::lock_guard lock(mutex_);
        published_ = std::move(catalogue);
    }
    ring(wake_);
}

void Worker::answer(PythonAnswer answer) {
    {
        const std::lock_guard lock(mutex_);
        answers_.push_back(std::move(answer));
        if (answers_.size() > 1) return;  // the bell has been rung for the first
    }
    ring(wake_);
}

void Worker::order(bool Worker::* what) {
    {
        const std::lock_guard lock(mutex_);
        this->*what = true;
    }
    ring(wake_);
}

void Worker::retry() { order(&Worker::retry_); }
void Worker::drain() { order(&Worker::drain_); }
void Worker::stop() { order(&Worker::stop_); }

void Worker::join() noexcept {
    if (thread_.joinable()) thread_.join();
}

WorkerStatistics Worker::statistics() const noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;
    return {open_.load(relaxed), accepted_.load(relaxed), requests_.load(relaxed),
            python_requests_.load(relaxed)};
}

bool Worker::take_orders() {
    std::vector<PythonAnswer> answers;
    std::shared_ptr<const Catalogue> published;
    bool again = false;
    bool drains = false;
    {
        const std::lock_guard lock(mutex_);
        answers.swap(answers_);
        published.swap(published_);
        again = std::exchange(retry_, false);
        drains = drain_ && !draining_;
        if (stop_) return false;
    }
    if (published != nullptr) catalogue_ = std::move(published);
    for (PythonAnswer& answer : answers) {
        const auto found = python_calls_.find(answer.id);
        if (found == python_calls_.end()) continue;  // the client has gone
        Stream& stream = *found->second;
        python_calls_.erase(found);
        stream.python_call = 0;
        if (answer.status == GrpcStatus::Ok) {
            stream.answer.assign(kMessagePrefix, '\0');
            stream.answer.append(answer.text);
            stream.connection->finish(stream);
        } else {
            stream.connection->fail(stream, answer.status, answer.text,
                                    answer.pushback_milliseconds);
        }
        mark(*stream.connection);
    }
    if (again) {
        std::vector<Stream*> parked;
        parked.swap(parked_);
        for (Stream* stream : parked) {
            arrived(*stream);
            mark(*stream->connection);
        }
    }
    if (drains) {
        draining_ = true;
        stop_accepting();
        for (const auto& connection : connections_) {
            connection->drain();
            mark(*connection);
        }
    }
    return true;
}

// -- the loop --

void Worker::run() {
    // OpenSSL writes to sockets that are closed as it comes; where nobody ignores the signal, as
    // Python does unless it is told otherwise, that would end the process.
    sigset_t broken_pipe;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
    std::array<epoll_event, kEventsAtOnce> events;
    for (;;) {
        const int count = epoll_wait(epoll_, events.data(), kEventsAtOnce, patience());
        bool orders = false;
        bool notices = false;
        for (int i = 0; i < count; ++i) {
            void* const tag = events[static_cast<std::size_t>(i)].data.ptr;
            if (tag == &wake_) {
                orders = true;
            } else if (tag == &port_) {
                notices = true;
            } else if (tag == &listener_tag_) {
                accept();
            } else {
                serve(*static_cast<Connection*>(tag), events[static_cast<std::size_t>(i)].events);
            }
        }
        if (orders) {
            hush(wake_);
            if (!take_orders()) break;
        }
        if (notices) take_notices();
        if (accept_again_ != kNever) resume_accepting();
        check_time();
        flush_dirty();
    }
    end();
}

void Worker::end() {
    stop_accepting();
    dirty_.clear();
    while (!connections_.empty()) close(*connections_.back());
    // What their streams had in batches is cancelled or will be dropped. Nobody reads the answers
    // any more, so there is nothing to wait for: a model may be at work for as long as it likes.
    for (const auto& [batch, pending] : pendings_) {
        waist_.batch_unsubscribe(batch, port_);
        waist_.batch_leave(pending->offer->engine, batch);
        waist_.batch_release(batch);
    }
    pendings_.clear();
}

int Worker::patience() const noexcept {
    const bool anybody = open_.load(std::memory_order_relaxed) != 0;
    const Nanos next = std::min(anybody ? next_check_ : kNever, accept_again_);
    if (next == kNever) return -1;
    constexpr Nanos kMilli = kMillisecond;
    const Nanos left = next - now();
    return left <= 0 ? 0 : static_cast<int>(std::min<Nanos>(left / kMilli + 1, 60'000));
}

void Worker::check_time() {
    if (connections_.empty()) return;
    const Nanos time = now();
    // Somebody in a hurry may have come since the last look.
    if (time < next_check_ && !hurry_) return;
    if (hurry_ && time < next_check_) {
        next_check_ = std::min(next_check_, time + kCheckPeriod);
        hurry_ = false;
        return;
    }
    hurry_ = false;
    bool hurried = false;
    for (const auto& connection : connections_) {
        if (!connection->check_time(time)) doom(*connection);
        hurried |= connection->hurried();
        mark(*connection);
    }
    close_doomed();
    next_check_ = hurried ? time + kCheckPeriod
                  : settings_.keepalive == kNever
                      ? kNever
                      : time + std::max(kCheckPeriod, settings_.keepalive / 4);
}

void Worker::watch_listener() {
    // Exclusive: a new connection wakes one worker, not all.
    watch(epoll_, EPOLL_CTL_ADD, listener_, EPOLLIN | EPOLLEXCLUSIVE,
          const_cast<char*>(&listener_tag_));
}

void Worker::accept() {
    for (int i = 0; i < kAcceptsAtOnce && accepting_; ++i) {
        const int descriptor = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            // The listener stays readable: looking at it again would take all of a core.
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                pause_accepting();
            }
            return;  // none is left, or another worker was faster
        }
        if (connections_.size() >= settings_.max_connections) {
            ::close(descriptor);
            continue;
        }
        const int yes = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        try {
            auto connection = std::make_unique<Connection>(*this, settings_, descriptor, tls_);
            watch(epoll_, EPOLL_CTL_ADD, descriptor, EPOLLIN | EPOLLRDHUP, connection.get());
            connection->place = connections_.size();
            connections_.push_back(std::move(connection));
        } catch (const std::exception&) {
            continue;  // out of memory or descriptors: this client is turned away
        }
        open_.store(connections_.size(), std::memory_order_release);
        accepted_.fetch_add(1, std::memory_order_relaxed);
        hurry_ = true;
        mark(*connections_.back());
    }
}

void Worker::pause_accepting() {
    epoll_ctl(epoll_, EPOLL_CTL_DEL, listener_, nullptr);
    accept_again_ = now() + kAcceptPause;
}

void Worker::resume_accepting() {
    if (now() < accept_again_) return;
    try {
        watch_listener();
        accept_again_ = kNever;
    } catch (const std::system_error&) {
        accept_again_ = now() + kAcceptPause;  // the kernel is out of memory
    }
}

void Worker::stop_accepting() {
    if (!accepting_) return;
    accepting_ = false;
    accept_again_ = kNever;
    epoll_ctl(epoll_, EPOLL_CTL_DEL, listener_, nullptr);
}

void Worker::serve(Connection& connection, std::uint32_t events) {
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0 && !connection.receive()) {
        return doom(connection);
    }
    hurry_ |= connection.hurried();
    mark(connection);
}

void Worker::mark(Connection& connection) {
    if (connection.dirty) return;
    connection.dirty = true;
    dirty_.push_back(&connection);
}

void Worker::flush_dirty() {
    close_doomed();
    // By index: an answer to one may mark another.
    for (std::size_t i = 0; i < dirty_.size(); ++i) {
        Connection& connection = *dirty_[i];
        connection.dirty = false;
        if (!connection.flush()) {
            doom(connection);
            continue;
        }
        if (connection.blocked() != connection.watching_writes) {
            connection.watching_writes = connection.blocked();
            const std::uint32_t writes = connection.watching_writes ? EPOLLOUT : 0u;
            watch(epoll_, EPOLL_CTL_MOD, connection.descriptor(), EPOLLIN | EPOLLRDHUP | writes,
                  &connection);
        }
    }
    dirty_.clear();
    close_doomed();
}

void Worker::doom(Connection& connection) {
    if (connection.doomed) return;  // it hung up in the moment in which its time was over
    connection.doomed = true;
    doomed_.push_back(&connection);
}

void Worker::close_doomed() {
    for (Connection* connection : doomed_) close(*connection);
    doomed_.clear();
}

void Worker::close(Connection& connection) {
    if (connection.dirty) std::erase(dirty_, &connection);
    // Closing the descriptor takes it out of epoll only if no child of a fork has it as well.
    epoll_ctl(epoll_, EPOLL_CTL_DEL, connection.descriptor(), nullptr);
    // The last one takes its place.
    const std::size_t place = connection.place;
    std::unique_ptr<Connection> gone = std::move(connections_[place]);
    if (place + 1 != connections_.size()) {
        connections_[place] = std::move(connections_.back());
        connections_[place]->place = place;
    }
    connections_.pop_back();
    gone.reset();
    // release: pairs with empty(); whoever sees that none is left sees what they did.
    open_.store(connections_.size(), std::memory_order_release);
}

}  // namespace tidegate::frontend
