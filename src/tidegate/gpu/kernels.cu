// What tidegate does with a batch on the device; tidegate.gpu has the specification of each.
//
// The text is for NVRTC and includes no header, since a machine with a driver may have none:
// float16 and bfloat16 are bits in 16-bit integers, and infinity is a bit pattern. The tests
// compile the same text as C++.
//
// Every kernel takes the number of valid rows from `header[0]` when it runs and never more than
// `capacity`, so that a captured launch serves every batch of its bucket. Loops stride over the
// grid: any grid gives the same result. Blocks are whole warps, at most kMaxThreads threads.

#ifndef TIDEGATE_TO_FLOAT16
#define TIDEGATE_TO_FLOAT16(bits, value) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value))
#endif

using i64 = long long;
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;

constexpr int kMaxThreads = 256;
constexpr int kMaxWarps = kMaxThreads / 32;
constexpr u32 kAllLanes = 0xffffffffu;
// Loads of a thread that are under way at once; the first loop below asks, the second uses.
constexpr int kUnroll = 4;

__device__ __forceinline__ int valid_rows(const int* header, int capacity) {
    const int rows = header[0];
    return rows < capacity ? rows : capacity;
}

__device__ __forceinline__ i64 least(i64 a, i64 b) { return a < b ? a : b; }

// --- Bytes to floats: value * scale + bias, rounded once in float32 and once to the result's type.

// For four elements in a row, which one, two and four channels divide, or for the three of three.
struct Affine {
    float scale[4];
    float bias[4];
};

// kWidth: elements in 16 bytes. A thread stores 16 bytes and loads as many as these come from, so
// that neighbours touch neighbours in both directions.
struct Float32 {
    using Word = float;
    static constexpr int kWidth = 4;
    static __device__ __forceinline__ u32 bits(float value) { return __float_as_uint(value); }
    static __device__ __forceinline__ Word round(float value) { return value; }
};

struct Float16 {
    using Word = u16;
    static constexpr int kWidth = 8;
    static __device__ __forceinline__ u16 round(float value) {
        u16 bits;
        TIDEGATE_TO_FLOAT16(bits, value);
        return bits;
    }
};

struct Bfloat16 {
    using Word = u16;
    static constexpr int kWidth = 8;
    // To the nearest, ties to even. Infinity stays; a NaN cannot come, since scale, bias and fill
    // are finite.
    static __device__ __forceinline__ u16 round(float value) {
        const u32 bits = __float_as_uint(value);
        return static_cast<u16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
};

// Words of 32 bits that hold kWidth loaded bytes.
template <int kWidth>
constexpr int kHolding = (kWidth + 3) / 4;

template <int kWidth>
__device__ __forceinline__ void load_bytes(const u8* from, u32* words) {
    if constexpr (kWidth == 1) {
        words[0] = __ldg(from);
    } else if constexpr (kWidth == 4) {
        words[0] = __ldg(reinterpret_cast<const u32*>(from));
    } else {
        const uint2 both = __ldg(reinterpret_cast<const uint2*>(from));
        words[0] = both.x;
        words[1] = both.y;
    }
}

// Byte `index` of several loads of kWidth bytes.
template <int kWidth>
__device__ __forceinline__ float byte_at(const u32* words, int index) {
    const u32 byte = kWidth == 1 ? words[index] : words[index / 4] >> (index % 4 * 8) & 0xffu;
    return static_cast<float>(byte);
}

template <typename Out, int kWidth>
__device__ __forceinline__ void store(typename Out::Word* to, const float (&values)[kWidth]) {
    if constexpr (kWidth == 1) {
        to[0] = Out::round(values[0]);
    } else {
        u32 words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (kWidth == 4) {
                words[i] = Out::bits(values[i]);
            } else {
                const u32 high = Out::round(values[2 * i + 1]);
                words[i] = Out::round(values[2 * i]) | high << 16;
            }
        }
        // Assigned, the compiler at times stores it word by word.
        __stwb(reinterpret_cast<uint4*>(to), uint4{words[0], words[1], words[2], words[3]});
    }
}

// By comparing, since an index into an array that is known too late costs local memory.
__device__ __forceinline__ float pick(const float (&values)[4], u32 index) {
    return index == 0 ? values[0] : index == 1 ? values[1] : index == 2 ? values[2] : values[3];
}

