// TLS under a connection: it shakes hands when the client has something to say, and waits for it.
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>
#include <string>

#include "check.hpp"
#include "connection.hpp"

using namespace tidegate;
using namespace tidegate::frontend;

namespace {

class Nobody final : public Requests {
  public:
    void arrived(Stream&) override {}
    void vanished(Stream&) noexcept override {}
    Nanos now() const noexcept override { return kSecond; }
};

/// A server's context with a certificate that it has signed itself.
TlsContext self_signed() {
    TlsContext context(SSL_CTX_new(TLS_server_method()));
    EVP_PKEY* const key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
    X509* const certificate = X509_new();
    CHECK(context != nullptr && key != nullptr && certificate != nullptr);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    CHECK(X509_set_pubkey(certificate, key) == 1);
    CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
    CHECK(SSL_CTX_use_certificate(context.get(), certificate) == 1);
    CHECK(SSL_CTX_use_PrivateKey(context.get(), key) == 1);
    SSL_CTX_set_mode(context.get(),
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return context;
}

void test_a_connection_that_awaits_a_handshake_is_not_blocked_by_the_socket() {
    const TlsContext context = self_signed();
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    Nobody requests;
    const Settings settings;
    Connection connection(requests, settings, ends[0], context.get());
    CHECK(connection.flush());
    CHECK(!connection.blocked(), "the socket can be written to: a worker would never sleep");

    const TlsContext client_context(SSL_CTX_new(TLS_client_method()));
    const std::unique_ptr<SSL, FreeSsl> client(SSL_new(client_context.get()));
    CHECK(SSL_set_fd(client.get(), ends[1]) == 1);
    SSL_set_connect_state(client.get());
    std::array<char, 64> heard{};
    std::size_t count = 0;
    for (int turn = 0; turn < 10 && count == 0; ++turn) {
        static_cast<void>(SSL_read_ex(client.get(), heard.data(), heard.size(), &count));
        CHECK(connection.receive() && connection.flush());
        CHECK(!connection.blocked());
    }
    CHECK(count > 9, "what waited for the handshake comes after it");
    CHECK_EQUAL(int{heard[3]}, 4);  // SETTINGS
    close(ends[1]);
}

void test_a_client_that_reads_nothing_blocks_it() {
    const TlsContext context = self_signed();
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    Transport server(ends[0], context.get());
    const TlsContext client_context(SSL_CTX_new(TLS_client_method()));
    const std::unique_ptr<SSL, FreeSsl> client(SSL_new(client_context.get()));
    CHECK(SSL_set_fd(client.get(), ends[1]) == 1);
    SSL_set_connect_state(client.get());
    const std::string much(1 << 16, 'x');
    std::array<char, 64> heard{};
    std::size_t count = 0;
    Io io = Io::Again;
    while (io == Io::Again) {
        static_cast<void>(SSL_read_ex(client.get(), heard.data(), heard.size(), &count));
        io = server.write(much.data(), much.size(), count);
    }
    while (io == Io::Done) io = server.write(much.data(), much.size(), count);
    CHECK(io == Io::Again && !server.write_awaits_input());
    close(ends[1]);
}

}  // namespace

int main() {
    signal(SIGPIPE, SIG_IGN);  // as in a Python process
    test_a_connection_that_awaits_a_handshake_is_not_blocked_by_the_socket();
    test_a_client_that_reads_nothing_blocks_it();
}
