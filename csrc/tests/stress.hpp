// What the stress tests share: configurations from seeds, rows with known answers, an account of
// every request, and how an engine is closed.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "rig.hpp"
#include "tidegate/engine.hpp"

namespace tidegate::testing {

using Random = std::minstd_rand;

/// True once in `n` times on average.
inline bool one_in(Random& random, unsigned n) { return random() % n == 0; }

// -- rows --

/// Two columns, so that a row moves in all of them or is noticed.
inline constexpr std::size_t kFirstWords = 5;
inline constexpr std::size_t kWords = 7;
using Row = std::array<std::uint64_t, kWords>;

/// Every word follows from `key`, and no two words are alike: a torn row shows.
inline Row make_row(std::uint64_t key) {
    Row row;
    for (std::size_t word = 0; word < kWords; ++word) {
        row[word] = (key << 8 | word) * 0x9E37'79B9'7F4A'7C15u;
    }
    return row;
}

/// The model's function of one word.
inline std::uint64_t answer_to(std::uint64_t word) { return word * 2 + 1; }

inline void write_row(const Slab& slab, std::uint32_t index, const Row& row, bool slowly) {
    std::byte* const first = slab.column(0) + index * kFirstWords * 8;
    std::byte* const second = slab.column(1) + index * (kWords - kFirstWords) * 8;
    std::memcpy(first, row.data(), kFirstWords * 8);
    if (slowly) std::this_thread::yield();
    std::memcpy(second, row.data() + kFirstWords, (kWords - kFirstWords) * 8);
}

/// The outputs of one batch, and an error for each row if the model says so: the batch's tenant.
struct Answers {
    explicit Answers(std::uint32_t capacity) : rows(capacity), errors(capacity, 0) {}
    std::vector<Row> rows;
    std::vector<char> errors;
    std::atomic<bool> returned{false};
};

/// The model. Returns the number of rows that it gave an error, or -1 when it fails for all.
inline int model(std::int64_t rows, const void* const* inputs, Answers& answers, Random& random) {
    const auto* first = static_cast<const std::uint64_t*>(inputs[0]);
    const auto* second = static_cast<const std::uint64_t*>(inputs[1]);
    const bool picky = one_in(random, 16);
    int errors = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
        Row& out = answers.rows[static_cast<std::size_t>(row)];
        for (std::size_t word = 0; word < kFirstWords; ++word) out[word] = answer_to(*first++);
        for (std::size_t word = kFirstWords; word < kWords; ++word)
            out[word] = answer_to(*second++);
        const bool error = picky && one_in(random, 3);
        answers.errors[static_cast<std::size_t>(row)] = error;
        errors += error;
    }
    return one_in(random, 32) ? -1 : errors;
}

/// What belongs to one instance of the model.
struct Instance {
    explicit Instance(unsigned seed) : random(seed) {}
    Random random;
    unsigned model_time = 0;
    std::atomic<bool> busy{false};
    Executor* executor = nullptr;

    /// Runs the model; never by two threads at once.
    int call(std::int64_t rows, const void* const* inputs, Answers& answers) {
        CHECK(!busy.exchange(true), "one thread at a time");
        if (model_time == 1) std::this_thread::yield();
        if (model_time == 2) {
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 100));
        }
        const int errors = model(rows, inputs, answers, random);
        busy.store(false);
        return errors;
    }
};

/// An Instance as a native model.
inline std::int32_t native_model(void* user_data, std::int64_t rows, const void* const* inputs,
                                 void* const* outputs) {
    auto& instance = *static_cast<Instance*>(user_data);
    const int errors = instance.call(rows, inputs, *static_cast<Answers*>(outputs[0]));
    // A native model has no errors of single rows.
    if (errors >= 0) {
        auto& flags = static_cast<Answers*>(outputs[0])->errors;
        std::fill(flags.begin(), flags.end(), 0);
    }
    return errors < 0 ? 1 : 0;
}

// -- one configuration --

enum class Kind { Threads, Inline, Native };
enum class Ending { Drain, Refuse, DrainThenRefuse, Abandon };

