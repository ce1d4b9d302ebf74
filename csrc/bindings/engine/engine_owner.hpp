// An engine with its native executors, and the references to Python objects that it keeps.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "../without_gil.hpp"
#include "tidegate/engine.hpp"
#include "tidegate/native_executor.hpp"
#include "tidegate/waist.hpp"

namespace tidegate::bindings {

class EngineOwner : public std::enable_shared_from_this<EngineOwner> {
  public:
    explicit EngineOwner(const Policy& policy);
    /// \pre The GIL is held: slab memory and orphaned tenants are Python objects.
    ~EngineOwner();
    EngineOwner(const EngineOwner&) = delete;
    EngineOwner& operator=(const EngineOwner&) = delete;

    Engine& engine() noexcept { return engine_; }
    const Engine& engine() const noexcept { return engine_; }

    // Each of these releases the GIL.
    void close(bool drain);
    void abandon_running();
    bool wait_drained(std::optional<double> timeout);
    /// Lets go of the models' code and of what the threads have left. \pre closed
    void join_native();

    /// Keeps `code`, which the function at `address` is part of, until its thread has ended.
    void start_native(std::uintptr_t address, std::uintptr_t user_data, pybind11::object code);

  private:
    void release_orphans();

    Engine engine_;
    std::vector<pybind11::object> code_;  // of the native models
    std::vector<std::unique_ptr<NativeExecutor>> native_;
};

/// What the capsule holds: the handle that Cython sees, and a share of the engine.
struct SharedHandle : EngineHandle {
    std::shared_ptr<EngineOwner> owner;
};

}  // namespace tidegate::bindings
