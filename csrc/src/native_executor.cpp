// NativeExecutor: take, run, finish, without a GIL in sight.
#include "tidegate/native_executor.hpp"

#include <vector>

namespace tidegate {

NativeExecutor::NativeExecutor(Engine& engine, tidegate_native_model model, void* user_data)
    : engine_(engine),
      executor_(engine.add_executor(ExecutorKind::Native)),
      model_(model),
      user_data_(user_data),
      thread_([this] { run(); }) {}

NativeExecutor::~NativeExecutor() { join(); }

void NativeExecutor::join() noexcept {
    const std::lock_guard lock(mutex_);
    if (thread_.joinable()) thread_.join();
}

void NativeExecutor::run() noexcept {
    std::vector<const void*> inputs;
    while (engine_.await_work(executor_) == Status::Ok) {
        Taken taken;
        if (engine_.seal(executor_, taken) != Status::Ok) continue;
        taken.slab->wait_committed(taken.reserved);
        const std::uint32_t live = engine_.claim(taken);
        std::int32_t status = 0;
        if (live > 0) {
            inputs.assign(taken.slab->columns().begin(), taken.slab->columns().end());
            status = model_(user_data_, live, inputs.data(), taken.batch->outputs.data());
        }
        engine_.finish_with_orphans(executor_, taken, status);
    }
}

}  // namespace tidegate
