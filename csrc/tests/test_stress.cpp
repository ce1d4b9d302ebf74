// Everything at once, at random: each row's answer is its own, each request ends once, and the
// counters add up.
//
//   test_stress [seed [configurations [requests]]]
//
// Each configuration follows from its seed; the environment's TIDEGATE_STRESS_SCALE multiplies
// their number. Run under ThreadSanitizer it must fail in a build with TIDEGATE_WEAKEN_COMMIT.
#include <algorithm>
#include <set>

#include "stress.hpp"
#include "tidegate/native_executor.hpp"

using namespace tidegate;
using namespace tidegate::testing;

namespace {

constexpr std::size_t kHeld = 4;  // batches that an executor runs before it ends the first

class Stress {
  public:
    explicit Stress(const Config& config)
        : config_(config),
          engine_(config.policy),
          lane_(engine_.add_lane({kFirstWords * 8, (kWords - kFirstWords) * 8})) {}

    void run() {
        start_executors();
        std::vector<std::thread> producers;
        std::vector<std::thread> helpers;
        for (unsigned number = 0; number < config_.producers; ++number) {
            producers.emplace_back([this, number] { produce(number); });
        }
        helpers.emplace_back([this] { cancel_for_others(); });
        if (config_.resize) helpers.emplace_back([this] { resize(); });
        if (config_.close_early)
            helpers.emplace_back([this] { close_early(engine_, account_, config_, stopping_); });
        for (std::thread& producer : producers) producer.join();
        stopping_ = true;
        for (std::thread& helper : helpers) helper.join();
        if (!config_.close_early) close(engine_, account_, config_.ending);
        CHECK(engine_.wait_drained(kNever));
        stopping_inline_ = true;
        for (std::thread& thread : executors_) thread.join();
        native_.clear();
        check_ends();
    }

  private:
    // -- executors --

    void start_executors() {
        for (unsigned number = 0; number < config_.executors; ++number) {
            instances_.push_back(std::make_unique<Instance>(config_.seed * 64 + number));
            Instance& instance = *instances_.back();
            instance.model_time = config_.model_time;
            if (config_.kind == Kind::Native) {
                native_.push_back(
                    std::make_unique<NativeExecutor>(engine_, native_model, &instance));
                continue;
            }
            instance.executor = &engine_.add_executor(
                config_.kind == Kind::Inline ? ExecutorKind::Inline : ExecutorKind::Thread);
        }
        // Leaders look the instance up, so all of them are known before the first request.
        for (auto& instance : instances_) {
            if (config_.kind == Kind::Threads) {
                executors_.emplace_back([this, &instance = *instance] { serve(instance); });
            } else if (config_.kind == Kind::Inline) {
                executors_.emplace_back([this] {
                    while (!stopping_inline_) {
                        if (!run_inline()) std::this_thread::yield();
                    }
                });
            }
        }
    }

    /// What an executor thread does, with a stand-in for the GIL's gate.
    void serve(Instance& instance) {
        Executor& executor = *instance.executor;
        Random random(config_.seed + 17);
        while (engine_.await_work(executor) == Status::Ok) {
            if (one_in(random, 4)) {
                const Nanos wanted_at = engine_.want_gil(executor);
                if (one_in(random, 4)) std::this_thread::yield();
                engine_.got_gil(executor, wanted_at);
            }
            std::array<Taken, kHeld> held;
            std::array<int, kHeld> errors{};
            if (engine_.seal(executor, held[0]) != Status::Ok) continue;
            std::size_t count = 0;
            do {
                errors[count] = run_model(instance, held[count]);
                ++count;
            } while (count < kHeld && !one_in(random, 3) &&
                     engine_.seal_next(executor, held[count]) == Status::Ok);
            for (std::size_t i = 0; i < count; ++i) finish(executor, held[i], errors[i]);
        }
    }

    /// Claims the rows and runs the model; returns what it returned.
    int run_model(Instance& instance, Taken& taken) {
        taken.slab->wait_committed(taken.reserved);
        const std::uint32_t rows = engine_.claim(taken);
        int errors = 0;
        if (rows > 0) {
            const void* inputs[] = {taken.slab->column(0), taken.slab->column(1)};
            errors = instance.call(rows, inputs, *static_cast<Answers*>(taken.tenant));
        }
        Tenants::give_back(taken.tenant);
        // Whoever looked at the rows after this would see it.
        std::memset(taken.slab->column(0), 0xDD, taken.reserved * kFirstWords * 8);
        if (!engine_.keeps_memory(taken)) memory_.let_go(taken.slab->detach());
        return errors;
    }

