// An executor for models that need no GIL: a native thread that runs a C function per batch.
#pragma once

#include <mutex>
#include <thread>

#include "tidegate/engine.hpp"
#include "tidegate/native_model.h"

namespace tidegate {

class NativeExecutor {
  public:
    NativeExecutor(Engine& engine, tidegate_native_model model, void* user_data);
    ~NativeExecutor();
    NativeExecutor(const NativeExecutor&) = delete;
    NativeExecutor& operator=(const NativeExecutor&) = delete;

    /// Waits for the thread to end; several may. \pre the engine is closed, the GIL is not held
    void join() noexcept;

  private:
    void run() noexcept;

    Engine& engine_;
    Executor& executor_;
    const tidegate_native_model model_;
    void* const user_data_;
    std::mutex mutex_;
    std::thread thread_;  // joined under mutex_
};

}  // namespace tidegate
