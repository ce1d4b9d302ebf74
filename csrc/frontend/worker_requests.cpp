// Worker: the life of its requests, from the message to the answer.
#include <algorithm>
#include <utility>

#include "worker.hpp"

namespace tidegate::frontend {

namespace {

constexpr int kPushback = 1000;  // milliseconds after which to try a full queue again
constexpr std::size_t kSparePendings = 64;

}  // namespace

void Worker::arrived(Stream& stream) {
    switch (stream.method) {
        case Method::ServerLive:
            if (!stream.message.empty()) break;
            stream.answer.assign(kMessagePrefix, '\0');
            stream.answer.append("\x08\x01", 2);  // live = true
            stream.connection->finish(stream);
            return;
        case Method::ModelInfer:
        case Method::Predict:
            if (submit(stream)) return;
            break;
        default:
            break;
    }
    hand_to_python(stream);
}

bool Worker::submit(Stream& stream) {
    // Its deadline counts from its arrival, however long it was parked; if it has passed by now,
    // the batch drops the request.
    const bool again = std::exchange(stream.parked, false);
    Plan plan;
    stream.form = {};
    if (stream.method == Method::Predict) {
        PredictRequest request;
        if (!decode(stream.message, request)) return false;
        if (!make_plan(*catalogue_, request, plan, stream.form)) return false;
    } else {
        InferRequest request;
        if (!decode(stream.message, request)) return false;
        if (!make_plan(*catalogue_, request, plan, stream.form)) return false;
    }
    const Offer& offer = **plan.offer;
    // More rows than a batch has by now: Python splits them.
    if (plan.rows > 1 && plan.rows > waist_.max_batch_size(offer.engine)) return false;
    Connection& connection = *stream.connection;
    if (!again) {
        const Nanos time = connection.last_traffic();
        const Nanos timeout = plan.timeout != kNever ? plan.timeout : offer.default_timeout;
        stream.deadline = std::min(stream.deadline, add_saturating(time, timeout));
        if (stream.deadline <= time) {
            connection.fail(stream, GrpcStatus::DeadlineExceeded,
                            "the request's deadline had passed when it arrived");
            return true;
        }
    }
    Reservation reservation;
    switch (waist_.reserve(offer.engine, offer.lane, plan.rows, plan.rows, stream.deadline,
                           &reservation)) {
        case Status::Ok:
            break;
        case Status::QueueFull:
            waist_.count_rejected(offer.engine, plan.rows);
            connection.fail(stream, GrpcStatus::ResourceExhausted,
                            "the queue of '" + offer.model +
                                "' is full; try again later, or raise max_queue_size",
                            kPushback);
            return true;
        case Status::BufferNeeded:
            stream.parked = true;
            parked_.push_back(&stream);
            python_.need_buffer(offer.number);
            return true;
        default:
            connection.fail(stream, GrpcStatus::Unavailable,
                            "model '" + offer.model + "' is closed");
            return true;
    }
    const bool copied = copy_rows(plan, reservation);
    Pending& pending = pending_of(*plan.offer, reservation.batch);
    if (copied) {
        stream.form.slot = reservation.index;
        stream.pending = &pending;
        stream.waiter = pending.waiters.size();
        pending.waiters.push_back(&stream);
        requests_.fetch_add(1, std::memory_order_relaxed);
    } else {
        settle(pending, reservation.index, plan.rows);
    }
    waist_.commit(offer.engine, offer.lane, &reservation);
    return copied;
}

void Worker::settle(Pending& pending, std::uint32_t slot, std::uint32_t rows) noexcept {
    for (std::uint32_t row = slot; row < slot + rows; ++row) {
        waist_.batch_settle(pending.offer->engine, pending.batch, row, SlotState::Cancelled);
    }
}

Pending& Worker::pending_of(const std::shared_ptr<const Offer>& offer, Batch* batch) {
    if (last_ != nullptr && last_->batch == batch) return *last_;
    std::unique_ptr<Pending>& place = pendings_[batch];
    if (place == nullptr) {
        if (spare_.empty()) {
            place = std::make_unique<Pending>();
        } else {
            place = std::move(spare_.back());
            spare_.pop_back();
        }
        place->offer = offer;
        place->batch = batch;
        waist_.batch_retain(batch);
        waist_.batch_add_reader(batch);
        // It cannot be done: our row is not committed.
        waist_.batch_subscribe(batch, port_, place.get());
    }
    last_ = place.get();
    return *last_;
}

void Worker::take_notices() {
    const Notice* notices = nullptr;
    const std::size_t count = waist_.port_take(port_, &notices);
    for (std::size_t i = 0; i < count; ++i) {
        Pending& pending = *static_cast<Pending*>(notices[i].token);
        if (notices[i].kind == NoticeKind::Finished) {
            finished(pending);
        } else {
            settled(pending);
        }
    }
}

void Worker::settled(Pending& pending) {
    for (Stream*& waiter : pending.waiters) {
        if (waiter == nullptr) continue;
        const SlotState state = waist_.batch_slot(pending.batch, waiter->form.slot);
        if (state != SlotState::Expired && state != SlotState::Refused) continue;
        // If the rows of one request end differently, the first speaks for all.
        answer_ended(*waiter, state);
        waiter = nullptr;
    }
}

void Worker::answer_ended(Stream& stream, SlotState state) {
    stream.pending = nullptr;
    if (state == SlotState::Expired) {
        stream.connection->fail(stream, GrpcStatus::DeadlineExceeded,
                                "the request's timeout passed while it waited in the queue; raise "
                                "the timeout or lower the load");
    } else {
        stream.connection->fail(stream, GrpcStatus::Unavailable,
                                "the model was closed before the request ran");
    }
    mark(*stream.connection);
}

void Worker::finished(Pending& pending) {
    const Offer& offer = *pending.offer;
    const OutputView* views = nullptr;
    const Outcome outcome = waist_.batch_outcome(pending.batch);
    bool kept = false;
    if (outcome == Outcome::Completed) {
        const std::size_t count = waist_.batch_shown(pending.batch, &views);
        kept = keeps_promise(offer, views, count);
    }
    for (Stream* waiter : pending.waiters) {
        if (waiter == nullptr) continue;
        Stream& stream = *waiter;
        SlotState state = SlotState::Claimed;
        for (std::uint32_t i = 0; i < stream.form.rows && state == SlotState::Claimed; ++i) {
            state = waist_.batch_slot(pending.batch, stream.form.slot + i);
        }
        if (state != SlotState::Claimed) {
            answer_ended(stream, state);
            continue;
        }
        stream.pending = nullptr;
        if (kept) {
            stream.answer.assign(kMessagePrefix, '\0');
            write_answer(offer, stream.form, pending.batch, views, stream.answer);
            stream.connection->finish(stream);
        } else if (outcome == Outcome::Abandoned) {
            stream.connection->fail(stream, GrpcStatus::Unavailable,
                                    "the model was closed before the request was done");
        } else {
            stream.connection->fail(stream, GrpcStatus::Internal,
                                    outcome == Outcome::Completed
                                        ? "the model's answer is not what it has promised"
                                        : "the model failed");
        }
        mark(*stream.connection);
    }
    Batch* const batch = pending.batch;
    Engine* const engine = offer.engine;
    const auto found = pendings_.find(batch);
    std::unique_ptr<Pending> gone = std::move(found->second);
    pendings_.erase(found);
    if (last_ == gone.get()) last_ = nullptr;
    waist_.batch_leave(engine, batch);
    waist_.batch_release(batch);
    gone->waiters.clear();
    gone->offer.reset();  // last: while it lives, so does the engine
    if (spare_.size() < kSparePendings) spare_.push_back(std::move(gone));
}

void Worker::hand_to_python(Stream& stream) {
    if (stream.path.empty()) {
        stream.path = stream.method == Method::Predict ? kPredict : kModelInfer;
    }
    // The worker's number is in the id, so that an answer finds its way.
    stream.python_call = (++next_call_ << 8) | number_;
    python_calls_.emplace(stream.python_call, &stream);
    python_requests_.fetch_add(1, std::memory_order_relaxed);
    python_.call({stream.python_call, stream.path, std::string(stream.message), stream.deadline});
}

void Worker::vanished(Stream& stream) noexcept {
    if (stream.pending != nullptr) {
        stream.pending->waiters[stream.waiter] = nullptr;
        settle(*stream.pending, stream.form.slot, stream.form.rows);
        stream.pending = nullptr;
    }
    if (stream.python_call != 0) {
        python_calls_.erase(stream.python_call);
        python_.cancel(stream.python_call);
        stream.python_call = 0;
    }
    if (stream.parked) std::erase(parked_, &stream);
}

}  // namespace tidegate::frontend