    void finish(Executor& executor, Taken& taken, int errors) {
        engine_.finish(executor, taken, errors < 0 ? Outcome::Failed : Outcome::Completed, 0,
                       errors < 0 ? 0 : static_cast<std::uint32_t>(errors));
    }

    bool run_inline() {
        Instance& instance = *instances_.front();
        Taken taken;
        if (engine_.try_take(*instance.executor, taken) != Status::Ok) return false;
        const int errors = run_model(instance, taken);
        finish(*instance.executor, taken, errors);
        engine_.give_back(*instance.executor);
        return true;
    }

    void lead(Executor& executor, Taken& taken, const Reservation& reservation) {
        CHECK(taken.batch == reservation.batch, "a leader runs its own batch");
        ++account_.led;
        const auto instance =
            std::find_if(instances_.begin(), instances_.end(),
                         [&](const auto& candidate) { return candidate->executor == &executor; });
        CHECK(instance != instances_.end(), "nobody can lead for a native model");
        const int errors = run_model(**instance, taken);
        finish(executor, taken, errors);
        engine_.give_back(executor);
    }

    // -- producers --

    /// Reserves, copies and commits `least` to `most` rows; Ok adds them to `pending`.
    Status submit(Random& random, std::uint64_t& key, std::uint32_t least, std::uint32_t most,
                  bool may_lead, std::vector<Pending>& pending) {
        Nanos deadline = kNever;
        if (one_in(random, 8)) {
            deadline = engine_.clock().now() + static_cast<Nanos>(random() % 1'000'000);
        }
        Reservation reservation;
        Status status = Status::Ok;
        while ((status = engine_.reserve(lane_, least, most, deadline, reservation)) ==
               Status::BufferNeeded) {
            memory_.give(engine_, lane_, engine_.max_batch_size());
        }
        if (status != Status::Ok) return status;
        account_.submitted += reservation.count;
        if (reservation.index == 0) tenants_.settle_in(*reservation.batch);
        for (std::uint32_t row = 0; row < reservation.count; ++row) {
            const std::uint32_t index = reservation.index + row;
            write_row(*reservation.slab, index, make_row(key), one_in(random, 64));
            reservation.batch->retain();
            pending.push_back({reservation.batch, index, key, deadline});
            ++key;
        }
        if (!may_lead) {
            engine_.commit(lane_, reservation);
            return Status::Ok;
        }
        Executor* executor = nullptr;
        Taken taken;
        if (engine_.commit_or_lead(lane_, reservation, executor, taken)) {
            lead(*executor, taken, reservation);
        }
        return Status::Ok;
    }

    void produce(unsigned number) {
        Random random(config_.seed * 64 + 32 + number);
        random.discard(8);
        Port* const port = new Port(/*blocking=*/true);
        std::uint64_t key = std::uint64_t{number + 1} << 40;
        const std::uint64_t last = key + config_.requests;
        bool closed = false;
        while (key < last && !closed) {
            std::vector<Pending> pending;
            const unsigned style = static_cast<unsigned>(random() % 6);
            const std::uint32_t rows = style < 2 ? 1 : 1 + random() % 24;
            const bool together = style == 2;
            while (pending.size() < rows) {
                const auto left = static_cast<std::uint32_t>(rows - pending.size());
                const std::uint32_t most = style < 4 ? left : 1;
                const Status status = submit(random, key, together ? std::min(left, 8u) : 1, most,
                                             style == 0, pending);
                if (status == Status::Ok) continue;
                closed = status == Status::Closed;
                if (closed || one_in(random, 2)) {
                    if (!closed) reject(left);
                    break;
                }
                wait_for_room(random);
                if (together) break;  // it may never fit
            }
            withdraw_some(random, pending);
            if (style == 5) {
                await_notices(random, *port, pending);
            } else {
                for (const Pending& request : pending) await(random, request);
            }
            for (const Pending& request : pending) {
                request.enter(account_);
                request.batch->release();
            }
        }
        port->release();
    }

    void reject(std::uint32_t rows) {
        engine_.count_rejected(rows);
        account_.rejected += rows;
    }

