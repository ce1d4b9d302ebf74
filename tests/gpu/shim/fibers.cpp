// The scheduler of the fibers, and the reports of what a GPU would not forgive.
#include "fibers.hpp"

#include <ucontext.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

// The bounds of the section that the linker gathers; absent where no kernel has shared memory.
extern "C" {
extern char __start_tidegate_shared[] __attribute__((weak));
extern char __stop_tidegate_shared[] __attribute__((weak));
}

namespace shim {

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackSize = 64 * 1024;
constexpr size_t kLargestShuffle = 16;
constexpr int kPoison = 0xCB;
// One decision in so many lets go of the warps that are held back, and holds others.
constexpr unsigned kPatience = 200;

enum class State { kFresh, kReady, kAtBarrier, kAtShuffle, kDone };

struct Thread {
    State state = State::kFresh;
    int line = 0;
    unsigned shuffles = 0;
    size_t stack = 0;
    ucontext_t context;
};

struct Warp {
    bool held = false;
    unsigned waiting = 0;
    // Two turns: who has read the values of one waits for all before it overwrites them.
    unsigned char values[2][kWarp][kLargestShuffle];
};

struct Block {
    Body body;
    void** arguments;
    std::mt19937_64 random;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<unsigned> open;  // may run
    std::vector<unsigned> held;  // might, but their warps are held back
    std::vector<std::unique_ptr<char[]>> stacks;
    std::vector<size_t> free_stacks;
    unsigned current = 0;
    unsigned at_barrier = 0;
    unsigned done = 0;
    ucontext_t outside;
    char message[256];
};

Block* block = nullptr;

unsigned any(size_t count) { return static_cast<unsigned>(block->random() % count); }

void add(unsigned thread) {
    (block->warps[thread / kWarp].held ? block->held : block->open).push_back(thread);
}

// Holds other warps back than until now, never all that could run.
void hold_others() {
    std::vector<unsigned> able;
    able.swap(block->open);
    able.insert(able.end(), block->held.begin(), block->held.end());
    block->held.clear();
    if (able.empty()) return;
    for (Warp& warp : block->warps) warp.held = any(2);
    block->warps[able[any(able.size())] / kWarp].held = false;
    for (const unsigned thread : able) add(thread);
}

[[noreturn]] void leave() {
    setcontext(&block->outside);
    __builtin_unreachable();
}

void explain_standstill() {
    unsigned at_shuffle = 0;
    int shuffle_line = 0;
    int barrier_line = 0;
    for (const Thread& thread : block->threads) {
        at_shuffle += thread.state == State::kAtShuffle;
        if (thread.state == State::kAtShuffle) shuffle_line = thread.line;
        if (thread.state == State::kAtBarrier) barrier_line = thread.line;
    }
    const unsigned all = static_cast<unsigned>(block->threads.size());
    if (at_shuffle) {
        fail(
            "%u threads wait in a shuffle (line %d) that not all lanes reach: %u of %u have ended, "
            "%u wait at a barrier",
            at_shuffle, shuffle_line, block->done, all, block->at_barrier);
    }
    fail("%u of %u threads wait at a barrier (line %d) that the others do not reach: %u have ended",
         block->at_barrier, all, barrier_line, block->done);
}

// The next thread to run. Does not return if there is none.
unsigned choose() {
    if (block->done == block->threads.size()) leave();
    if (block->open.empty() || any(kPatience) == 0) hold_others();
    if (block->open.empty()) explain_standstill();
    std::swap(block->open[any(block->open.size())], block->open.back());
    const unsigned thread = block->open.back();
    block->open.pop_back();
    return thread;
}

void set_index(unsigned thread) {
    block->current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                 thread / blockDim.x / blockDim.y};
}

// A fiber runs fresh threads until the choice falls on one that has its own.
void fiber() {
    for (;;) {
        block->body(block->arguments);
        Thread& ended = block->threads[block->current];
        const size_t stack = ended.stack;
        ended.state = State::kDone;
        ++block->done;
        const unsigned next = choose();
        Thread& thread = block->threads[next];
        set_index(next);
        if (thread.state != State::kFresh) {
            block->free_stacks.push_back(stack);  // in use for one more line, which saves nothing
            setcontext(&thread.context);
        }
        thread.state = State::kReady;
        thread.stack = stack;
    }
}

void start_fiber(Thread& thread) {
    if (block->free_stacks.empty()) {
        block->free_stacks.push_back(block->stacks.size());
        block->stacks.push_back(std::make_unique<char[]>(kStackSize));
    }
    thread.state = State::kReady;
    thread.stack = block->free_stacks.back();
    block->free_stacks.pop_back();
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = block->stacks[thread.stack].get();
    thread.context.uc_stack.ss_size = kStackSize;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, fiber, 0);
}

// Lets others run until the current thread is chosen again.
void wait() {
    const unsigned self = block->current;
    const unsigned next = choose();
    set_index(next);
    if (next == self) return;
    Thread& thread = block->threads[next];
    if (thread.state == State::kFresh) start_fiber(thread);
    swapcontext(&block->threads[self].context, &thread.context);
}

