// Runs the threads of a grid one at a time on one CPU thread, in an order that a seed decides.
#pragma once

#include <cstddef>

namespace shim {

struct Dim3 {
    unsigned x, y, z;
};

// Of the thread that is running.
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

// One CUDA thread: a kernel applied to its arguments.
using Body = void (*)(void** arguments);

// Runs body once for each thread. Blocks come in any order, one after the other; within a block
// the threads switch at barriers and shuffles, and some warps are held back for long stretches.
// Returns null, or what was wrong.
const char* run(Body body, void** arguments, Dim3 grid, Dim3 block, unsigned long long seed);

// Called by threads; `line` is where in the kernels' text.
void barrier(int line);
void exchange(unsigned lanes, const void* mine, void* theirs, size_t size, int distance, int line);

// Ends the run.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace shim