template <typename Out, int kWidth>
__device__ __forceinline__ void fill_row(typename Out::Word* to, i64 chunks, float fill) {
    float values[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = fill;
    for (i64 chunk = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; chunk < chunks;
         chunk += static_cast<i64>(gridDim.x) * blockDim.x) {
        store<Out, kWidth>(to + chunk * kWidth, values);
    }
}

template <typename Out, int kWidth, int kPeriod>
__device__ __forceinline__ void affine_rows(const u8* source, i64 pitch, typename Out::Word* result,
                                            int rows, int capacity, int length,
                                            const Affine& affine, float fill) {
    constexpr int kAtOnce = kWidth == 1 ? 1 : kUnroll;  // the slow way is at least short
    const i64 chunks = length / kWidth;
    const i64 step = blockDim.x;
    const i64 tile = step * kAtOnce;
    for (int row = blockIdx.y; row < capacity; row += gridDim.y) {
        const u8* from = source + row * pitch;
        typename Out::Word* to = result + static_cast<i64>(row) * length;
        if (row >= rows) {
            fill_row<Out, kWidth>(to, chunks, fill);
            continue;
        }
        for (i64 first = blockIdx.x * tile + threadIdx.x; first < chunks;
             first += gridDim.x * tile) {
            u32 bytes[kAtOnce][kHolding<kWidth>] = {};
#pragma unroll
            for (int u = 0; u < kAtOnce; ++u) {
                const i64 chunk = first + u * step;
                if (chunk < chunks) load_bytes<kWidth>(from + chunk * kWidth, bytes[u]);
            }
#pragma unroll
            for (int u = 0; u < kAtOnce; ++u) {
                const i64 chunk = first + u * step;
                const u32 channel = static_cast<u32>(chunk * kWidth) % kPeriod;
                float values[kWidth];
#pragma unroll
                for (int i = 0; i < kWidth; ++i) {
                    const float scale = pick(affine.scale, (channel + i % kPeriod) % kPeriod);
                    const float bias = pick(affine.bias, (channel + i % kPeriod) % kPeriod);
                    values[i] = __fmaf_rn(byte_at<kWidth>(bytes[u], i), scale, bias);
                }
                if (chunk < chunks) store<Out, kWidth>(to + chunk * kWidth, values);
            }
        }
    }
}

// Pixels of three bytes each to three planes. A thread has kWidth pixels: three loads, three
// stores.
template <typename Out, int kWidth>
__device__ __forceinline__ void planes_rows(const u8* source, i64 pitch, typename Out::Word* result,
                                            int rows, int capacity, int pixels,
                                            const Affine& affine, float fill) {
    constexpr int kChannels = 3;
    const i64 chunks = pixels / kWidth;
    for (int row = blockIdx.y; row < capacity; row += gridDim.y) {
        const u8* from = source + row * pitch;
        typename Out::Word* to = result + static_cast<i64>(row) * pixels * kChannels;
        if (row >= rows) {
            fill_row<Out, kWidth>(to, chunks * kChannels, fill);
            continue;
        }
        for (i64 chunk = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; chunk < chunks;
             chunk += static_cast<i64>(gridDim.x) * blockDim.x) {
            u32 bytes[kChannels * kHolding<kWidth>];
#pragma unroll
            for (int part = 0; part < kChannels; ++part) {
                load_bytes<kWidth>(from + (chunk * kChannels + part) * kWidth,
                                   bytes + part * kHolding<kWidth>);
            }
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
                float values[kWidth];
#pragma unroll
                for (int i = 0; i < kWidth; ++i) {
                    const float value = byte_at<kWidth>(bytes, i * kChannels + c);
                    values[i] = __fmaf_rn(value, affine.scale[c], affine.bias[c]);
                }
                store<Out, kWidth>(to + static_cast<i64>(c) * pixels + chunk * kWidth, values);
            }
        }
    }
}