void release(unsigned first, unsigned count) {
    for (unsigned thread = first; thread < first + count; ++thread) {
        block->threads[thread].state = State::kReady;
        add(thread);
    }
}

void run_block(unsigned number) {
    blockIdx = {number % gridDim.x, number / gridDim.x % gridDim.y, number / gridDim.x / gridDim.y};
    if (__start_tidegate_shared) {
        memset(__start_tidegate_shared, kPoison,
               static_cast<size_t>(__stop_tidegate_shared - __start_tidegate_shared));
    }
    block->done = 0;
    block->free_stacks.resize(block->stacks.size());
    std::iota(block->free_stacks.begin(), block->free_stacks.end(), 0);
    block->open.clear();
    block->held.clear();
    for (unsigned thread = 0; thread < block->threads.size(); ++thread) {
        block->threads[thread].state = State::kFresh;
        block->threads[thread].shuffles = 0;
        block->open.push_back(thread);
    }
    hold_others();
    // Both are looked at after the jumps back into this frame.
    volatile bool left = false;
    getcontext(&block->outside);
    if (left) return;
    left = true;
    const unsigned first = choose();
    set_index(first);
    start_fiber(block->threads[first]);
    setcontext(&block->threads[first].context);
}

}  // namespace

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(block->message, sizeof block->message, format, arguments);
    va_end(arguments);
    leave();
}

void barrier(int line) {
    Thread& self = block->threads[block->current];
    self.state = State::kAtBarrier;
    self.line = line;
    if (++block->at_barrier == block->threads.size()) {
        for (const Thread& thread : block->threads) {
            if (thread.line != line) {
                fail("threads of one block wait at different barriers: lines %d and %d",
                     thread.line, line);
            }
        }
        block->at_barrier = 0;
        release(0, static_cast<unsigned>(block->threads.size()));
    }
    wait();
}

void exchange(unsigned lanes, const void* mine, void* theirs, size_t size, int distance, int line) {
    const unsigned lane = block->current % kWarp;
    const unsigned first = block->current - lane;
    if (lanes != 0xffffffffu) fail("line %d: a shuffle among lanes %#x, not all", line, lanes);
    if (size > kLargestShuffle) fail("line %d: a shuffle of %zu bytes", line, size);
    if (first + kWarp > block->threads.size()) fail("line %d: a shuffle in part of a warp", line);
    if (distance < 0 || distance >= static_cast<int>(kWarp)) {
        fail("line %d: a shuffle over a distance of %d", line, distance);
    }
    Warp& warp = block->warps[block->current / kWarp];
    Thread& self = block->threads[block->current];
    auto& values = warp.values[self.shuffles++ % 2];
    memcpy(values[lane], mine, size);
    self.state = State::kAtShuffle;
    self.line = line;
    if (++warp.waiting == kWarp) {
        for (unsigned thread = first; thread < first + kWarp; ++thread) {
            if (block->threads[thread].line != line) {
                fail("lanes of one warp are in different shuffles: lines %d and %d",
                     block->threads[thread].line, line);
            }
        }
        warp.waiting = 0;
        release(first, kWarp);
    }
    wait();
    memcpy(theirs, values[lane ^ static_cast<unsigned>(distance)], size);
}

const char* run(Body body, void** arguments, Dim3 grid, Dim3 shape, unsigned long long seed) {
    static Block state;  // its stacks serve the next run
    block = &state;
    state.body = body;
    state.arguments = arguments;
    state.random.seed(seed);
    state.message[0] = 0;
    state.at_barrier = 0;
    gridDim = grid;
    blockDim = shape;
    const size_t threads = static_cast<size_t>(shape.x) * shape.y * shape.z;
    state.threads.resize(threads);
    state.warps.assign((threads + kWarp - 1) / kWarp, Warp{});
    std::vector<unsigned> order(static_cast<size_t>(grid.x) * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[any(left)]);
    for (const unsigned number : order) {
        run_block(number);
        if (state.message[0]) return state.message;
    }
    return nullptr;
}

}  // namespace shim

// What -fsanitize=alignment,shift,signed-integer-overflow reports goes to the caller of the kernel
// instead of to the standard error. An address that is not aligned is a fault on a GPU.
#define TIDEGATE_FAULT(handler, words) \
    extern "C" void handler(void*) { shim::fail(words); }
TIDEGATE_FAULT(__ubsan_handle_type_mismatch_v1, "an address is not aligned")
TIDEGATE_FAULT(__ubsan_handle_shift_out_of_bounds, "a shift is too wide")
TIDEGATE_FAULT(__ubsan_handle_add_overflow, "an addition of integers overflowed")
TIDEGATE_FAULT(__ubsan_handle_sub_overflow, "a subtraction of integers overflowed")
TIDEGATE_FAULT(__ubsan_handle_mul_overflow, "a multiplication of integers overflowed")
TIDEGATE_FAULT(__ubsan_handle_negate_overflow, "a negation overflowed")
