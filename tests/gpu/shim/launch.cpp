// The kernels' text as C++, and the one function that launches its kernels by name.
#include <stdio.h>

#include <utility>

#include "cuda.hpp"

// The build says where the text is.
#include TIDEGATE_KERNELS

namespace {

// Unpacks a kernel's parameters from pointers to them, which is how cuLaunchKernel takes them.
template <auto kKernel>
struct Thunk;

template <typename... Parameters, void (*kKernel)(Parameters...)>
struct Thunk<kKernel> {
    static constexpr int kCount = sizeof...(Parameters);
    static constexpr size_t kSizes[] = {sizeof(Parameters)...};

    static void run(void** arguments) { apply(arguments, std::make_index_sequence<kCount>()); }

    template <size_t... kIndices>
    static void apply(void** arguments, std::index_sequence<kIndices...>) {
        kKernel(*static_cast<Parameters*>(arguments[kIndices])...);
    }
};

struct Kernel {
    const char* name;
    shim::Body body;
    int count;
    const size_t* sizes;
};

#define KERNEL(name) Kernel{#name, Thunk<&name>::run, Thunk<&name>::kCount, Thunk<&name>::kSizes},

// The build makes the list: KERNEL(name) for each kernel.
constexpr Kernel kKernels[] = {
#include "kernel_names.inc"
};

}  // namespace

// Returns null, or what was wrong. Arguments of another size than the parameters are refused, which
// a GPU would read beyond.
extern "C" const char* tidegate_shim_launch(const char* name, const unsigned* grid,
                                            const unsigned* block, void** arguments,
                                            const size_t* sizes, int count,
                                            unsigned long long seed) {
    static char message[256];
    for (const Kernel& kernel : kKernels) {
        if (strcmp(kernel.name, name) != 0) continue;
        if (count != kernel.count) {
            snprintf(message, sizeof message, "%s takes %d arguments, got %d", name, kernel.count,
                     count);
            return message;
        }
        for (int i = 0; i < count; ++i) {
            if (sizes[i] != kernel.sizes[i]) {
                snprintf(message, sizeof message, "%s: argument %d has %zu bytes, got %zu", name, i,
                         kernel.sizes[i], sizes[i]);
                return message;
            }
        }
        return shim::run(kernel.body, arguments, {grid[0], grid[1], grid[2]},
                         {block[0], block[1], block[2]}, seed);
    }
    snprintf(message, sizeof message, "there is no kernel named %s", name);
    return message;
}