struct Config {
    unsigned seed = 1;
    Policy policy;
    Kind kind = Kind::Threads;
    unsigned executors = 1;
    unsigned producers = 1;
    unsigned requests = 0;    // of each producer
    unsigned model_time = 0;  // 0 none, 1 a yield, 2 up to 100 us
    bool resize = false;
    bool close_early = false;
    Ending ending = Ending::Drain;

    std::string description() const {
        return "[seed " + std::to_string(seed) + " kind " + printed(kind) + " executors " +
               std::to_string(executors) + " producers " + std::to_string(producers) + " batch " +
               std::to_string(policy.max_batch_size) + " delay " +
               std::to_string(policy.max_queue_delay) + " queue " +
               std::to_string(policy.max_queue_size) + " resize " + printed(resize) + " early " +
               printed(close_early) + " ending " + printed(ending) + "]";
    }
};

inline Policy random_policy(Random& random) {
    static constexpr std::uint32_t kSizes[] = {1, 2, 3, 4, 7, 8, 16, 33, 64};
    Policy policy;
    policy.max_batch_size = kSizes[random() % std::size(kSizes)];
    if (one_in(random, 3)) policy.max_queue_delay = static_cast<Nanos>(random() % 1'000'000);
    if (one_in(random, 2)) policy.max_queue_size = 1 + random() % 100;
    policy.caller_runs = !one_in(random, 4);
    return policy;
}

inline Config random_config(unsigned seed, unsigned requests) {
    Random random(seed);
    random.discard(8);
    Config config;
    config.seed = seed;
    config.policy = random_policy(random);
    const unsigned kind = static_cast<unsigned>(random() % 6);
    config.kind = kind == 0 ? Kind::Inline : kind == 1 ? Kind::Native : Kind::Threads;
    config.executors = config.kind == Kind::Inline ? 1 : 1 + random() % 3;
    config.producers = 1 + random() % 6;
    config.requests = 1 + requests / config.producers;
    config.model_time = random() % 3;
    config.resize = one_in(random, 3);
    config.close_early = one_in(random, 3);
    config.ending = static_cast<Ending>(random() % 4);
    return config;
}

// -- the account --

/// What the callers saw; in the end the engine must have counted the same.
struct Account {
    std::atomic<std::uint64_t> submitted{0}, completed{0}, failed{0}, cancelled{0}, expired{0},
        closed{0}, rejected{0}, led{0}, withdrawn{0};
    std::atomic<bool> refusing{false};    // close(drain=False) may have happened
    std::atomic<bool> abandoning{false};  // running batches may be abandoned

    void compare(const Statistics& s) const {
        CHECK_EQUAL(s.submitted, submitted.load());
        CHECK_EQUAL(s.completed, completed.load());
        CHECK_EQUAL(s.failed, failed.load());
        CHECK_EQUAL(s.cancelled, cancelled.load());
        CHECK_EQUAL(s.cancelled, withdrawn.load());
        CHECK_EQUAL(s.expired, expired.load());
        CHECK_EQUAL(s.closed, closed.load());
        CHECK_EQUAL(s.rejected, rejected.load());
        CHECK_EQUAL(s.led, led.load());
        CHECK_EQUAL(s.submitted, s.completed + s.failed + s.cancelled + s.expired + s.closed);
        CHECK_EQUAL(s.queue_depth, 0u);
        CHECK_EQUAL(s.batch_size.sum, s.rows);
        CHECK(s.rows >= s.completed + s.failed);
        std::uint64_t batches = 0;
        for (const std::uint64_t count : s.dispatched) batches += count;
        CHECK_EQUAL(batches, s.batches);
        std::uint64_t waits = 0;
        for (const std::uint64_t count : s.queue_duration.counts) waits += count;
        CHECK_EQUAL(waits, s.rows);
    }
};