// The ones with a `_scalar` behind take any length, pitch and address; the others need lengths and
// pitches that divide by Out::kWidth, and a result (and with it its rows) on 16 bytes.
#define TIDEGATE_U8_KERNELS(suffix, Out, width)                                                 \
    extern "C" __global__ void __launch_bounds__(kMaxThreads)                                   \
        u8_affine_##suffix(const u8* __restrict__ source, i64 pitch,                            \
                           Out::Word* __restrict__ result, const int* __restrict__ header,      \
                           int capacity, int length, int channels, Affine affine, float fill) { \
        const int rows = valid_rows(header, capacity);                                          \
        if (channels == 3) {                                                                    \
            affine_rows<Out, width, 3>(source, pitch, result, rows, capacity, length, affine,   \
                                       fill);                                                   \
        } else {                                                                                \
            affine_rows<Out, width, 4>(source, pitch, result, rows, capacity, length, affine,   \
                                       fill);                                                   \
        }                                                                                       \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(kMaxThreads) u8_hwc3_chw_##suffix(             \
        const u8* __restrict__ source, i64 pitch, Out::Word* __restrict__ result,               \
        const int* __restrict__ header, int capacity, int pixels, Affine affine, float fill) {  \
        planes_rows<Out, width>(source, pitch, result, valid_rows(header, capacity), capacity,  \
                                pixels, affine, fill);                                          \
    }

TIDEGATE_U8_KERNELS(f32, Float32, Float32::kWidth)
TIDEGATE_U8_KERNELS(f16, Float16, Float16::kWidth)
TIDEGATE_U8_KERNELS(bf16, Bfloat16, Bfloat16::kWidth)
TIDEGATE_U8_KERNELS(f32_scalar, Float32, 1)
TIDEGATE_U8_KERNELS(f16_scalar, Float16, 1)
TIDEGATE_U8_KERNELS(bf16_scalar, Bfloat16, 1)

// --- Ragged rows. Sequence `row` is tokens offsets[row] up to offsets[row + 1]; a token is `width`
// --- words of 16, 4, 2 or 1 bytes, whichever the sizes and addresses allow.

// The padding value, repeated to 16 bytes.
struct Fill {
    u32 words[4];
};

template <typename Word>
__device__ __forceinline__ Word fill_at(const Fill& fill, i64 word) {
    if constexpr (sizeof(Word) == 16) {
        return Word{fill.words[0], fill.words[1], fill.words[2], fill.words[3]};
    } else if constexpr (sizeof(Word) == 4) {
        // Values of 8 and 16 bytes: a token is a whole number of them, so counting from the row's
        // start finds the right part.
        const u32 even = word & 2 ? fill.words[2] : fill.words[0];
        const u32 odd = word & 2 ? fill.words[3] : fill.words[1];
        return word & 1 ? odd : even;
    } else {
        return static_cast<Word>(fill.words[0]);
    }
}

template <typename Word>
__device__ __forceinline__ void pad_rows(const Word* values, const int* offsets, Word* result,
                                         u8* mask, int rows, int capacity, int length, int width,
                                         const Fill& fill) {
    const i64 words = static_cast<i64>(length) * width;
    const i64 span = words > length ? words : length;  // a token of no words still has its mask
    const i64 step = blockDim.x;
    const i64 tile = step * kUnroll;
    for (int row = blockIdx.y; row < capacity; row += gridDim.y) {
        const i64 begin = row < rows ? offsets[row] : 0;
        const i64 used = row < rows ? offsets[row + 1] - begin : 0;
        const Word* from = values + begin * width;
        Word* to = result + row * words;
        for (i64 first = blockIdx.x * tile + threadIdx.x; first < span; first += gridDim.x * tile) {
            Word held[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const i64 word = first + u * step;
                held[u] = word < used * width ? __ldg(from + word) : fill_at<Word>(fill, word);
            }
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const i64 word = first + u * step;
                if (word < words) to[word] = held[u];
                if (mask && word < length)
                    mask[static_cast<i64>(row) * length + word] = word < used;
            }
        }
    }
}

// Tokens that were cut off come back as zeros, and so do those behind the last sequence.
template <typename Word>
__device__ __forceinline__ void unpad_rows(const Word* padded, const int* offsets, Word* result,
                                           int rows, int tokens, int length, int width) {
    const i64 step = blockDim.x;
    const i64 tile = step * kUnroll;
    for (int row = blockIdx.y; row <= rows; row += gridDim.y) {
        const i64 begin = offsets[row];
        const i64 end = least(row < rows ? offsets[row + 1] : tokens, tokens);
        const i64 words = (end - begin) * width;
        const i64 kept = row < rows ? least(end - begin, length) * width : 0;
        const Word* from = padded + static_cast<i64>(row) * length * width;
        Word* to = result + begin * width;
        for (i64 first = blockIdx.x * tile + threadIdx.x; first < words;
             first += gridDim.x * tile) {
            Word held[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const i64 word = first + u * step;
                held[u] = word < kept ? __ldg(from + word) : Word{};
            }
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const i64 word = first + u * step;
                if (word < words) to[word] = held[u];
            }
        }
    }
}

