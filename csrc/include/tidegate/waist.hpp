// The waist: all of the core that the Cython module can see, as one table of functions.
//
// Only the pybind11 module links the core; the Cython module finds this table through a capsule
// named with a version. Nothing throws across it.
#pragma once

#include "tidegate/types.hpp"

namespace tidegate {

/// Name of the capsule, and with it the version of everything below.
inline constexpr char kCapsuleName[] = "tidegate.waist.5";

struct Waist {
    Nanos (*now)(Engine*) noexcept;

    // Submitting. The GIL is held or not, as the caller likes, unless said otherwise.
    Status (*reserve)(Engine*, Lane*, std::uint32_t least, std::uint32_t most, Nanos deadline,
                      Reservation*) noexcept;
    void (*commit)(Engine*, Lane*, Reservation*) noexcept;
    bool (*commit_or_lead)(Engine*, Lane*, Reservation*, Executor**, Taken*) noexcept;
    bool (*has_room)(Engine*, Lane*, std::uint64_t rows) noexcept;
    Lane* (*add_lane)(Engine*, const std::size_t* row_bytes, std::size_t columns) noexcept;
    void* (*add_buffer)(Engine*, Lane*, std::uint32_t capacity, char* const* columns,
                        std::size_t count, void* owner, TokenMemory tokens) noexcept;
    /// `ragged` is 1 for each column whose rows are ragged.
    Lane* (*add_weighed_lane)(Engine*, const std::size_t* row_bytes, const char* ragged,
                              std::size_t columns) noexcept;
    Status (*reserve_weighed)(Engine*, Lane*, Weight, Nanos deadline, Reservation*) noexcept;
    bool (*is_empty)(Engine*, Lane*) noexcept;
    void (*count_padding)(Engine*, std::uint64_t rows, std::uint64_t tokens,
                          std::uint64_t padding_tokens) noexcept;
    std::uint32_t (*max_batch_size)(Engine*) noexcept;
    Batch* (*pending_batch)(Engine*, Lane*) noexcept;
    void (*count_rejected)(Engine*, std::uint64_t rows) noexcept;
    bool (*forked)(Engine*) noexcept;
    void (*mark_forked)(Engine*) noexcept;
    /// Moves at most `most` orphaned tenants to `into`.
    std::size_t (*take_orphans)(Engine*, void** into, std::size_t most) noexcept;

    // Running.
    Executor* (*add_executor)(Engine*, ExecutorKind) noexcept;  // null when out of threads
    Status (*await_work)(Engine*, Executor*) noexcept;          // without the GIL
    Status (*seal)(Engine*, Executor*, Taken*) noexcept;
    void (*decline)(Engine*, Executor*) noexcept;  // without the GIL
    Status (*seal_next)(Engine*, Executor*, Taken*) noexcept;
    Status (*try_take)(Engine*, Executor*, Taken*) noexcept;
    bool (*all_committed)(const Taken*) noexcept;
    void (*wait_committed)(const Taken*) noexcept;  // without the GIL
    std::uint32_t (*claim)(Engine*, Taken*) noexcept;
    bool (*keeps_memory)(Engine*, const Taken*) noexcept;
    void* (*detach)(Taken*) noexcept;
    void (*finish)(Engine*, Executor*, Taken*, Outcome, std::int32_t status,
                   std::uint32_t failed_rows) noexcept;  // without the GIL
    void (*retire)(Engine*, Executor*) noexcept;
    bool (*give_back)(Engine*, Executor*) noexcept;
    Nanos (*want_gil)(Engine*, Executor*) noexcept;
    void (*got_gil)(Engine*, Executor*, Nanos wanted_at) noexcept;

    // Batches on a device; see completer.hpp.
    Completer* (*completer_new)(Engine*, const DeviceCalls*) noexcept;
    void (*completer_delete)(Completer*) noexcept;  // without the GIL
    void (*completer_add)(Completer*, Executor*, const Taken*, void* event) noexcept;
    void (*completer_wait_room)(Completer*, std::uint32_t most) noexcept;  // without the GIL
    std::size_t (*completer_take_ended)(Completer*, Ended* into, std::size_t most) noexcept;

    // One batch.
    void (*batch_retain)(Batch*) noexcept;
    void (*batch_release)(Batch*) noexcept;
    bool (*batch_done)(const Batch*) noexcept;
    SlotState (*batch_slot)(const Batch*, std::uint32_t index) noexcept;
    std::uint32_t (*batch_row)(const Batch*, std::uint32_t index) noexcept;
    Outcome (*batch_outcome)(const Batch*) noexcept;
    std::int32_t (*batch_status)(const Batch*) noexcept;
    bool (*batch_settle)(Engine*, Batch*, std::uint32_t index, SlotState) noexcept;
    WaitResult (*batch_wait)(Engine*, Batch*, std::uint32_t index,
                             Nanos deadline) noexcept;  // without the GIL
    bool (*batch_subscribe)(Batch*, Port*, void* token) noexcept;
    void* (*batch_unsubscribe)(Batch*, Port*) noexcept;
    void* (*batch_tenant)(const Batch*) noexcept;
    void (*batch_set_tenant)(Batch*, void* tenant, void* const* outputs,
                             std::size_t count) noexcept;

    // Reading a batch's outputs without the GIL; see batch.hpp.
    char* (*column)(const Reservation*, std::size_t column) noexcept;
    void (*batch_add_reader)(Batch*) noexcept;
    bool (*batch_has_readers)(const Batch*) noexcept;
    void* (*batch_show)(Batch*, const OutputView*, std::size_t count, void* keeper) noexcept;
    std::size_t (*batch_shown)(const Batch*, const OutputView**) noexcept;
    /// One reader is finished; the last one leaves the keeper with the engine's orphans.
    void (*batch_leave)(Engine*, Batch*) noexcept;

    // One port.
    Port* (*port_new)(bool blocking) noexcept;  // null when out of descriptors
    void (*port_release)(Port*) noexcept;
    int (*port_descriptor)(const Port*) noexcept;
    void (*port_post)(Port*, Notice) noexcept;
    /// Takes what was posted; the notices stay valid until the next call for this port by the same
    /// thread. A blocking port sleeps first: without the GIL.
    std::size_t (*port_take)(Port*, const Notice**) noexcept;

    // The GIL.
    void (*gate_add_port)(Port*) noexcept;
    void (*gate_remove_port)(Port*) noexcept;
    bool (*gate_asked)() noexcept;
    bool (*gate_urgent)() noexcept;
    void (*gate_stay_away)() noexcept;  // without the GIL
    Nanos (*gate_want)() noexcept;
    void (*gate_got)(Nanos wanted_at) noexcept;
    void (*gate_set_holder_hook)(void (*)()) noexcept;
    void (*gate_reset_after_fork)() noexcept;
};

/// What the capsule points to: the table and the engine it is for, whose owner the capsule keeps.
struct EngineHandle {
    const Waist* waist;
    Engine* engine;
};

/// The table of this build.
const Waist& waist() noexcept;

}  // namespace tidegate
