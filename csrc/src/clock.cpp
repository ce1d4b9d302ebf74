// The steady clock: CLOCK_MONOTONIC, the same that futex deadlines are measured on.
#include "tidegate/clock.hpp"

#include <time.h>

namespace tidegate {

Nanos SteadyClock::now() const noexcept {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<Nanos>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

const SteadyClock& SteadyClock::instance() noexcept {
    // Never destroyed: threads that outlive the interpreter still read it.
    static const SteadyClock& clock = *new SteadyClock;
    return clock;
}

}  // namespace tidegate
