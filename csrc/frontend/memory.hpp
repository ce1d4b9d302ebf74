// Memory for nghttp2, which takes and gives back a dozen small pieces for each request.
//
// malloc keeps seven pieces of a size within reach and goes to its arena for the others; with
// hundreds of streams open that was 6 % of what a request costs. Here each thread keeps what was
// given back, by size, and hands it out again.
#pragma once

#include <nghttp2/nghttp2.h>

namespace tidegate::frontend {

/// For sessions that are made, used and deleted in one and the same thread; null where a sanitizer
/// is to see each piece.
nghttp2_mem* pooled_memory() noexcept;

}  // namespace tidegate::frontend