    void wait_for_room(Random& random) {
        if (config_.kind == Kind::Inline) run_inline();
        Batch* const batch = engine_.pending_batch(&lane_);
        if (batch == nullptr) return std::this_thread::yield();
        const Nanos patience = one_in(random, 2) ? kNever : engine_.clock().now() + kMillisecond;
        batch->wait(0xffff'ffff, patience, 0, engine_.clock());
        batch->release();
    }

    /// Takes some requests back, or has another thread do it while this one waits for them.
    void withdraw_some(Random& random, const std::vector<Pending>& pending) {
        if (!one_in(random, 4)) return;
        for (const Pending& request : pending) {
            if (one_in(random, 4)) {
                withdraw(*request.batch, request.index);
            } else if (one_in(random, 4)) {
                request.batch->retain();
                const std::lock_guard lock(victims_mutex_);
                victims_.emplace_back(request.batch, request.index);
            }
        }
    }

    void withdraw(Batch& batch, std::uint32_t index) {
        if (engine_.settle(batch, index, SlotState::Cancelled)) ++account_.withdrawn;
    }

    void await(Random& random, const Pending& request) {
        for (;;) {
            if (config_.kind == Kind::Inline && one_in(random, 2)) run_inline();
            const Nanos now = engine_.clock().now();
            const Nanos deadline = one_in(random, 4) ? now + 20 * kMicrosecond : kNever;
            const Nanos spin = one_in(random, 2) ? 10 * kMicrosecond : 0;
            const WaitResult result =
                request.batch->wait(request.index, deadline, spin, engine_.clock());
            if (result == WaitResult::TimedOut) {
                CHECK(deadline != kNever);
                continue;
            }
            CHECK(result != WaitResult::Interrupted);
            return;
        }
    }

    /// Waits for the batches of all requests by notices, as an event loop does.
    void await_notices(Random& random, Port& port, const std::vector<Pending>& pending) {
        std::set<void*> awaited;
        for (const Pending& request : pending) {
            if (awaited.contains(request.batch)) continue;
            if (request.batch->subscribe(port, request.batch)) awaited.insert(request.batch);
        }
        if (!awaited.empty() && one_in(random, 8)) {
            auto* const batch = static_cast<Batch*>(*awaited.begin());
            if (void* token = batch->unsubscribe(port)) {
                CHECK(token == batch);
                awaited.erase(token);
                batch->wait(0xffff'ffff, kNever, 0, engine_.clock());
            }
        }
        std::vector<Notice> notices;
        while (!awaited.empty()) {
            port.take(notices);
            for (const Notice& notice : notices) {
                CHECK(awaited.contains(notice.token), "no notice after the last");
                if (notice.kind == NoticeKind::Finished) awaited.erase(notice.token);
            }
        }
        for (const Pending& request : pending) CHECK(request.batch->done());
        CHECK_EQUAL(port.in_flight(), 0u);
    }

    // -- what else happens --

    void cancel_for_others() {
        for (;;) {
            std::vector<std::pair<Batch*, std::uint32_t>> victims;
            const bool last = stopping_;
            {
                const std::lock_guard lock(victims_mutex_);
                victims.swap(victims_);
            }
            for (const auto& [batch, index] : victims) {
                withdraw(*batch, index);
                batch->release();
            }
            if (last) return;
            std::this_thread::sleep_for(std::chrono::microseconds(30));
        }
    }

    void resize() {
        Random random(config_.seed + 5);
        while (!stopping_) {
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
            engine_.set_policy(random_policy(random));
        }
    }

    void check_ends() {
        const Statistics statistics = engine_.statistics();
        account_.compare(statistics);
        const ExecutorState end =
            config_.kind == Kind::Inline ? ExecutorState::Idle : ExecutorState::Gone;
        for (const ExecutorSnapshot& executor : statistics.executors) CHECK(executor.state == end);
        void* orphans[8];
        while (const std::size_t count = engine_.take_orphans(orphans, 8)) {
            for (std::size_t i = 0; i < count; ++i) {
                if (memory_.owns(orphans[i])) {  // which a native executor did not keep
                    memory_.let_go(orphans[i]);
                } else {
                    Tenants::give_back(orphans[i]);
                }
            }
        }
        tenants_.check_all_returned();
        for (void* owner : engine_.detach_all()) memory_.let_go(owner);
        CHECK_EQUAL(memory_.size(), 0u);
    }

    const Config config_;
    Account account_;
    Memory memory_;
    Tenants tenants_;
    std::vector<std::unique_ptr<Instance>> instances_;
    Engine engine_;
    Lane& lane_;
    std::vector<std::thread> executors_;
    std::vector<std::unique_ptr<NativeExecutor>> native_;
    std::atomic<bool> stopping_{false};
    std::atomic<bool> stopping_inline_{false};
    std::mutex victims_mutex_;
    std::vector<std::pair<Batch*, std::uint32_t>> victims_;  // retained; under victims_mutex_
};

}  // namespace

int main(int argc, char** argv) {
    return run_configurations<Stress>(argc, argv, 100, 2'500, random_config);
}
