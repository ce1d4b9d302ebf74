// The waist's table, filled with thin calls into the core.
#include "tidegate/waist.hpp"

#include <system_error>
#include <vector>

#include "tidegate/completer.hpp"
#include "tidegate/engine.hpp"
#include "tidegate/gate.hpp"
#include "tidegate/turnstile.hpp"

namespace tidegate {

namespace {

/// A thread that waits for a batch spins this long first; waking costs about as much.
constexpr Nanos kWaitSpin = 20 * kMicrosecond;

const Clock& steady() noexcept { return SteadyClock::instance(); }

std::vector<Notice>& taken_notices() {
    thread_local std::vector<Notice> notices;
    return notices;
}

constexpr Waist kWaist = {
    .now = [](Engine* engine) noexcept { return engine->clock().now(); },

    .reserve =
        [](Engine* engine, Lane* lane, std::uint32_t least, std::uint32_t most, Nanos deadline,
           Reservation* reservation) noexcept {
            return engine->reserve(*lane, least, most, deadline, *reservation);
        },
    .commit = [](Engine* engine, Lane* lane,
                 Reservation* reservation) noexcept { engine->commit(*lane, *reservation); },
    .commit_or_lead =
        [](Engine* engine, Lane* lane, Reservation* reservation, Executor** executor,
           Taken* taken) noexcept {
            return engine->commit_or_lead(*lane, *reservation, *executor, *taken);
        },
    .has_room = [](Engine* engine, Lane* lane,
                   std::uint64_t rows) noexcept { return engine->has_room(*lane, rows); },
    .add_lane =
        [](Engine* engine, const std::size_t* row_bytes, std::size_t columns) noexcept {
            return &engine->add_lane({row_bytes, row_bytes + columns});
        },
    .add_buffer =
        [](Engine* engine, Lane* lane, std::uint32_t capacity, char* const* columns,
           std::size_t count, void* owner, TokenMemory tokens) noexcept {
            std::vector<std::byte*> pointers;
            pointers.reserve(count);
            for (std::size_t i = 0; i < count; ++i) {
                pointers.push_back(reinterpret_cast<std::byte*>(columns[i]));
            }
            return engine->add_buffer(*lane, capacity, std::move(pointers), owner, tokens);
        },
    .add_weighed_lane =
        [](Engine* engine, const std::size_t* row_bytes, const char* ragged,
           std::size_t columns) noexcept {
            std::vector<bool> which(columns);
            for (std::size_t i = 0; i < columns; ++i) which[i] = ragged[i] != 0;
            return &engine->add_weighed_lane({row_bytes, row_bytes + columns}, std::move(which));
        },
    .reserve_weighed =
        [](Engine* engine, Lane* lane, Weight weight, Nanos deadline,
           Reservation* reservation) noexcept {
            return engine->reserve_weighed(*lane, weight, deadline, *reservation);
        },
    .is_empty = [](Engine* engine, Lane* lane) noexcept { return engine->is_empty(*lane); },
    .count_padding =
        [](Engine* engine, std::uint64_t rows, std::uint64_t tokens,
           std::uint64_t padding_tokens) noexcept {
            engine->count_padding(rows, tokens, padding_tokens);
        },
    .max_batch_size = [](Engine* engine) noexcept { return engine->max_batch_size(); },
    .pending_batch = [](Engine* engine,
                        Lane* lane) noexcept { return engine->pending_batch(lane); },
    .count_rejected = [](Engine* engine,
                         std::uint64_t rows) noexcept { engine->count_rejected(rows); },
    .forked = [](Engine* engine) noexcept { return engine->forked(); },
    .mark_forked = [](Engine* engine) noexcept { engine->mark_forked(); },
    .take_orphans = [](Engine* engine, void** into,
                       std::size_t most) noexcept { return engine->take_orphans(into, most); },

    .add_executor = [](Engine* engine, ExecutorKind kind) noexcept -> Executor* {
        try {
            return &engine->add_executor(kind);
        } catch (const std::system_error&) {
            return nullptr;
        }
    },
    .await_work = [](Engine* engine,
                     Executor* executor) noexcept { return engine->await_work(*executor); },
    .seal = [](Engine* engine, Executor* executor,
               Taken* taken) noexcept { return engine->seal(*executor, *taken); },
    .decline = [](Engine* engine, Executor* executor) noexcept { engine->decline(*executor); },
    .seal_next = [](Engine* engine, Executor* executor,
                    Taken* taken) noexcept { return engine->seal_next(*executor, *taken); },
    .try_take = [](Engine* engine, Executor* executor,
                   Taken* taken) noexcept { return engine->try_take(*executor, *taken); },
    .all_committed =
        [](const Taken* taken) noexcept { return taken->slab->all_committed(taken->reserved); },
    .wait_committed =
        [](const Taken* taken) noexcept { taken->slab->wait_committed(taken->reserved); },
    .claim = [](Engine* engine, Taken* taken) noexcept { return engine->claim(*taken); },
    .keeps_memory = [](Engine* engine,
                       const Taken* taken) noexcept { return engine->keeps_memory(*taken); },
    .detach = [](Taken* taken) noexcept { return taken->slab->detach(); },
    .finish =
        [](Engine* engine, Executor* executor, Taken* taken, Outcome outcome, std::int32_t status,
           std::uint32_t failed_rows) noexcept {
            engine->finish(*executor, *taken, outcome, status, failed_rows);
        },
    .retire = [](Engine* engine, Executor* executor) noexcept { engine->retire(*executor); },
    .give_back = [](Engine* engine,
                    Executor* executor) noexcept { return engine->give_back(*executor); },
    .want_gil = [](Engine* engine,
                   Executor* executor) noexcept { return engine->want_gil(*executor); },
    .got_gil = [](Engine* engine, Executor* executor,
                  Nanos wanted_at) noexcept { engine->got_gil(*executor, wanted_at); },

    .completer_new =
        [](Engine* engine, const DeviceCalls* calls) noexcept {
            return new Completer(*engine, *calls);
        },
    .completer_delete = [](Completer* completer) noexcept { delete completer; },
    .completer_add = [](Completer* completer, Executor* executor, const Taken* taken,
                        void* event) noexcept { completer->add(*executor, *taken, event); },
    .completer_wait_room = [](Completer* completer,
                              std::uint32_t most) noexcept { completer->wait_room(most); },
    .completer_take_ended =
        [](Completer* completer, Ended* into, std::size_t most) noexcept {
            return completer->take_ended(into, most);
        },

    .batch_retain = [](Batch* batch) noexcept { batch->retain(); },
    .batch_release = [](Batch* batch) noexcept { batch->release(); },
    .batch_done = [](const Batch* batch) noexcept { return batch->done(); },
    .batch_slot = [](const Batch* batch,
                     std::uint32_t index) noexcept { return batch->slot(index); },
    .batch_row = [](const Batch* batch,
                    std::uint32_t index) noexcept { return batch->row_of(index); },
    .batch_outcome = [](const Batch* batch) noexcept { return batch->outcome(); },
    .batch_status = [](const Batch* batch) noexcept { return batch->model_status(); },
    .batch_settle = [](Engine* engine, Batch* batch, std::uint32_t index,
                       SlotState state) noexcept { return engine->settle(*batch, index, state); },
    .batch_wait =
        [](Engine* engine, Batch* batch, std::uint32_t index, Nanos deadline) noexcept {
            Turnstile& turnstile = Turnstile::instance();
            turnstile.leave();
            const WaitResult result = batch->wait(
                index, deadline, engine->waits_are_short() ? kWaitSpin : 0, engine->clock());
            turnstile.enter(engine->clock());
            return result;
        },
    .batch_subscribe = [](Batch* batch, Port* port,
                          void* token) noexcept { return batch->subscribe(*port, token); },
    .batch_unsubscribe = [](Batch* batch,
                            Port* port) noexcept { return batch->unsubscribe(*port); },
    .batch_tenant = [](const Batch* batch) noexcept { return batch->tenant; },
    .batch_set_tenant =
        [](Batch* batch, void* tenant, void* const* outputs, std::size_t count) noexcept {
            batch->tenant = tenant;
            batch->outputs.assign(outputs, outputs + count);
        },

    .column =
        [](const Reservation* reservation, std::size_t column) noexcept {
            return reinterpret_cast<char*>(reservation->slab->column(column));
        },
    .batch_add_reader = [](Batch* batch) noexcept { batch->add_reader(); },
    .batch_has_readers = [](const Batch* batch) noexcept { return batch->has_readers(); },
    .batch_show = [](Batch* batch, const OutputView* views, std::size_t count,
                     void* keeper) noexcept { return batch->show(views, count, keeper); },
    .batch_shown =
        [](const Batch* batch, const OutputView** views) noexcept {
            *views = batch->shown().data();
            return batch->shown().size();
        },
    .batch_leave =
        [](Engine* engine, Batch* batch) noexcept {
            if (void* const keeper = batch->leave()) engine->add_orphan(keeper);
        },

    .port_new = [](bool blocking) noexcept -> Port* {
        try {
            return new Port(blocking);
        } catch (const std::system_error&) {
            return nullptr;
        }
    },
    .port_release = [](Port* port) noexcept { port->release(); },
    .port_descriptor = [](const Port* port) noexcept { return port->descriptor(); },
    .port_post = [](Port* port, Notice notice) noexcept { port->post(notice); },
    .port_take =
        [](Port* port, const Notice** notices) noexcept {
            std::vector<Notice>& taken = taken_notices();
            port->take(taken);
            *notices = taken.data();
            return taken.size();
        },

    .gate_add_port = [](Port* port) noexcept { Gate::instance().add_port(*port); },
    .gate_remove_port = [](Port* port) noexcept { Gate::instance().remove_port(*port); },
    .gate_asked = []() noexcept { return Gate::instance().asked(); },
    .gate_urgent = []() noexcept { return Gate::instance().urgent(); },
    .gate_stay_away = []() noexcept { Gate::instance().stay_away(steady()); },
    .gate_want = []() noexcept { return Gate::instance().want(steady()); },
    .gate_got = [](Nanos wanted_at) noexcept { Gate::instance().got(wanted_at, steady()); },
    .gate_set_holder_hook = [](void (*hook)()) noexcept { Gate::instance().set_holder_hook(hook); },
    .gate_reset_after_fork =
        []() noexcept {
            Gate::instance().reset_after_fork();
            Turnstile::instance().reset_after_fork();
        },
};

}  // namespace

const Waist& waist() noexcept { return kWaist; }

}  // namespace tidegate
