// The waist's table has no gap, and a request goes through it from end to end.
#include <cstring>
#include <vector>

#include "check.hpp"
#include "rig.hpp"
#include "tidegate/gate.hpp"
#include "tidegate/waist.hpp"

using namespace tidegate;

namespace {

void test_every_entry_is_there() {
    using Entry = void (*)();
    static_assert(sizeof(Waist) % sizeof(Entry) == 0);
    std::vector<Entry> entries(sizeof(Waist) / sizeof(Entry));
    std::memcpy(entries.data(), &waist(), sizeof(Waist));
    for (std::size_t i = 0; i < entries.size(); ++i) {
        CHECK(entries[i] != nullptr, "entry " + std::to_string(i));
    }
}

void test_a_request_from_end_to_end() {
    const Waist& w = waist();
    Engine engine{Policy{.max_batch_size = 2}};
    Engine* e = &engine;
    const std::size_t row_bytes[] = {8};
    Lane* lane = w.add_lane(e, row_bytes, 1);
    Executor* executor = w.add_executor(e, ExecutorKind::Inline);
    CHECK_EQUAL(w.max_batch_size(e), 2u);
    CHECK(w.has_room(e, lane, 64));
    CHECK(!w.forked(e));

    Reservation reservation;
    CHECK(w.reserve(e, lane, 1, 1, kNever, &reservation) == Status::BufferNeeded);
    std::vector<char> memory(16);
    char* columns[] = {memory.data()};
    CHECK(w.add_buffer(e, lane, 2, columns, 1, &memory, {}) == nullptr);
    CHECK(w.reserve(e, lane, 1, 1, kNever, &reservation) == Status::Ok);
    CHECK(reservation.owner == &memory);
    Batch* batch = reservation.batch;
    w.batch_retain(batch);
    int tenant = 0;
    std::int64_t answer = 0;
    void* outputs[] = {&answer};
    w.batch_set_tenant(batch, &tenant, outputs, 1);
    CHECK(w.batch_tenant(batch) == &tenant);
    Port* port = w.port_new(false);
    CHECK(w.port_descriptor(port) >= 0);
    CHECK(w.batch_subscribe(batch, port, &answer));
    CHECK(w.batch_unsubscribe(batch, port) == &answer);
    CHECK(w.batch_subscribe(batch, port, &answer));
    Executor* lent = nullptr;
    Taken taken;
    CHECK(!w.commit_or_lead(e, lane, &reservation, &lent, &taken));
    CHECK(w.batch_wait(e, batch, 0, w.now(e) - 1) == WaitResult::TimedOut);
    CHECK(w.try_take(e, executor, &taken) == Status::Ok);
    Batch* pending = w.pending_batch(e, lane);
    CHECK(pending == batch);
    w.batch_release(pending);
    CHECK(w.all_committed(&taken));
    w.wait_committed(&taken);
    CHECK_EQUAL(w.claim(e, &taken), 1u);
    CHECK(taken.tenant == &tenant);
    CHECK(!w.batch_settle(e, batch, 0, SlotState::Cancelled));
    w.got_gil(e, executor, w.want_gil(e, executor));
    CHECK(w.keeps_memory(e, &taken));
    CHECK(w.detach(&taken) == &memory);
    CHECK(!w.batch_done(batch));
    w.finish(e, executor, &taken, Outcome::Failed, 5, 0);
    w.give_back(e, executor);

    CHECK(w.batch_done(batch));
    CHECK(w.batch_slot(batch, 0) == SlotState::Claimed);
    CHECK_EQUAL(w.batch_row(batch, 0), 0u);
    CHECK(w.batch_outcome(batch) == Outcome::Failed);
    CHECK_EQUAL(w.batch_status(batch), 5);
    CHECK(w.batch_wait(e, batch, 0, kNever) == WaitResult::Done);
    const Notice* notices = nullptr;
    CHECK_EQUAL(w.port_take(port, &notices), 1u);
    CHECK(notices[0].kind == NoticeKind::Finished);
    CHECK(notices[0].token == &answer);
    w.port_release(port);
    w.batch_release(batch);
    w.count_rejected(e, 3);
    CHECK_EQUAL(engine.statistics().rejected, 3u);
    void* orphan = nullptr;
    CHECK_EQUAL(w.take_orphans(e, &orphan, 1), 0u);
}

void test_the_gate() {
    const Waist& w = waist();
    w.gate_reset_after_fork();  // as in a new process: nobody has waited for long
    static int asked_holder = 0;
    w.gate_set_holder_hook([] { ++asked_holder; });
    Port* port = w.port_new(false);
    w.gate_add_port(port);
    const Nanos wanted_at = w.gate_want();
    CHECK(!w.gate_asked());
    Gate::instance().nudge();
    CHECK(w.gate_asked());
    CHECK(w.gate_urgent());
    CHECK_EQUAL(asked_holder, 1);
    w.gate_stay_away();  // nobody comes
    CHECK(!w.gate_asked());
    w.gate_got(wanted_at);
    w.port_post(port, {nullptr, NoticeKind::Stop});
    const Notice* notices = nullptr;
    CHECK_EQUAL(w.port_take(port, &notices), 1u);
    CHECK(notices[0].kind == NoticeKind::Stop);
    w.gate_remove_port(port);
    w.gate_reset_after_fork();
    w.gate_set_holder_hook(nullptr);
    w.port_release(port);
}

}  // namespace

int main() {
    test_every_entry_is_there();
    test_a_request_from_end_to_end();
    test_the_gate();
}
