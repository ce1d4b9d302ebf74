// Port: posting notices and waking their consumer through an eventfd.
#include "tidegate/port.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace tidegate {

namespace {

int open_event_descriptor(bool blocking) {
    const int descriptor = eventfd(0, EFD_CLOEXEC | (blocking ? 0 : EFD_NONBLOCK));
    if (descriptor < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    return descriptor;
}

}  // namespace

Port::Port(bool blocking) : event_fd_(open_event_descriptor(blocking)) {}

Port::~Port() { close(event_fd_); }

void Port::retain() noexcept {
    // Relaxed: who copies a reference holds one already.
    references_.fetch_add(1, std::memory_order_relaxed);
}

void Port::release() noexcept {
    // acq_rel: the last owner sees all that earlier owners did before letting go.
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

void Port::write_event() noexcept {
    const std::uint64_t one = 1;
    // EAGAIN (the counter is full) means that the consumer is awake already.
    while (write(event_fd_, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

void Port::post(Notice notice) {
    bool wake = false;
    {
        const std::lock_guard lock(mutex_);
        queue_.push_back(notice);
        wake = !armed_;
        armed_ = true;
    }
    if (wake) write_event();
}

void Port::signal() noexcept {
    bool wake = false;
    {
        const std::lock_guard lock(mutex_);
        wake = !armed_;
        armed_ = true;
    }
    if (wake) write_event();
}

void Port::forget(const void* token) noexcept {
    const std::lock_guard lock(mutex_);
    std::erase_if(queue_, [token](const Notice& notice) { return notice.token == token; });
}

void Port::take(std::vector<Notice>& into) {
    std::uint64_t count = 0;
    while (read(event_fd_, &count, sizeof count) < 0 && errno == EINTR) {
    }
    into.clear();
    const std::lock_guard lock(mutex_);
    armed_ = false;
    into.swap(queue_);
}

}  // namespace tidegate