#define TIDEGATE_RAGGED_KERNELS(suffix, Word)                                                   \
    extern "C" __global__ void __launch_bounds__(kMaxThreads) pad_##suffix(                     \
        const Word* __restrict__ values, const int* __restrict__ offsets,                       \
        Word* __restrict__ result, u8* __restrict__ mask, const int* __restrict__ header,       \
        int capacity, int length, int width, Fill fill) {                                       \
        pad_rows<Word>(values, offsets, result, mask, valid_rows(header, capacity), capacity,   \
                       length, width, fill);                                                    \
    }                                                                                           \
    extern "C" __global__ void __launch_bounds__(kMaxThreads)                                   \
        unpad_##suffix(const Word* __restrict__ padded, const int* __restrict__ offsets,        \
                       Word* __restrict__ result, const int* __restrict__ header, int capacity, \
                       int tokens, int length, int width) {                                     \
        unpad_rows<Word>(padded, offsets, result, valid_rows(header, capacity), tokens, length, \
                         width);                                                                \
    }

TIDEGATE_RAGGED_KERNELS(v16, uint4)
TIDEGATE_RAGGED_KERNELS(v4, u32)
TIDEGATE_RAGGED_KERNELS(v2, u16)
TIDEGATE_RAGGED_KERNELS(v1, u8)

extern "C" __global__ void __launch_bounds__(kMaxThreads)
    pad_ids(const int* __restrict__ ids, const int* __restrict__ offsets, i64* __restrict__ result,
            i64* __restrict__ mask, const int* __restrict__ header, int capacity, int length,
            i64 fill) {
    const int rows = valid_rows(header, capacity);
    for (int row = blockIdx.y; row < capacity; row += gridDim.y) {
        const i64 begin = row < rows ? offsets[row] : 0;
        const i64 used = row < rows ? offsets[row + 1] - begin : 0;
        const i64 base = static_cast<i64>(row) * length;
        for (i64 token = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; token < length;
             token += static_cast<i64>(gridDim.x) * blockDim.x) {
            result[base + token] = token < used ? __ldg(ids + begin + token) : fill;
            mask[base + token] = token < used;
        }
    }
}

// Each token's place in its sequence, and which sequence that is: 0 and -1 behind the last.
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    packed_meta(const int* __restrict__ offsets, int* __restrict__ positions,
                int* __restrict__ segments, const int* __restrict__ header, int capacity,
                int tokens) {
    const int rows = valid_rows(header, capacity);
    for (int row = blockIdx.y; row <= rows; row += gridDim.y) {
        const i64 begin = offsets[row];
        const i64 end = least(row < rows ? offsets[row + 1] : tokens, tokens);
        for (i64 token = begin + static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
             token < end; token += static_cast<i64>(gridDim.x) * blockDim.x) {
            positions[token] = row < rows ? static_cast<int>(token - begin) : 0;
            segments[token] = row < rows ? row : -1;
        }
    }
}

// Tokens of each sequence, 0 for those that are not valid.
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    row_lengths(const int* __restrict__ offsets, int* __restrict__ lengths,
                const int* __restrict__ header, int capacity) {
    const int rows = valid_rows(header, capacity);
    for (i64 row = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; row < capacity;
         row += static_cast<i64>(gridDim.x) * blockDim.x) {
        lengths[row] = row < rows ? offsets[row + 1] - offsets[row] : 0;
    }
}

// --- Reductions: a block has a row.

__device__ __forceinline__ double from_lane(double mine, int distance) {
    return __shfl_xor_sync(kAllLanes, mine, distance);
}

// What all threads of the block have, combined; each of them gets it. `shared` has room for one
// value a warp.
template <typename T, typename Combine>
__device__ __forceinline__ T over_block(T mine, T* shared, Combine combine) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        mine = combine(mine, from_lane(mine, distance));
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
    __syncthreads();
    T all = shared[0];
    for (u32 warp = 1; warp < blockDim.x / 32; ++warp) all = combine(all, shared[warp]);
    // Who is late still reads what the next call would write over.
    __syncthreads();
    return all;
}

