# Cython's view of tidegate/waist.hpp: the core's structs, enums and table of functions.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "tidegate/waist.hpp" namespace "tidegate" nogil:
    const int64_t kNever
    const char* kCapsuleName

    cppclass Engine:
        pass
    cppclass Lane:
        pass
    cppclass Slab:
        pass
    cppclass Batch:
        pass
    cppclass Port:
        pass
    cppclass Completer:
        pass
    cppclass CoreExecutor "tidegate::Executor":
        pass

    enum class Status(int32_t):
        Ok
        QueueFull
        BufferNeeded
        Closed
        Forked
        Nothing
        Stop

    enum class SlotState(uint8_t):
        Queued
        Claimed
        Cancelled
        Expired
        Refused

    enum class Outcome(uint8_t):
        Completed
        Failed
        Abandoned

    enum class WaitResult(uint8_t):
        Done
        Settled
        TimedOut
        Interrupted

    enum class NoticeKind(uint8_t):
        Finished
        Settled
        Stop

    enum class ExecutorKind(uint8_t):
        Thread
        Inline
        Device

    enum class DispatchReason(uint8_t):
        Full
        Idle
        Delay
        Drain
        Cost

    struct Weight:
        uint32_t tokens
        double cost
        uint32_t room

    struct Ended:
        int32_t status
        int64_t when

    struct TokenMemory:
        uint32_t capacity
        int32_t* offsets

    struct DeviceCalls:
        int (*wait)(void*) noexcept
        int (*enter)(void*) noexcept
        void* context

    struct Notice:
        void* token
        NoticeKind kind

    struct Reservation:
        Slab* slab
        Batch* batch
        void* owner
        uint32_t index
        uint32_t count
        uint32_t first_token
        int64_t submitted
        int64_t deadline

    struct OutputView:
        char* data
        size_t row_bytes
        const int64_t* shape
        uint32_t axes
        uint32_t item_bytes
        char kind

    struct Taken:
        Slab* slab
        Batch* batch
        void* owner
        void* tenant
        uint32_t reserved
        DispatchReason reason
        int64_t started
        int64_t model_started
        int64_t oldest

    struct Waist:
        int64_t now(Engine*) noexcept nogil
        Status reserve(Engine*, Lane*, uint32_t, uint32_t, int64_t, Reservation*) noexcept nogil
        void commit(Engine*, Lane*, Reservation*) noexcept nogil
        bint commit_or_lead(Engine*, Lane*, Reservation*, CoreExecutor**, Taken*) noexcept nogil
        bint has_room(Engine*, Lane*, uint64_t) noexcept nogil
        Lane* add_lane(Engine*, const size_t*, size_t) noexcept nogil
        void* add_buffer(Engine*, Lane*, uint32_t, char**, size_t, void*,
                         TokenMemory) noexcept nogil
        Lane* add_weighed_lane(Engine*, const size_t*, const char*, size_t) noexcept nogil
        Status reserve_weighed(Engine*, Lane*, Weight, int64_t, Reservation*) noexcept nogil
        bint is_empty(Engine*, Lane*) noexcept nogil
        void count_padding(Engine*, uint64_t, uint64_t, uint64_t) noexcept nogil
        uint32_t max_batch_size(Engine*) noexcept nogil
        Batch* pending_batch(Engine*, Lane*) noexcept nogil
        void count_rejected(Engine*, uint64_t) noexcept nogil
        bint forked(Engine*) noexcept nogil
        void mark_forked(Engine*) noexcept nogil
        size_t take_orphans(Engine*, void**, size_t) noexcept nogil

        CoreExecutor* add_executor(Engine*, ExecutorKind) noexcept nogil
        Status await_work(Engine*, CoreExecutor*) noexcept nogil
        Status seal(Engine*, CoreExecutor*, Taken*) noexcept nogil
        void decline(Engine*, CoreExecutor*) noexcept nogil
        Status seal_next(Engine*, CoreExecutor*, Taken*) noexcept nogil
        Status try_take(Engine*, CoreExecutor*, Taken*) noexcept nogil
        bint all_committed(const Taken*) noexcept nogil
        void wait_committed(const Taken*) noexcept nogil
        uint32_t claim(Engine*, Taken*) noexcept nogil
        bint keeps_memory(Engine*, const Taken*) noexcept nogil
        void* detach(Taken*) noexcept nogil
        void finish(Engine*, CoreExecutor*, Taken*, Outcome, int32_t, uint32_t) noexcept nogil
        void retire(Engine*, CoreExecutor*) noexcept nogil
        bint give_back(Engine*, CoreExecutor*) noexcept nogil
        int64_t want_gil(Engine*, CoreExecutor*) noexcept nogil
        void got_gil(Engine*, CoreExecutor*, int64_t) noexcept nogil

        Completer* completer_new(Engine*, const DeviceCalls*) noexcept nogil
        void completer_delete(Completer*) noexcept nogil
        void completer_add(Completer*, CoreExecutor*, const Taken*, void*) noexcept nogil
        void completer_wait_room(Completer*, uint32_t) noexcept nogil
        size_t completer_take_ended(Completer*, Ended*, size_t) noexcept nogil

        void batch_retain(Batch*) noexcept nogil
        void batch_release(Batch*) noexcept nogil
        bint batch_done(const Batch*) noexcept nogil
        SlotState batch_slot(const Batch*, uint32_t) noexcept nogil
        uint32_t batch_row(const Batch*, uint32_t) noexcept nogil
        Outcome batch_outcome(const Batch*) noexcept nogil
        int32_t batch_status(const Batch*) noexcept nogil
        bint batch_settle(Engine*, Batch*, uint32_t, SlotState) noexcept nogil
        WaitResult batch_wait(Engine*, Batch*, uint32_t, int64_t) noexcept nogil
        bint batch_subscribe(Batch*, Port*, void*) noexcept nogil
        void* batch_unsubscribe(Batch*, Port*) noexcept nogil
        void* batch_tenant(const Batch*) noexcept nogil
        void batch_set_tenant(Batch*, void*, void**, size_t) noexcept nogil

        bint batch_has_readers(const Batch*) noexcept nogil
        void* batch_show(Batch*, const OutputView*, size_t, void*) noexcept nogil

        Port* port_new(bint) noexcept nogil
        void port_release(Port*) noexcept nogil
        int port_descriptor(const Port*) noexcept nogil
        void port_post(Port*, Notice) noexcept nogil
        size_t port_take(Port*, const Notice**) noexcept nogil

        void gate_add_port(Port*) noexcept nogil
        void gate_remove_port(Port*) noexcept nogil
        bint gate_asked() noexcept nogil
        bint gate_urgent() noexcept nogil
        void gate_stay_away() noexcept nogil
        int64_t gate_want() noexcept nogil
        void gate_got(int64_t) noexcept nogil
        void gate_set_holder_hook(void (*)() noexcept nogil) noexcept nogil
        void gate_reset_after_fork() noexcept nogil

    struct EngineHandle:
        const Waist* waist
        Engine* engine
