// A port that subscribed to a batch gets exactly one Finished notice, and it is the last.
#include <vector>

#include "check.hpp"
#include "race.hpp"
#include "tidegate/batch.hpp"

using namespace tidegate;
using tidegate::testing::race;

namespace {

constexpr int kRounds = 3'000;

struct Batches {
    Batches() {
        for (int i = 0; i < kRounds; ++i) all.push_back(new Batch(2));
    }
    ~Batches() {
        for (Batch* batch : all) batch->release();
    }
    Batch& operator[](int round) { return *all[static_cast<std::size_t>(round)]; }
    std::vector<Batch*> all;
};

std::vector<Notice> taken(Port& port) {
    std::vector<Notice> notices;
    port.take(notices);
    return notices;
}

void end(Batch& batch) {
    CHECK(batch.decide(Outcome::Completed, 0));
    batch.publish();
}

void test_several_ports_and_tokens() {
    Batches batches;
    Port* first = new Port(false);
    Port* second = new Port(false);
    int tokens[2] = {};
    Batch& batch = batches[0];
    CHECK(batch.subscribe(*first, &tokens[0]));
    CHECK(batch.subscribe(*second, &tokens[1]));
    CHECK_EQUAL(first->in_flight(), 1u);
    batch.announce_settled();
    CHECK_EQUAL(taken(*first).size(), 1u);
    end(batch);
    CHECK_EQUAL(first->in_flight(), 0u);
    CHECK_EQUAL(second->in_flight(), 0u);
    std::vector<Notice> notices = taken(*first);
    CHECK_EQUAL(notices.size(), 1u);
    CHECK(notices[0].kind == NoticeKind::Finished);
    CHECK(notices[0].token == &tokens[0]);
    notices = taken(*second);
    CHECK_EQUAL(notices.size(), 2u);
    CHECK(notices[0].kind == NoticeKind::Settled);
    CHECK(notices[1].kind == NoticeKind::Finished);
    CHECK(notices[1].token == &tokens[1]);
    CHECK(!batch.subscribe(*first, &tokens[0]), "it is done");
    CHECK(taken(*first).empty());
    first->release();
    second->release();
}

void test_subscribing_while_the_batch_ends() {
    Batches batches;
    Port* port = new Port(false);
    bool subscribed = false;
    race(
        kRounds, [&](int round) { end(batches[round]); },
        [&](int round) {
            subscribed = batches[round].subscribe(*port, &batches[round]);
            if (!subscribed) CHECK(batches[round].done(), "refused because it is done");
        },
        [&](int round) {
            const std::vector<Notice> notices = taken(*port);
            CHECK_EQUAL(notices.size(), subscribed ? 1u : 0u);
            if (subscribed) CHECK(notices[0].token == &batches[round]);
            CHECK_EQUAL(port->in_flight(), 0u);
        });
    port->release();
}

void test_unsubscribing_while_the_batch_ends() {
    Batches batches;
    Port* port = new Port(false);
    for (Batch* batch : batches.all) CHECK(batch->subscribe(*port, batch));
    void* token = nullptr;
    race(
        kRounds, [&](int round) { end(batches[round]); },
        [&](int round) { token = batches[round].unsubscribe(*port); },
        [&](int round) {
            const std::vector<Notice> notices = taken(*port);
            if (token == nullptr) {
                CHECK_EQUAL(notices.size(), 1u);
            } else {
                CHECK(token == &batches[round]);
                CHECK(notices.empty());
            }
            CHECK(batches[round].unsubscribe(*port) == nullptr);
        });
    CHECK_EQUAL(port->in_flight(), 0u);
    port->release();
}

void test_unsubscribing_takes_back_what_was_posted() {
    Batches batches;
    Port* port = new Port(false);
    for (int round = 0; round < 2; ++round) CHECK(batches[round].subscribe(*port, &batches[round]));
    for (int round = 0; round < 2; ++round) batches[round].announce_settled();
    CHECK(batches[0].unsubscribe(*port) == &batches[0]);
    const std::vector<Notice> notices = taken(*port);
    CHECK_EQUAL(notices.size(), 1u);
    CHECK(notices[0].token == &batches[1], "the token of the other may be gone by now");
    end(batches[1]);
    port->release();
}

void test_nothing_follows_the_last_notice() {
    Batches batches;
    Port* port = new Port(false);
    for (Batch* batch : batches.all) CHECK(batch->subscribe(*port, batch));
    race(
        kRounds, [&](int round) { end(batches[round]); },
        [&](int round) {
            CHECK(batches[round].settle(1, SlotState::Expired));
            batches[round].announce_settled();
        },
        [&](int) {
            const std::vector<Notice> notices = taken(*port);
            CHECK(!notices.empty() && notices.size() <= 2);
            CHECK(notices.back().kind == NoticeKind::Finished);
            if (notices.size() == 2) CHECK(notices.front().kind == NoticeKind::Settled);
        });
    port->release();
}

}  // namespace

int main() {
    test_several_ports_and_tokens();
    test_subscribing_while_the_batch_ends();
    test_unsubscribing_while_the_batch_ends();
    test_unsubscribing_takes_back_what_was_posted();
    test_nothing_follows_the_last_notice();
}
