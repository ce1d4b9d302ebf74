// Letting the GIL go round native work, also while the interpreter ends.
#pragma once

#include <pybind11/pybind11.h>

#include <type_traits>

namespace tidegate::bindings {

/// Runs `work` without the GIL. Unlike py::gil_scoped_release it takes the GIL back outside of any
/// destructor: at interpreter exit that ends the thread by unwinding its stack.
template <class Work>
auto without_gil(Work work) {
    static_assert(noexcept(work()));
    PyThreadState* const state = PyEval_SaveThread();
    if constexpr (std::is_void_v<decltype(work())>) {
        work();
        PyEval_RestoreThread(state);
    } else {
        auto answer = work();
        PyEval_RestoreThread(state);
        return answer;
    }
}

}  // namespace tidegate::bindings
