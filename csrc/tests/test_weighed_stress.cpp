// Rows that weigh, everything at once, at random: each row's tokens are its own, each request ends
// once, and the counters add up.
//
//   test_weighed_stress [seed [configurations [requests]]]
//
// Several producers fill several ragged lanes with rows of random lengths and costs, cancel some,
// give others deadlines, and lead; the policy changes meanwhile, and some engines close early.
#include <map>

#include "stress.hpp"

using namespace tidegate;
using namespace tidegate::testing;

namespace {

constexpr std::size_t kLanes = 3;
constexpr std::uint32_t kLongest = 12;
constexpr std::uint32_t kMostCost = 20;

/// Token `position` of a row; no two are alike.
std::uint64_t token_of(std::uint64_t key, std::uint32_t position) {
    return (key << 8 | position) * 0x9E37'79B9'7F4A'7C15u;
}

/// What a row has besides its tokens.
struct Plain {
    std::uint64_t key;
    std::uint32_t length;
    std::uint32_t lane;
};

/// What each row of a batch was answered: the batch's tenant.
struct RowAnswers {
    struct Answer {
        Plain plain{};
        std::vector<std::uint64_t> tokens;
    };
    explicit RowAnswers(std::uint32_t capacity) : rows(capacity) {}
    std::vector<Answer> rows;
    std::atomic<bool> returned{false};
};

/// Staging memory; an allocation is let go of when the engine returns its owner.
class RaggedMemory {
  public:
    void give(Engine& engine, Lane& lane, std::uint32_t rows, std::uint32_t tokens) {
        auto buffer = std::make_unique<Buffer>();
        buffer->tokens.resize(std::size_t{tokens} * 8 + 1);
        buffer->plain.resize(std::size_t{rows} * sizeof(Plain));
        buffer->offsets.resize(rows + 1);
        Buffer* const owner = buffer.get();
        {
            const std::lock_guard lock(mutex_);
            buffers_[owner] = std::move(buffer);
        }
        if (void* replaced =
                engine.add_buffer(lane, rows, {owner->tokens.data(), owner->plain.data()}, owner,
                                  {tokens, owner->offsets.data()})) {
            let_go(replaced);
        }
    }
    void let_go(void* owner) {
        const std::lock_guard lock(mutex_);
        CHECK_EQUAL(buffers_.erase(owner), 1u);
    }
    std::size_t size() const {
        const std::lock_guard lock(mutex_);
        return buffers_.size();
    }

  private:
    struct Buffer {
        std::vector<std::byte> tokens, plain;
        std::vector<std::int32_t> offsets;
    };
    mutable std::mutex mutex_;
    std::map<void*, std::unique_ptr<Buffer>> buffers_;  // under mutex_
};

/// A request whose end its producer waits for.
struct Asked {
    Batch* batch;  // retained
    std::uint32_t index;
    Plain plain;
    Nanos deadline;
};

Policy policy_of(Random& random) {
    Policy policy = random_policy(random);
    policy.max_queue_size = 1 + random() % 200;
    if (!one_in(random, 4)) {
        policy.max_batch_cost = static_cast<double>(kMostCost + random() % 80);
    }
    return policy;
}

class WeighedStress {
  public:
    explicit WeighedStress(const Config& config) : config_(config), engine_(config.policy) {
        for (std::size_t number = 0; number < kLanes; ++number) {
            lanes_.push_back(&engine_.add_weighed_lane({8, sizeof(Plain)}, {true, false}));
        }
        for (unsigned number = 0; number < config_.executors; ++number) {
            executors_.push_back(&engine_.add_executor(
                config_.kind == Kind::Inline ? ExecutorKind::Inline : ExecutorKind::Thread));
        }
    }

    void run() {
        std::vector<std::thread> models, producers, helpers;
        for (Executor* executor : executors_) {
            models.emplace_back([this, executor] {
                config_.kind == Kind::Inline ? run_inline_until_the_end(*executor)
                                             : serve(*executor);
            });
        }
        for (unsigned number = 0; number < config_.producers; ++number) {
            producers.emplace_back([this, number] { produce(number); });
        }
        if (config_.resize) helpers.emplace_back([this] { change_policy(); });
        if (config_.close_early)
            helpers.emplace_back([this] { close_early(engine_, account_, config_, stopping_); });
        for (std::thread& producer : producers) producer.join();
        stopping_ = true;
        for (std::thread& helper : helpers) helper.join();
        if (!config_.close_early) close(engine_, account_, config_.ending);
        CHECK(engine_.wait_drained(kNever));
        stopping_inline_ = true;
        for (std::thread& thread : models) thread.join();
        check_ends();
    }

