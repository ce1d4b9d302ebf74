// Preloaded by test_native_gil.py: counts how often extension modules acquire the GIL.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>

static atomic_long acquired;

long gil_acquired(void) { return atomic_load(&acquired); }

void PyEval_RestoreThread(void* state) {
    static void (*real)(void*);
    if (!real) real = (void (*)(void*))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
    atomic_fetch_add(&acquired, 1);
    real(state);
}

int PyGILState_Ensure(void) {
    static int (*real)(void);
    if (!real) real = (int (*)(void))dlsym(RTLD_NEXT, "PyGILState_Ensure");
    atomic_fetch_add(&acquired, 1);
    return real();
}
