// The pool that nghttp2 takes its memory from: pieces keep what was written, and come back.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "memory.hpp"

using namespace tidegate::frontend;

namespace {

void test_pieces_keep_what_was_written(const nghttp2_mem& memory) {
    std::vector<unsigned char*> pieces;
    for (std::size_t size = 0; size < 2000; ++size) {
        auto* const piece = static_cast<unsigned char*>(memory.malloc(size, nullptr));
        CHECK(piece != nullptr);
        CHECK(reinterpret_cast<std::uintptr_t>(piece) % alignof(std::max_align_t) == 0);
        std::memset(piece, static_cast<int>(size % 251), size);
        pieces.push_back(piece);
    }
    for (std::size_t size = 0; size < pieces.size(); ++size) {
        for (std::size_t at = 0; at < size; ++at) CHECK(pieces[size][at] == size % 251);
        memory.free(pieces[size], nullptr);
    }
    memory.free(nullptr, nullptr);
}

void test_a_piece_comes_back(const nghttp2_mem& memory) {
    void* const first = memory.malloc(100, nullptr);
    memory.free(first, nullptr);
    void* const second = memory.malloc(99, nullptr);
    CHECK(first == second);
    memory.free(second, nullptr);
}

void test_zeroed_pieces_are_zero_though_used_before(const nghttp2_mem& memory) {
    void* const used = memory.malloc(64, nullptr);
    std::memset(used, 7, 64);
    memory.free(used, nullptr);
    auto* const piece = static_cast<unsigned char*>(memory.calloc(8, 8, nullptr));
    for (int at = 0; at < 64; ++at) CHECK(piece[at] == 0);
    memory.free(piece, nullptr);
    CHECK(memory.calloc(SIZE_MAX, 2, nullptr) == nullptr);
    CHECK(memory.malloc(SIZE_MAX, nullptr) == nullptr);
}

void test_what_grows_keeps_its_beginning(const nghttp2_mem& memory) {
    auto* piece = static_cast<unsigned char*>(memory.realloc(nullptr, 1, nullptr));
    piece[0] = 42;
    for (std::size_t size = 2; size <= 4096; size *= 2) {
        piece = static_cast<unsigned char*>(memory.realloc(piece, size, nullptr));
        CHECK(piece[0] == 42);
        CHECK(size == 2 || piece[size / 2 - 1] == size / 2 % 251);
        piece[size - 1] = static_cast<unsigned char>(size % 251);
    }
    memory.free(piece, nullptr);
}

}  // namespace

int main() {
    if (const nghttp2_mem* const memory = pooled_memory()) {
        test_pieces_keep_what_was_written(*memory);
        test_a_piece_comes_back(*memory);
        test_zeroed_pieces_are_zero_though_used_before(*memory);
        test_what_grows_keeps_its_beginning(*memory);
    }
    return 0;
}