  private:
    // -- executors --

    void serve(Executor& executor) {
        Random random(config_.seed + 17);
        while (engine_.await_work(executor) == Status::Ok) {
            Taken taken;
            if (engine_.seal(executor, taken) != Status::Ok) continue;
            run_model(executor, taken, random);
            while (one_in(random, 2) && engine_.seal_next(executor, taken) == Status::Ok) {
                run_model(executor, taken, random);
            }
        }
    }

    void run_inline_until_the_end(Executor& executor) {
        Random random(config_.seed + 18);
        while (!stopping_inline_) {
            Taken taken;
            if (engine_.try_take(executor, taken) == Status::Ok) {
                run_model(executor, taken, random);
                engine_.give_back(executor);
            } else {
                std::this_thread::yield();
            }
        }
    }

    /// Claims the rows, answers each with twice its tokens, and ends the batch.
    void run_model(Executor& executor, Taken& taken, Random& random) {
        taken.slab->wait_committed(taken.reserved);
        const std::uint32_t rows = engine_.claim(taken);
        auto* const answers = static_cast<RowAnswers*>(taken.tenant);
        const std::int32_t* const offsets = taken.slab->offsets();
        CHECK_EQUAL(offsets[0], 0);
        CHECK(offsets[rows] <= static_cast<std::int32_t>(taken.slab->token_capacity()));
        for (std::uint32_t row = 0; row < rows; ++row) {
            RowAnswers::Answer& answer = answers->rows[row];
            std::memcpy(&answer.plain, taken.slab->column(1) + row * sizeof(Plain), sizeof(Plain));
            CHECK(taken.lane == lanes_[answer.plain.lane], "a row stays in its lane");
            for (std::int32_t at = offsets[row]; at < offsets[row + 1]; ++at) {
                std::uint64_t token = 0;
                std::memcpy(&token, taken.slab->column(0) + at * 8, 8);
                answer.tokens.push_back(answer_to(token));
            }
        }
        if (config_.model_time == 1) std::this_thread::yield();
        CHECK(!answers->returned.exchange(true), "handed over once");
        // Whoever looked at the rows after this would see it.
        std::memset(taken.slab->column(0), 0xDD, std::size_t{taken.slab->token_capacity()} * 8);
        if (!engine_.keeps_memory(taken)) memory_.let_go(taken.slab->detach());
        const bool fails = one_in(random, 32);
        engine_.finish(executor, taken, fails ? Outcome::Failed : Outcome::Completed, 0, 0);
    }

    // -- producers --

    void produce(unsigned number) {
        Random random(config_.seed * 64 + 32 + number);
        random.discard(8);
        std::uint64_t key = std::uint64_t{number + 1} << 40;
        const std::uint64_t last = key + config_.requests;
        bool closed = false;
        while (key < last && !closed) {
            std::vector<Asked> asked;
            const std::size_t count = one_in(random, 3) ? 1 : 1 + random() % 16;
            while (asked.size() < count) {
                const Status status = submit(random, key, count == 1, asked);
                if (status == Status::Ok) continue;
                closed = status == Status::Closed;
                CHECK(closed || status == Status::QueueFull);
                if (closed || one_in(random, 2)) {
                    if (!closed) engine_.count_rejected(1), ++account_.rejected;
                    break;
                }
                wait_for_room();
            }
            for (const Asked& request : asked) {
                if (one_in(random, 8) &&
                    engine_.settle(*request.batch, request.index, SlotState::Cancelled)) {
                    ++account_.withdrawn;
                }
            }
            for (const Asked& request : asked) {
                request.batch->wait(request.index, kNever, 0, engine_.clock());
                enter(request);
                request.batch->release();
            }
        }
    }