struct Entry {
    float value;
    int index;
};

__device__ __forceinline__ Entry from_lane(Entry mine, int distance) {
    return Entry{__shfl_xor_sync(kAllLanes, mine.value, distance),
                 __shfl_xor_sync(kAllLanes, mine.index, distance)};
}

// Larger values first, equal ones in the order of their indices, NaN last.
__device__ __forceinline__ bool before(Entry a, Entry b) {
    if (a.value > b.value) return true;
    if (a.value < b.value) return false;
    const bool a_is_nan = a.value != a.value;
    const bool b_is_nan = b.value != b.value;
    if (a_is_nan != b_is_nan) return b_is_nan;
    return a.index < b.index;
}

struct First {
    __device__ __forceinline__ Entry operator()(Entry a, Entry b) const {
        return before(b, a) ? b : a;
    }
};

// A largest value and the sum of the others' weights beside it.
struct Sum {
    float largest;
    float weights;
};

__device__ __forceinline__ Sum from_lane(Sum mine, int distance) {
    return Sum{__shfl_xor_sync(kAllLanes, mine.largest, distance),
               __shfl_xor_sync(kAllLanes, mine.weights, distance)};
}

// exp(value - largest), also where both are the same infinity.
__device__ __forceinline__ float weight(float value, float largest) {
    return value == largest ? 1.0f : __expf(value - largest);
}

struct Merge {
    __device__ __forceinline__ Sum operator()(Sum a, Sum b) const {
        const float largest = a.largest > b.largest ? a.largest : b.largest;
        return Sum{largest,
                   a.weights * weight(a.largest, largest) + b.weights * weight(b.largest, largest)};
    }
};

__device__ __forceinline__ void add(Sum& sum, float value) {
    if (value > sum.largest) {
        sum.weights = sum.weights * weight(sum.largest, value) + 1.0f;
        sum.largest = value;
    } else {
        sum.weights += weight(value, sum.largest);  // a NaN stays in the sum
    }
}

// One pass over memory finds each thread's first entry. The k first of the row are then taken one
// by one: only the thread that had the last one needs another, and its column is searched by all.
extern "C" __global__ void __launch_bounds__(kMaxThreads)
    softmax_topk(const float* __restrict__ logits, i64 pitch, int* __restrict__ indices,
                 float* __restrict__ probabilities, const int* __restrict__ header, int capacity,
                 int length, int k) {
    __shared__ Entry entries[kMaxWarps];
    __shared__ Sum sums[kMaxWarps];
    const float nan = __uint_as_float(0x7fc00000u);
    const Entry none{nan, 0x7fffffff};  // behind every entry of a row
    const i64 threads = blockDim.x;
    const int rows = valid_rows(header, capacity);
    for (int row = blockIdx.x; row < capacity; row += gridDim.x) {
        int* row_indices = indices + static_cast<i64>(row) * k;
        float* row_probabilities = probabilities + static_cast<i64>(row) * k;
        if (row >= rows) {
            for (int i = threadIdx.x; i < k; i += blockDim.x) {
                row_indices[i] = -1;
                row_probabilities[i] = 0.0f;
            }
            continue;
        }
        const float* values = logits + row * pitch;
        Entry mine = none;
        Sum sum{__uint_as_float(0xff800000u), 0.0f};
        for (i64 first = threadIdx.x; first < length; first += threads * kUnroll) {
            float held[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const i64 index = first + u * threads;
                held[u] = index < length ? __ldg(values + index) : 0.0f;
            }
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const i64 index = first + u * threads;
                if (index < length) {
                    mine = First()(mine, Entry{held[u], static_cast<int>(index)});
                    add(sum, held[u]);
                }
            }
        }
        sum = over_block(sum, sums, Merge());
        for (int i = 0; i < k; ++i) {
            const Entry taken = over_block(mine, entries, First());
            if (threadIdx.x == 0) {
                row_indices[i] = taken.index;
                row_probabilities[i] = weight(taken.value, sum.largest) / sum.weights;
            }
            if (i + 1 == k) break;
            const u32 column = taken.index % blockDim.x;
            Entry next = none;
            for (i64 index = column + threadIdx.x * threads; index < length;
                 index += threads * threads) {
                const Entry entry{__ldg(values + index), static_cast<int>(index)};
                if (before(taken, entry)) next = First()(next, entry);
            }
            next = over_block(next, entries, First());
            if (threadIdx.x == column) mine = next;
        }
    }
}

