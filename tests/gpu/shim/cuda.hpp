// What the kernels' text needs of CUDA, as C++ for a CPU: one fiber is one CUDA thread.
#pragma once

#include <math.h>
#include <string.h>

#include "fibers.hpp"

// Shared memory lies in one section, so that each block finds it poisoned.
#define __shared__ static __attribute__((section("tidegate_shared")))
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __syncthreads() shim::barrier(__LINE__)
#define __shfl_xor_sync(lanes, value, distance) shim::shuffle(lanes, value, distance, __LINE__)
#define TIDEGATE_TO_FLOAT16(bits, value) bits = shim::to_float16(value)

using shim::blockDim;
using shim::blockIdx;
using shim::gridDim;
using shim::threadIdx;

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace shim {

template <typename To, typename From>
To as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To other;
    memcpy(&other, &value, sizeof other);
    return other;
}

template <typename T>
T shuffle(unsigned lanes, T value, int distance, int line) {
    T other;
    exchange(lanes, &value, &other, sizeof(T), distance, line);
    return other;
}

// To nearest, ties to even, written without the compiler's own float16 so that any will do.
inline unsigned short to_float16(float value) {
    const unsigned bits = as<unsigned>(value);
    const unsigned sign = bits >> 16 & 0x8000u;
    const unsigned size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fff;          // NaN
    if (size >= 0x477ff000u) return sign | 0x7c00;  // 65520 and more
    if (size < 0x33000001u) return sign;            // at most half of the smallest
    const int exponent = static_cast<int>(size >> 23) - 127;
    const unsigned fraction = (size & 0x7fffffu) | 0x800000u;
    const int dropped = exponent < -14 ? 13 + (-14 - exponent) : 13;
    const unsigned kept = fraction >> dropped;
    const unsigned rest = fraction & ((1u << dropped) - 1);
    const unsigned half = 1u << (dropped - 1);
    const unsigned up = rest > half || (rest == half && (kept & 1u));
    // A normal number's leading 1 adds to the exponent, and so does a carry.
    const unsigned base = exponent < -14 ? 0 : static_cast<unsigned>(exponent + 14) << 10;
    return static_cast<unsigned short>(sign | (base + kept + up));
}

}  // namespace shim

template <typename T>
T __ldg(const T* from) {
    return *from;
}

template <typename T>
void __stwb(T* to, T value) {
    *to = value;
}

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __expf(float value) { return expf(value); }
inline unsigned __float_as_uint(float value) { return shim::as<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return shim::as<float>(bits); }