    Status submit(Random& random, std::uint64_t& key, bool may_lead, std::vector<Asked>& asked) {
        const auto number = static_cast<std::uint32_t>(random() % kLanes);
        Lane& lane = *lanes_[number];
        const auto length = static_cast<std::uint32_t>(random() % (kLongest + 1));
        Weight weight{length, static_cast<double>(random() % (kMostCost + 1))};
        if (one_in(random, 2)) weight.room = 4 * kLongest;
        const Plain plain{key, length, number};
        Nanos deadline = kNever;
        if (one_in(random, 8)) {
            deadline = engine_.clock().now() + static_cast<Nanos>(random() % 1'000'000);
        }
        Reservation reservation;
        Status status = Status::Ok;
        while ((status = engine_.reserve_weighed(lane, weight, deadline, reservation)) ==
               Status::BufferNeeded) {
            memory_.give(engine_, lane, engine_.max_batch_size(), std::max(weight.room, length));
        }
        if (status != Status::Ok) return status;
        ++account_.submitted;
        if (reservation.index == 0) settle_in(*reservation.batch);
        for (std::uint32_t position = 0; position < length; ++position) {
            const std::uint64_t token = token_of(key, position);
            std::memcpy(
                reservation.slab->column(0) + std::size_t{reservation.first_token + position} * 8,
                &token, 8);
            if (position == 0 && one_in(random, 64)) std::this_thread::yield();
        }
        std::memcpy(reservation.slab->column(1) + reservation.index * sizeof(Plain), &plain,
                    sizeof(Plain));
        reservation.batch->retain();
        asked.push_back({reservation.batch, reservation.index, plain, deadline});
        ++key;
        Executor* executor = nullptr;
        Taken taken;
        if (!may_lead) {
            engine_.commit(lane, reservation);
        } else if (engine_.commit_or_lead(lane, reservation, executor, taken)) {
            CHECK(taken.batch == reservation.batch, "a leader runs its own batch");
            ++account_.led;
            run_model(*executor, taken, random);
            engine_.give_back(*executor);
        }
        return Status::Ok;
    }

    void settle_in(Batch& batch) {
        auto answers = std::make_unique<RowAnswers>(batch.capacity());
        batch.tenant = answers.get();
        batch.outputs = {answers.get()};
        const std::lock_guard lock(answers_mutex_);
        answers_.push_back(std::move(answers));
    }

    void wait_for_room() {
        Batch* const batch = engine_.pending_batch(nullptr);
        if (batch == nullptr) return std::this_thread::yield();
        batch->wait(0xffff'ffff, engine_.clock().now() + kMillisecond, 0, engine_.clock());
        batch->release();
    }

    /// Looks at how a request ended and enters that into the account.
    void enter(const Asked& request) {
        const Batch& batch = *request.batch;
        if (enter_unanswered(account_, batch, request.index, request.deadline)) return;
        if (batch.outcome() == Outcome::Failed) {
            ++account_.failed;
            return;
        }
        const auto* answers = static_cast<const RowAnswers*>(batch.outputs.at(0));
        const auto& answer = answers->rows[batch.row_of(request.index)];
        CHECK_EQUAL(answer.plain.key, request.plain.key);
        CHECK_EQUAL(answer.tokens.size(), request.plain.length);
        for (std::uint32_t position = 0; position < request.plain.length; ++position) {
            CHECK_EQUAL(answer.tokens[position], answer_to(token_of(request.plain.key, position)));
        }
        ++account_.completed;
    }

    // -- what else happens --

    void change_policy() {
        Random random(config_.seed + 5);
        while (!stopping_) {
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
            Policy policy = policy_of(random);
            if (config_.kind == Kind::Inline) policy.max_queue_delay = 0;
            engine_.set_policy(policy);
        }
    }

    void check_ends() {
        account_.compare(engine_.statistics());
        for (Lane* lane : lanes_) CHECK(engine_.is_empty(*lane));
        void* orphans[8];
        while (const std::size_t count = engine_.take_orphans(orphans, 8)) {
            for (std::size_t i = 0; i < count; ++i) {
                CHECK(!static_cast<RowAnswers*>(orphans[i])->returned.exchange(true));
            }
        }
        for (const auto& answers : answers_) {
            CHECK(answers->returned.load(), "nothing was forgotten");
        }
        for (void* owner : engine_.detach_all()) memory_.let_go(owner);
        CHECK_EQUAL(memory_.size(), 0u);
    }

    const Config config_;
    Account account_;
    RaggedMemory memory_;
    std::mutex answers_mutex_;
    std::vector<std::unique_ptr<RowAnswers>> answers_;  // under answers_mutex_
    Engine engine_;
    std::vector<Lane*> lanes_;
    std::vector<Executor*> executors_;
    std::atomic<bool> stopping_{false};
    std::atomic<bool> stopping_inline_{false};
};

Config config_of(unsigned seed, unsigned requests) {
    Config config = random_config(seed, requests);
    Random random(seed + 99);
    random.discard(8);
    config.kind = one_in(random, 4) ? Kind::Inline : Kind::Threads;
    config.executors = config.kind == Kind::Inline ? 1 : 2;
    config.producers = 2 + random() % 3;
    config.requests = 1 + requests / config.producers;
    config.policy = policy_of(random);
    if (config.kind == Kind::Inline) config.policy.max_queue_delay = 0;
    return config;
}

}  // namespace

int main(int argc, char** argv) {
    return run_configurations<WeighedStress>(argc, argv, 40, 1'500, config_of);
}
