// The Linux futex calls behind futex.hpp.
#include "tidegate/futex.hpp"

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

namespace tidegate {

FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected,
                       Nanos deadline) noexcept {
    timespec until{};
    timespec* limit = nullptr;
    if (deadline != kNever) {
        if (deadline < 0) deadline = 0;
        until.tv_sec = static_cast<time_t>(deadline / 1'000'000'000);
        until.tv_nsec = static_cast<long>(deadline % 1'000'000'000);
        limit = &until;
    }
    // FUTEX_WAIT_BITSET takes an absolute deadline; plain FUTEX_WAIT a relative one.
    const long answer = syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word),
                                FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, limit, nullptr,
                                FUTEX_BITSET_MATCH_ANY);
    if (answer == 0) return FutexResult::Woken;
    if (errno == ETIMEDOUT) return FutexResult::TimedOut;
    if (errno == EINTR) return FutexResult::Interrupted;
    return FutexResult::Woken;  // EAGAIN: the word had changed already
}

void futex_wake(std::atomic<std::uint32_t>& word, int count) noexcept {
    syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE | FUTEX_PRIVATE_FLAG,
            count, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept { futex_wake(word, INT_MAX); }

void use_fine_timers() noexcept { prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0); }

}  // namespace tidegate
