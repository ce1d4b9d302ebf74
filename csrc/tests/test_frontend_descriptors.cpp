// A front end that is out of descriptors: it neither spins nor forgets who has connected.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>

#include "check.hpp"
#include "rig.hpp"
#include "server.hpp"

using namespace tidegate;
using namespace tidegate::frontend;

namespace {

std::atomic<int> refusals{0};  // to come
std::atomic<int> asked{0};

Nanos time_now() { return SteadyClock::instance().now(); }

int connected(const Server& server) {
    const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server.address().port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return client;
}

}  // namespace

/// The server's: the system has no descriptor for the next `refusals` connections.
extern "C" int accept4(int listener, sockaddr* address, socklen_t* size, int flags) {
    ++asked;
    if (refusals.load() > 0) {
        --refusals;
        errno = EMFILE;
        return -1;
    }
    return static_cast<int>(syscall(SYS_accept4, listener, address, size, flags));
}

namespace {

void test_a_worker_without_descriptors_waits_for_some() {
    constexpr int kRefusals = 4;
    refusals = kRefusals;
    Server server(Settings{}, {"127.0.0.1", 0}, 1, nullptr, waist());
    server.publish(std::make_shared<Catalogue>());
    const Nanos begun = time_now();
    const int client = connected(server);
    char settings = 0;
    CHECK(recv(client, &settings, 1, 0) == 1, "it is served once there is a descriptor");
    CHECK(asked.load() > kRefusals);
    // However busy the machine is, it cannot take less; a worker that spins is through at once.
    CHECK(time_now() - begun >= kRefusals * 50 * kMillisecond, "it slept in between");
    close(client);
}

void test_it_can_be_drained_and_stopped_meanwhile() {
    refusals = 1'000'000;
    const int before = asked.load();
    Server server(Settings{}, {"127.0.0.1", 0}, 1, nullptr, waist());
    const int client = connected(server);
    while (asked.load() == before) sched_yield();
    server.drain();
    CHECK(server.drained());
    server.stop();
    close(client);
}

}  // namespace

int main() {
    tidegate::testing::fail_if_hung(60);
    test_a_worker_without_descriptors_waits_for_some();
    test_it_can_be_drained_and_stopped_meanwhile();
}
