// tidegate._engine: the nouns of the core for Python - engine, policy, statistics.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>

#include "engine_owner.hpp"
#include "tidegate/statistics.hpp"

namespace py = pybind11;

namespace tidegate::bindings {

namespace {

/// By DispatchReason.
constexpr std::array<const char*, kDispatchReasons> kReasons{"full", "idle", "delay", "drain",
                                                             "cost"};

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

double seconds(Nanos duration) { return static_cast<double>(duration) * 1e-9; }

Nanos nanoseconds(double duration) {
    // Anything past a century means never.
    return duration > 3e9 ? kNever : static_cast<Nanos>(duration * 1e9);
}

/// (upper edge, count) of each bucket that is not empty, edges scaled to the caller's unit.
py::dict histogram(const HistogramSnapshot& snapshot, double scale) {
    py::list edges;
    py::list counts;
    std::uint64_t total = 0;
    for (int i = 0; i < HistogramSnapshot::kBuckets; ++i) {
        const std::uint64_t count = snapshot.counts[static_cast<std::size_t>(i)];
        if (count == 0) continue;
        const std::uint64_t edge = HistogramSnapshot::upper_edge(i) + snapshot.least;
        edges.append(static_cast<double>(edge) * scale);
        counts.append(count);
        total += count;
    }
    py::dict result;
    result["upper_edges"] = py::tuple(edges);
    result["counts"] = py::tuple(counts);
    result["count"] = total;
    result["sum"] = static_cast<double>(snapshot.sum) * scale;
    return result;
}

const char* name_of(ExecutorState state) {
    switch (state) {
        case ExecutorState::Idle:
        case ExecutorState::Lingering:
            return "idle";
        case ExecutorState::Signalled:
        case ExecutorState::Busy:
            return "busy";
        case ExecutorState::Lent:
            return "lent";
        case ExecutorState::Gone:
            return "gone";
    }
    return "unknown";
}

py::dict statistics(const EngineOwner& owner) {
    const Statistics now = owner.engine().statistics();
    py::dict result;
    result["submitted"] = now.submitted;
    result["completed"] = now.completed;
    result["failed"] = now.failed;
    result["cancelled"] = now.cancelled;
    result["expired"] = now.expired;
    result["closed"] = now.closed;
    result["rejected"] = now.rejected;
    result["batches"] = now.batches;
    result["rows"] = now.rows;
    result["led"] = now.led;
    result["padding_rows"] = now.padding_rows;
    result["tokens"] = now.tokens;
    result["padding_tokens"] = now.padding_tokens;
    result["queue_depth"] = now.queue_depth;
    py::dict dispatched;
    for (std::size_t i = 0; i < kDispatchReasons; ++i) dispatched[kReasons[i]] = now.dispatched[i];
    result["dispatched"] = dispatched;
    result["queue_duration"] = histogram(now.queue_duration, 1e-9);
    result["request_duration"] = histogram(now.request_duration, 1e-9);
    result["batch_duration"] = histogram(now.batch_duration, 1e-9);
    result["batch_size"] = histogram(now.batch_size, 1.0);
    py::list executors;
    for (const ExecutorSnapshot& executor : now.executors) {
        executors.append(py::make_tuple(name_of(executor.state), executor.busy_for));
    }
    result["executors"] = py::tuple(executors);
    return result;
}

const char* name_of(Outcome outcome) {
    switch (outcome) {
        case Outcome::None:
        case Outcome::Completed:
            return "completed";
        case Outcome::Failed:
            return "failed";
        case Outcome::Abandoned:
            return "abandoned";
    }
    return "unknown";
}

/// The fields of tidegate.recorder.BatchRecord, in its order.
py::list recent_batches(const EngineOwner& owner) {
    std::vector<BatchRecord> records(Recorder::kCapacity);
    // Copying some thousand records takes longer than a holder of the GIL may keep the mutex.
    records.resize(
        without_gil([&]() noexcept { return owner.engine().recent_batches(records.data()); }));
    py::list result;
    for (const BatchRecord& record : records) {
        const py::object delivered = record.delivered == kNever
                                         ? py::object(py::none())
                                         : py::float_(seconds(record.delivered));
        result.append(py::make_tuple(
            record.sequence, seconds(record.submitted), seconds(record.taken),
            seconds(record.model_started), seconds(record.model_ended), delivered, record.rows,
            record.failed_rows, kReasons[static_cast<std::size_t>(record.reason)],
            name_of(record.outcome), record.executor, record.led));
    }
    return result;
}

py::capsule capsule(const std::shared_ptr<EngineOwner>& owner) {
    auto* handle = new SharedHandle{{&waist(), &owner->engine()}, owner};
    return py::capsule(static_cast<EngineHandle*>(handle), kCapsuleName, [](PyObject* object) {
        void* pointer = PyCapsule_GetPointer(object, kCapsuleName);
        delete static_cast<SharedHandle*>(static_cast<EngineHandle*>(pointer));
    });
}

py::object max_batch_cost(const Policy& policy) {
    if (policy.max_batch_cost == kNoLimit) return py::none();
    return py::float_(policy.max_batch_cost);
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
    module.doc() = "The engine of tidegate: policies, statistics, ends of life.";

    py::class_<Policy>(module, "Policy", "What a batcher does when; validated, immutable.")
        .def(py::init([](std::uint32_t max_batch_size, double max_queue_delay,
                         std::uint64_t max_queue_size, bool caller_runs,
                         std::optional<double> max_batch_cost) {
                 Policy policy{max_batch_size, nanoseconds(max_queue_delay), max_queue_size,
                               caller_runs, max_batch_cost.value_or(kNoLimit)};
                 policy.validate();
                 return policy;
             }),
             py::kw_only(), py::arg("max_batch_size"), py::arg("max_queue_delay"),
             py::arg("max_queue_size"), py::arg("caller_runs"),
             py::arg("max_batch_cost") = py::none(),
             "Delays in seconds, sizes in rows; max_queue_size 0 picks the default bound.")
        .def_readonly("max_batch_size", &Policy::max_batch_size, "Rows.")
        .def_property_readonly(
            "max_queue_delay", [](const Policy& policy) { return seconds(policy.max_queue_delay); },
            "Seconds.")
        .def_property_readonly("max_queue_size", &Policy::queue_rows, "Rows.")
        .def_readonly("caller_runs", &Policy::caller_runs,
                      "Whether a waiting caller may run a batch itself.")
        .def_property_readonly("max_batch_cost", &max_batch_cost, "None if there is no limit.")
        .def("__repr__", [](const Policy& policy) {
            const py::object cost = max_batch_cost(policy);
            return py::str(
                       "Policy(max_batch_size={}, max_queue_delay={}, max_queue_size={}, "
                       "caller_runs={}{})")
                .format(policy.max_batch_size, seconds(policy.max_queue_delay), policy.queue_rows(),
                        policy.caller_runs,
                        cost.is_none() ? py::str() : py::str(", max_batch_cost={}").format(cost));
        });

    py::class_<EngineOwner, std::shared_ptr<EngineOwner>>(
        module, "Engine", "Queue, batch timer and counters of one batcher.")
        .def(py::init<const Policy&>(), py::arg("policy"))
        .def_property(
            "policy", [](const EngineOwner& owner) { return owner.engine().policy(); },
            [](EngineOwner& owner, const Policy& policy) {
                policy.validate();
                without_gil([&]() noexcept { owner.engine().set_policy(policy); });
            },
            "The policy in force; may be replaced while running.")
        .def("capsule", &capsule, "The core's table of functions for this engine.")
        .def("statistics", &statistics, "A snapshot of counters and histograms.")
        .def("recent_batches", &recent_batches, "The last few thousand batches, oldest first.")
        .def("close", &EngineOwner::close, py::kw_only(), py::arg("drain"),
             "Refuses new requests; serves (drain) or refuses the waiting ones.")
        .def("abandon_running", &EngineOwner::abandon_running,
             "Ends the batches that a model still holds, as closed.")
        .def("wait_drained", &EngineOwner::wait_drained, py::arg("timeout"),
             "Waits until nothing waits or runs; None means without limit. False in time-out.")
        .def_property_readonly(
            "accepting", [](const EngineOwner& owner) { return owner.engine().accepting(); },
            "Whether new requests are taken.")
        .def("start_native", &EngineOwner::start_native, py::arg("address"), py::arg("user_data"),
             py::arg("code"),
             "Starts a native thread that runs the C function at `address`, a part of `code`.")
        .def("join_native", &EngineOwner::join_native, "Waits for the native threads to end.");
}

}  // namespace tidegate::bindings