struct Add {
    __device__ __forceinline__ double operator()(double a, double b) const { return a + b; }
};

// Kahan's sum: what float32 lost in the last addition is made good in the next.
struct Total {
    float sum = 0.0f;
    float lost = 0.0f;
    __device__ __forceinline__ void add(float value) {
        const float next = value - lost;
        const float larger = sum + next;
        const float excess = (larger - sum) - next;
        lost = excess - excess == 0.0f ? excess : 0.0f;  // infinity has lost nothing
        sum = larger;
    }
};

__device__ __forceinline__ void unpack(uint4 four, float (&values)[4]) {
    values[0] = __uint_as_float(four.x);
    values[1] = __uint_as_float(four.y);
    values[2] = __uint_as_float(four.z);
    values[3] = __uint_as_float(four.w);
}

template <int kWidth>
__device__ __forceinline__ void load_floats(const float* from, float (&values)[kWidth]) {
    if constexpr (kWidth == 1) {
        values[0] = __ldg(from);
    } else {
        unpack(__ldg(reinterpret_cast<const uint4*>(from)), values);
    }
}

// The same for what this kernel has written, which the read-only cache must not be asked for.
template <int kWidth>
__device__ __forceinline__ void recall(const float* from, float (&values)[kWidth]) {
    if constexpr (kWidth == 1) {
        values[0] = *from;
    } else {
        unpack(*reinterpret_cast<const uint4*>(from), values);
    }
}

// The mean of each sequence's tokens, 0 where there are none. Threads share the features, kWidth
// each.
template <int kWidth>
__device__ __forceinline__ void mean_rows(const float* values, const int* offsets, float* result,
                                          int rows, int capacity, int features, int normalise,
                                          double* shared) {
    for (int row = blockIdx.x; row < capacity; row += gridDim.x) {
        const i64 begin = row < rows ? offsets[row] : 0;
        const i64 end = row < rows ? offsets[row + 1] : 0;
        float* to = result + static_cast<i64>(row) * features;
        double squares = 0.0;
        for (int feature = threadIdx.x * kWidth; feature < features;
             feature += blockDim.x * kWidth) {
            Total totals[kWidth];
            for (i64 first = begin; first < end; first += kUnroll) {
                float held[kUnroll][kWidth] = {};
#pragma unroll
                for (int u = 0; u < kUnroll; ++u) {
                    if (first + u < end) {
                        load_floats<kWidth>(values + (first + u) * features + feature, held[u]);
                    }
                }
#pragma unroll
                for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
                    for (int i = 0; i < kWidth; ++i) totals[i].add(held[u][i]);
                }
            }
            float means[kWidth];
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                means[i] = end > begin ? totals[i].sum / static_cast<float>(end - begin) : 0.0f;
                squares += static_cast<double>(means[i]) * means[i];
            }
            store<Float32, kWidth>(to + feature, means);
        }
        if (normalise) {
            const double norm = sqrt(over_block(squares, shared, Add()));
            const double divisor = norm < 1e-12 ? 1e-12 : norm;
            // Each thread reads what it wrote itself.
            for (int feature = threadIdx.x * kWidth; feature < features;
                 feature += blockDim.x * kWidth) {
                float means[kWidth];
                recall<kWidth>(to + feature, means);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) {
                    means[i] = static_cast<float>(means[i] / divisor);
                }
                store<Float32, kWidth>(to + feature, means);
            }
        }
    }
}

#define TIDEGATE_MEAN_KERNEL(name, width)                                                 \
    extern "C" __global__ void __launch_bounds__(kMaxThreads)                             \
        name(const float* __restrict__ values, const int* __restrict__ offsets,           \
             float* __restrict__ result, const int* __restrict__ header, int capacity,    \
             int features, int normalise) {                                               \
        __shared__ double squares[kMaxWarps];                                             \
        mean_rows<width>(values, offsets, result, valid_rows(header, capacity), capacity, \
                         features, normalise, squares);                                   \
    }

TIDEGATE_MEAN_KERNEL(segment_mean_v4, 4)
TIDEGATE_MEAN_KERNEL(segment_mean, 1)
