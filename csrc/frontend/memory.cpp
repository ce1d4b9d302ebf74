// Pools of small pieces: a list for each size, in each thread.
#include "memory.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace tidegate::frontend {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kWatched = true;
#elif defined(__has_feature)
constexpr bool kWatched = __has_feature(address_sanitizer);
#else
constexpr bool kWatched = false;
#endif

constexpr std::size_t kGrain = 32;
constexpr std::size_t kClasses = 16;       // up to 512 bytes: an nghttp2_stream has less
constexpr std::uint32_t kMostKept = 2048;  // of each size
constexpr std::size_t kLarge = kClasses;   // the class of what is not pooled

/// In front of each piece, and as large as malloc's alignment asks for.
struct alignas(std::max_align_t) Head {
    std::size_t size = 0;  // that the piece has room for
    std::size_t size_class = 0;
    Head* next() const noexcept { return *reinterpret_cast<Head* const*>(this + 1); }
    void set_next(Head* head) noexcept { *reinterpret_cast<Head**>(this + 1) = head; }
};

class Pool {
  public:
    ~Pool() {
        for (Head*& first : free_) {
            while (first != nullptr) std::free(std::exchange(first, first->next()));
        }
        // Whatever is given back after this goes back to malloc.
        kept_.fill(kMostKept);
    }
    void* get(std::size_t size) noexcept {
        const std::size_t size_class = size == 0 ? 0 : (size - 1) / kGrain;
        if (size_class >= kClasses) return make(size, kLarge);
        Head*& first = free_[size_class];
        if (first == nullptr) return make((size_class + 1) * kGrain, size_class);
        --kept_[size_class];
        return std::exchange(first, first->next()) + 1;
    }
    void put(void* piece) noexcept {
        if (piece == nullptr) return;
        Head* const head = head_of(piece);
        const std::size_t size_class = head->size_class;
        if (size_class == kLarge || kept_[size_class] == kMostKept) return std::free(head);
        head->set_next(free_[size_class]);
        free_[size_class] = head;
        ++kept_[size_class];
    }
    static Head* head_of(void* piece) noexcept { return static_cast<Head*>(piece) - 1; }

  private:
    static void* make(std::size_t size, std::size_t size_class) noexcept {
        if (size > SIZE_MAX - sizeof(Head)) return nullptr;
        void* const memory = std::malloc(sizeof(Head) + size);
        if (memory == nullptr) return nullptr;
        return new (memory) Head{size, size_class} + 1;
    }

    std::array<Head*, kClasses> free_{};
    std::array<std::uint32_t, kClasses> kept_{};
};

thread_local Pool pool;

void* take(std::size_t size, void*) { return pool.get(size); }
void give(void* piece, void*) { pool.put(piece); }

void* take_zeroed(std::size_t count, std::size_t size, void*) {
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes)) return nullptr;
    void* const piece = pool.get(bytes);
    if (piece != nullptr) std::memset(piece, 0, bytes);
    return piece;
}

void* resize(void* piece, std::size_t size, void*) {
    if (piece == nullptr) return pool.get(size);
    const std::size_t had = Pool::head_of(piece)->size;
    if (size <= had) return piece;
    void* const larger = pool.get(size);
    if (larger == nullptr) return nullptr;
    std::memcpy(larger, piece, had);
    pool.put(piece);
    return larger;
}

}  // namespace

nghttp2_mem* pooled_memory() noexcept {
    static nghttp2_mem memory{nullptr, take, give, take_zeroed, resize};
    return kWatched ? nullptr : &memory;
}

}  // namespace tidegate::frontend
