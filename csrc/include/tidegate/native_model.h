/* The signature of a model that runs without the GIL, for use from C, C++, ctypes and numba. */
#ifndef TIDEGATE_NATIVE_MODEL_H
#define TIDEGATE_NATIVE_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Runs `rows` rows. `inputs[i]` is the i-th input as a C-contiguous array of `rows` rows,
 * `outputs[i]` the i-th output to be written in the same way; the order is that of the specs.
 * Returns 0, or a status that the callers find in their ModelError. It is called from a native
 * thread without the GIL, never by two threads at once for one instance, and may not keep the
 * pointers. */
typedef int32_t (*tidegate_native_model)(void* user_data, int64_t rows, const void* const* inputs,
                                         void* const* outputs);

#ifdef __cplusplus
}
#endif

#endif
