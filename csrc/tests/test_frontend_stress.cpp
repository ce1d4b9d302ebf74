// Clients, workers, an executor and the Python side at once: each call is answered once and with
// its own row, whatever others do; resets and hang-ups leave nothing behind.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "protobuf.hpp"
#include "rig.hpp"
#include "server.hpp"
#include "tidegate/engine.hpp"

using namespace tidegate;
using namespace tidegate::frontend;
using tidegate::testing::Memory;

namespace {

constexpr std::uint32_t kMaxBatch = 8;

/// What keeps the outputs of one batch.
struct Keeper {
    std::vector<float> outputs;
    std::array<std::int64_t, 2> shape;
};

std::atomic<int> keepers{0};

/// The model: twice the rows, shown to whoever reads them.
class Doubler {
  public:
    Doubler(Engine& engine, Lane&)
        : engine_(engine), executor_(engine.add_executor(ExecutorKind::Thread)) {
        thread_ = std::thread([this] { run(); });
    }
    ~Doubler() {
        thread_.join();
        take_orphans();
    }

  private:
    void run() {
        while (engine_.await_work(executor_) == Status::Ok) {
            Taken taken;
            if (engine_.seal(executor_, taken) != Status::Ok) continue;
            taken.slab->wait_committed(taken.reserved);
            const std::uint32_t live = engine_.claim(taken);
            auto keeper = std::make_unique<Keeper>();
            ++keepers;
            const auto* rows = reinterpret_cast<const float*>(taken.slab->column(0));
            for (std::uint32_t i = 0; i < 2 * live; ++i) keeper->outputs.push_back(2 * rows[i]);
            keeper->shape = {live, 2};
            if (live > 0 && taken.batch->has_readers()) {
                const OutputView view{reinterpret_cast<const char*>(keeper->outputs.data()),
                                      8,
                                      keeper->shape.data(),
                                      2,
                                      4,
                                      'f'};
                keeper.reset(static_cast<Keeper*>(taken.batch->show(&view, 1, keeper.release())));
            }
            engine_.finish(executor_, taken, Outcome::Completed, 0, 0);
            if (keeper != nullptr) --keepers;
            take_orphans();
        }
    }
    void take_orphans() {
        std::array<void*, 8> orphans{};
        while (const std::size_t count = engine_.take_orphans(orphans.data(), orphans.size())) {
            for (std::size_t i = 0; i < count; ++i) {
                delete static_cast<Keeper*>(orphans[i]);
                --keepers;
            }
        }
    }
    Engine& engine_;
    Executor& executor_;
    std::thread thread_;
};

std::string frame(char type, char flags, std::uint32_t stream, const std::string& body) {
    std::string made;
    for (int shift : {16, 8, 0}) made.push_back(static_cast<char>(body.size() >> shift));
    made += {type, flags};
    for (int shift : {24, 16, 8, 0}) made.push_back(static_cast<char>(stream >> shift));
    return made + body;
}

std::string literal(const std::string& name, const std::string& value) {
    // HPACK: a literal without indexing, with a name of its own (RFC 7541, 6.2.2).
    return std::string(1, '\0') + static_cast<char>(name.size()) + name +
           static_cast<char>(value.size()) + value;
}

std::string call(std::uint32_t stream, float value) {
    const std::string headers = literal(":method", "POST") + literal(":scheme", "http") +
                                literal(":path", std::string(kPredict)) +
                                literal(":authority", "x") +
                                literal("content-type", "application/grpc");
    const std::array<float, 2> row{value, value + 0.5f};
    std::string message;
    put_bytes(message, 1, {reinterpret_cast<const char*>(row.data()), sizeof row});
    std::string body(kMessagePrefix, '\0');
    write_prefix(body.data(), message.size());
    return frame(1, 4, stream, headers) + frame(0, 1, stream, body + message);
}

/// One connection that makes calls, some of which it resets; with `vanish` it hangs up at the end
/// without waiting.
class Client {
  public:
    Client(std::uint16_t port, std::uint32_t seed) : random_(seed) {
        socket_ = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, ""));
    }
    ~Client() { close(socket_); }

    void run(int calls, bool vanish) {
        std::uint32_t stream = 1;
        for (int made = 0; made < calls;) {
            std::string out;
            const int burst = 1 + static_cast<int>(random_() % 12);
            for (int i = 0; i < burst; ++i, ++made, stream += 2) {
                const auto value = static_cast<float>(random_() % 100'000);
                out += call(stream, value);
                if (random_() % 8 == 0) {
                    out += frame(3, 0, stream, std::string("\0\0\0\x08", 4));
                    maybe_[stream] = value;
                } else {
                    waiting_[stream] = value;
                }
            }
            send(out);
            while (waiting_.size() > 16) read();
        }
        if (vanish) return;
        while (!waiting_.empty()) read();
    }
    int answered() const { return answered_; }

  private:
    void send(const std::string& bytes) {
        for (std::size_t at = 0; at < bytes.size();) {
            const ssize_t put = ::send(socket_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
            CHECK(put > 0);
            at += static_cast<std::size_t>(put);
        }
    }
    std::string exactly(std::size_t size) {
        std::string bytes(size, '\0');
        for (std::size_t at = 0; at < size;) {
            const ssize_t got = recv(socket_, bytes.data() + at, size - at, 0);
            CHECK(got > 0, "the server has hung up");
            at += static_cast<std::size_t>(got);
        }
        return bytes;
    }
    void read() {
        const std::string header = exactly(9);
        const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(header[i]); };
        const std::string body = exactly(byte(0) << 16 | byte(1) << 8 | byte(2));
        const std::uint32_t stream =
            std::uint32_t{byte(5)} << 24 | byte(6) << 16 | byte(7) << 8 | byte(8);
        CHECK(header[3] != 7, "no GOAWAY");
        if (header[3] == 6 && (header[4] & 1) == 0) send(frame(6, 1, 0, body));
        if (header[3] == 0) check(stream, body);
        if ((header[3] == 1) && (header[4] & 1) != 0) {
            CHECK(seen_.erase(stream) == 1 || maybe_.erase(stream) == 1, "an error status");
            answered_ += static_cast<int>(waiting_.erase(stream));
        }
    }
    void check(std::uint32_t stream, const std::string& body) {
        const auto found = waiting_.find(stream);
        const float value = found != waiting_.end() ? found->second : maybe_.at(stream);
        ProtobufReader reader(std::string_view(body).substr(kMessagePrefix));
        std::string_view predictions;
        CHECK(reader.next() && reader.field() == 1 && reader.bytes(predictions));
        CHECK_EQUAL(predictions.size(), 8u);
        std::array<float, 2> row{};
        std::memcpy(row.data(), predictions.data(), sizeof row);
        CHECK(row[0] == 2 * value && row[1] == 2 * value + 1, "its own row");
        CHECK(seen_.insert({stream, true}).second, "once");
    }

    std::mt19937 random_;
    int socket_ = -1;
    std::map<std::uint32_t, float> waiting_;
    std::map<std::uint32_t, float> maybe_;  // reset: answered or not
    std::map<std::uint32_t, bool> seen_;
    int answered_ = 0;
};

}  // namespace

