// EngineOwner: releasing the GIL where the core may wait, and Python references at the end.
#include "engine_owner.hpp"

#include <array>
#include <utility>

namespace py = pybind11;

namespace tidegate::bindings {

EngineOwner::EngineOwner(const Policy& policy) : engine_(policy) {}

EngineOwner::~EngineOwner() {
    if (engine_.forked()) {
        // Nothing is joined and no lock is taken; the child leaks what its parent still owns.
        for (auto& executor : native_) static_cast<void>(executor.release());
        for (auto& code : code_) static_cast<void>(code.release());
        return;
    }
    engine_.close(false);
    if (!native_.empty()) join_native();
    native_.clear();
    release_orphans();
    for (void* owner : engine_.detach_all()) Py_DECREF(static_cast<PyObject*>(owner));
}

void EngineOwner::close(bool drain) {
    without_gil([&]() noexcept { engine_.close(drain); });
    release_orphans();
}

void EngineOwner::abandon_running() {
    without_gil([&]() noexcept { engine_.abandon_running(); });
    // A native model that does not return goes on using its memory and this engine: kept for ever.
    if (!native_.empty()) static_cast<void>(new std::shared_ptr<EngineOwner>(shared_from_this()));
}

bool EngineOwner::wait_drained(std::optional<double> timeout) {
    // In slices, so that Ctrl-C is heard.
    const Clock& clock = engine_.clock();
    const Nanos deadline = timeout && *timeout < 3e9
                               ? add_saturating(clock.now(), static_cast<Nanos>(*timeout * 1e9))
                               : kNever;
    for (;;) {
        const Nanos slice = add_saturating(clock.now(), 200 * kMillisecond);
        const Nanos until = slice < deadline ? slice : deadline;
        const auto wait = [&]() noexcept {
            if (!engine_.wait_drained(until)) return false;
            engine_.stop_timer();
            return true;
        };
        if (without_gil(wait)) return true;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (clock.now() >= deadline) return false;
    }
}

void EngineOwner::start_native(std::uintptr_t address, std::uintptr_t user_data, py::object code) {
    code_.push_back(std::move(code));
    native_.push_back(
        std::make_unique<NativeExecutor>(engine_, reinterpret_cast<tidegate_native_model>(address),
                                         reinterpret_cast<void*>(user_data)));
}

void EngineOwner::join_native() {
    without_gil([&]() noexcept {
        for (const auto& executor : native_) executor->join();
    });
    std::vector<py::object>().swap(code_);  // what it runs on its way may come back here
    release_orphans();
}

void EngineOwner::release_orphans() {
    std::array<void*, 16> tenants{};
    while (const std::size_t count = engine_.take_orphans(tenants.data(), tenants.size())) {
        for (std::size_t i = 0; i < count; ++i) Py_DECREF(static_cast<PyObject*>(tenants[i]));
    }
}

}  // namespace tidegate::bindings
