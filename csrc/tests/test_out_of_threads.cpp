// A system that has no more threads: whoever makes an executor is told, and nothing ends for it.
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cerrno>
#include <system_error>

#include "check.hpp"
#include "rig.hpp"
#include "tidegate/engine.hpp"
#include "tidegate/timer.hpp"
#include "tidegate/waist.hpp"

using namespace tidegate;

namespace {

std::atomic<bool> none_left{false};

}  // namespace

/// std::thread's.
extern "C" __attribute__((visibility("default"))) int pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
    if (none_left.load()) return EAGAIN;
    using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    return create(thread, attributes, body, argument);
}

namespace {

void test_an_executor_that_cannot_be_is_an_error() {
    Engine engine(Policy{});
    none_left = true;
    CHECK(waist().add_executor(&engine, ExecutorKind::Thread) == nullptr);
    CHECK(waist().add_executor(&engine, ExecutorKind::Inline) != nullptr, "it needs no thread");
    bool thrown = false;
    try {
        engine.add_executor(ExecutorKind::Native);
    } catch (const std::system_error&) {
        thrown = true;
    }
    CHECK(thrown);
    none_left = false;
    CHECK(waist().add_executor(&engine, ExecutorKind::Thread) != nullptr);
}

void test_a_timer_that_found_no_thread_tries_again() {
    std::atomic<int> calls{0};
    Timer timer(SteadyClock::instance(), [&](Nanos) {
        ++calls;
        return kNever;
    });
    none_left = true;
    timer.arm(1);
    CHECK_EQUAL(timer.armed(), kNever);
    none_left = false;
    timer.arm(1);
    while (calls.load() == 0) sched_yield();
    timer.stop();
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung(60);
    test_an_executor_that_cannot_be_is_an_error();
    test_a_timer_that_found_no_thread_tries_again();
}
