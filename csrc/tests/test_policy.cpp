// A policy out of range is refused with the value in the message, and changes nothing.
#include <stdexcept>
#include <string>

#include "check.hpp"
#include "tidegate/engine.hpp"

using namespace tidegate;

namespace {

std::string refusal(const Policy& policy) {
    try {
        policy.validate();
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

bool names(const std::string& message, const std::string& setting, const std::string& value) {
    return message.find(setting) != std::string::npos && message.find(value) != std::string::npos;
}

void test_ranges() {
    CHECK_EQUAL(refusal(Policy{}), "");
    CHECK_EQUAL(refusal(Policy{.max_batch_size = 1}), "");
    CHECK_EQUAL(refusal(Policy{.max_batch_size = kMaxBatchSize}), "");
    CHECK(names(refusal(Policy{.max_batch_size = 0}), "max_batch_size", "got 0"));
    CHECK(names(refusal(Policy{.max_batch_size = kMaxBatchSize + 1}), "max_batch_size", "1048577"));
    CHECK(names(refusal(Policy{.max_queue_delay = -kMillisecond}), "max_queue_delay", "-0.001"));
}

void test_default_queue_size() {
    CHECK_EQUAL(Policy{}.queue_rows(), 2048u);
    CHECK_EQUAL(Policy{.max_batch_size = 1}.queue_rows(), 1024u);
    CHECK_EQUAL(Policy{.max_batch_size = kMaxBatchSize}.queue_rows(), 32u * kMaxBatchSize);
    CHECK_EQUAL(Policy{.max_queue_size = 3}.queue_rows(), 3u);
}

void test_an_engine_refuses_a_bad_policy_and_keeps_the_one_it_has() {
    bool thrown = false;
    try {
        const Engine engine(Policy{.max_batch_size = 0});
    } catch (const std::invalid_argument&) {
        thrown = true;
    }
    CHECK(thrown);

    Engine engine(Policy{.max_batch_size = 8, .max_queue_delay = 5});
    thrown = false;
    try {
        engine.set_policy(Policy{.max_batch_size = 16, .max_queue_delay = -1});
    } catch (const std::invalid_argument&) {
        thrown = true;
    }
    CHECK(thrown);
    CHECK_EQUAL(engine.policy().max_batch_size, 8u);
    CHECK_EQUAL(engine.policy().max_queue_delay, 5);
    CHECK_EQUAL(engine.max_batch_size(), 8u);
    engine.set_policy(Policy{.max_batch_size = 16});
    CHECK_EQUAL(engine.policy().max_batch_size, 16u);
    CHECK_EQUAL(engine.max_batch_size(), 16u);
}

}  // namespace

int main() {
    test_ranges();
    test_default_queue_size();
    test_an_engine_refuses_a_bad_policy_and_keeps_the_one_it_has();
}