int main() {
    tidegate::testing::fail_if_hung(240);
    Policy policy;
    policy.max_batch_size = kMaxBatch;
    policy.max_queue_size = 4096;
    Engine engine(policy);
    Lane& lane = engine.add_lane({2 * sizeof(float)});
    Memory memory;
    memory.give(engine, lane, kMaxBatch);
    int answered = 0;
    {
        Doubler doubler(engine, lane);
        Settings settings;
        settings.reset_burst = 1'000'000;
        Server server(settings, {"127.0.0.1", 0}, 2, nullptr, waist());
        auto offer = std::make_shared<Offer>();
        offer->model = "double";
        offer->version = "1";
        offer->waist = &waist();
        offer->engine = &engine;
        offer->lane = &lane;
        offer->most_rows = kMaxBatch;
        offer->inputs = {{"x", "FP32", {2}, 'f', 4, 8, true}};
        offer->outputs = {{"y", "FP32", {2}, 'f', 4, 8, true}};
        auto catalogue = std::make_shared<Catalogue>();
        catalogue->models = 1;
        catalogue->offers.push_back(std::move(offer));
        server.publish(std::move(catalogue));
        std::atomic<bool> ending{false};
        std::thread python([&] {
            while (!ending.load()) {
                for (Event& event : server.take(10 * kMillisecond)) {
                    if (event.kind == Event::Kind::NeedBuffer) {
                        memory.give(engine, lane, kMaxBatch);
                        server.retry();
                    } else if (event.kind == Event::Kind::Call) {
                        // Came before the catalogue was published.
                        server.answer({event.call.id, GrpcStatus::Unavailable, "later", 0});
                    }
                }
            }
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        std::vector<std::thread> threads;
        std::array<int, 6> counts{};
        for (std::size_t number = 0; number < counts.size(); ++number) {
            threads.emplace_back([&, number] {
                for (std::uint32_t round = 0; round < 10; ++round) {
                    Client client(server.address().port,
                                  static_cast<std::uint32_t>(number * 100 + round));
                    client.run(400, number % 3 == 2);
                    counts[number] += client.answered();
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        for (const int count : counts) answered += count;
        server.drain();
        while (!server.drained()) std::this_thread::yield();
        server.stop();
        ending = true;
        python.join();
        engine.close(true);
        CHECK(engine.wait_drained(engine.clock().now() + 30 * kSecond));
    }
    CHECK(answered > 15000, "most calls were neither reset nor left behind");
    CHECK_EQUAL(keepers.load(), 0);
    for (void* owner : engine.detach_all()) memory.let_go(owner);
}