/// Enters how a request ended if no model ran for it, or none that was waited for. False: its
/// outcome is the model's.
inline bool enter_unanswered(Account& account, const Batch& batch, std::uint32_t index,
                             Nanos deadline) {
    switch (batch.slot(index)) {
        case SlotState::Queued:
            CHECK(false, "a batch that is done leaves nobody queued");
            return true;
        case SlotState::Cancelled:
            ++account.cancelled;
            return true;
        case SlotState::Expired:
            CHECK(deadline <= SteadyClock::instance().now(), "not before its deadline");
            ++account.expired;
            return true;
        case SlotState::Refused:
            CHECK(account.refusing.load(), "refused only after close(drain=False)");
            ++account.closed;
            return true;
        case SlotState::Claimed:
            break;
    }
    CHECK(batch.done());
    if (batch.outcome() != Outcome::Abandoned) return false;
    CHECK(account.abandoning.load());
    ++account.closed;
    return true;
}

/// The answers of all batches; each must come back from the engine once.
class Tenants {
  public:
    void settle_in(Batch& batch) {
        auto answers = std::make_unique<Answers>(batch.capacity());
        batch.tenant = answers.get();
        batch.outputs = {answers.get()};
        const std::lock_guard lock(mutex_);
        all_.push_back(std::move(answers));
    }
    static void give_back(void* tenant) {
        CHECK(!static_cast<Answers*>(tenant)->returned.exchange(true), "handed over once");
    }
    void check_all_returned() {
        for (const auto& answers : all_) CHECK(answers->returned.load(), "nothing was forgotten");
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Answers>> all_;  // under mutex_
};

/// A request whose end its producer waits for.
struct Pending {
    Batch* batch = nullptr;  // retained
    std::uint32_t index = 0;
    std::uint64_t key = 0;
    Nanos deadline = kNever;

    /// Looks at how it ended and enters that into the account.
    void enter(Account& account) const {
        if (enter_unanswered(account, *batch, index, deadline)) return;
        const std::uint32_t place = batch->row_of(index);
        const auto* answers = static_cast<const Answers*>(batch->outputs.at(0));
        if (batch->outcome() == Outcome::Failed || answers->errors[place] != 0) {
            ++account.failed;
            return;
        }
        const Row row = make_row(key);
        for (std::size_t word = 0; word < kWords; ++word) {
            CHECK_EQUAL(answers->rows[place][word], answer_to(row[word]));
        }
        ++account.completed;
    }
};

// -- ends --

inline void close(Engine& engine, Account& account, Ending ending) {
    account.refusing = ending != Ending::Drain;
    account.abandoning = ending == Ending::Abandon;
    if (ending == Ending::Drain || ending == Ending::DrainThenRefuse) {
        engine.close(/*drain=*/true);
        std::this_thread::yield();
    }
    if (ending != Ending::Drain) engine.close(/*drain=*/false);
    if (ending == Ending::Abandon) {
        engine.abandon_running();
        std::this_thread::yield();
        engine.abandon_running();
    }
}

/// Closes after some of the requests, or when `stopping` says that there are no more.
inline void close_early(Engine& engine, Account& account, const Config& config,
                        const std::atomic<bool>& stopping) {
    Random random(config.seed + 6);
    const std::uint64_t enough = random() % (std::uint64_t{config.requests} * config.producers);
    while (account.submitted < enough && !stopping) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 100));
    }
    close(engine, account, config.ending);
}

// -- the program --

/// Runs a test of each configuration: PROGRAM [seed [configurations [requests]]]; the environment's
/// TIDEGATE_STRESS_SCALE multiplies their number.
template <typename Test>
int run_configurations(int argc, char** argv, unsigned configurations, unsigned requests,
                       Config (*config_of)(unsigned seed, unsigned requests)) {
    const auto argument = [argc, argv](int index, unsigned otherwise) {
        if (index >= argc) return otherwise;
        return static_cast<unsigned>(std::strtoul(argv[index], nullptr, 10));
    };
    const unsigned seed = argument(1, 1);
    configurations = argument(2, configurations);
    requests = argument(3, requests);
    if (const char* scale = std::getenv("TIDEGATE_STRESS_SCALE")) {
        configurations *= static_cast<unsigned>(std::strtoul(scale, nullptr, 10));
    }
    for (unsigned number = 0; number < configurations; ++number) {
        fail_if_hung();
        const Config config = config_of(seed + number, requests);
        context = config.description();
        Test(config).run();
    }
    std::printf("%u configurations from seed %u\n", configurations, seed);
    return 0;
}

}  // namespace tidegate::testing
