// Transport: plain sockets, and OpenSSL over them.
#include "transport.hpp"

#include <openssl/err.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <limits>
#include <stdexcept>

namespace tidegate::frontend {

namespace {

constexpr unsigned char kHttp2[] = {2, 'h', '2'};

int select_http2(SSL*, const unsigned char** chosen, unsigned char* length,
                 const unsigned char* offered, unsigned int size, void*) {
    unsigned char* found = nullptr;
    if (SSL_select_next_proto(&found, length, kHttp2, sizeof kHttp2, offered, size) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *chosen = found;
    return SSL_TLSEXT_ERR_OK;
}

[[noreturn]] void refuse(const std::string& what) {
    std::array<char, 256> reason{};
    ERR_error_string_n(ERR_get_error(), reason.data(), reason.size());
    throw std::runtime_error(what + ": " + reason.data());
}

}  // namespace

TlsContext make_tls_context(const std::string& certificate, const std::string& key,
                            const std::string& client_authorities) {
    TlsContext context(SSL_CTX_new(TLS_server_method()));
    if (context == nullptr) refuse("TLS is not available");
    SSL_CTX* const raw = context.get();
    SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION);
    SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_alpn_select_cb(raw, select_http2, nullptr);
    if (SSL_CTX_use_certificate_chain_file(raw, certificate.c_str()) != 1) {
        refuse("the certificate " + certificate + " cannot be used");
    }
    if (SSL_CTX_use_PrivateKey_file(raw, key.c_str(), SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(raw) != 1) {
        refuse("the key " + key + " cannot be used");
    }
    if (!client_authorities.empty()) {
        if (SSL_CTX_load_verify_locations(raw, client_authorities.c_str(), nullptr) != 1) {
            refuse("the authorities " + client_authorities + " cannot be used");
        }
        SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    }
    return context;
}

Transport::Transport(int descriptor, SSL_CTX* tls) : descriptor_(descriptor) {
    if (tls == nullptr) return;
    ssl_.reset(SSL_new(tls));
    if (ssl_ == nullptr || SSL_set_fd(ssl_.get(), descriptor) != 1) {
        ::close(descriptor);
        throw std::runtime_error("out of memory for a TLS connection");
    }
    SSL_set_accept_state(ssl_.get());  // reads and writes shake hands first
}

Transport::~Transport() {
    if (ssl_ != nullptr) {
        ERR_clear_error();
        if (SSL_is_init_finished(ssl_.get())) SSL_shutdown(ssl_.get());  // says goodbye, or not
        ERR_clear_error();
    }
    ::close(descriptor_);
}

Io Transport::ssl_result(int result) noexcept {
    switch (SSL_get_error(ssl_.get(), result)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            return Io::Again;
        default:
            ERR_clear_error();
            return Io::Closed;
    }
}

Io Transport::read(char* target, std::size_t size, std::size_t& count) noexcept {
    count = 0;
    if (ssl_ != nullptr) {
        ERR_clear_error();
        const int result = SSL_read_ex(ssl_.get(), target, size, &count);
        return result == 1 ? Io::Done : ssl_result(result);
    }
    const ssize_t got = ::recv(descriptor_, target, size, 0);
    if (got > 0) {
        count = static_cast<std::size_t>(got);
        return Io::Done;
    }
    return got < 0 && (errno == EAGAIN || errno == EINTR) ? Io::Again : Io::Closed;
}

Io Transport::write(const char* source, std::size_t size, std::size_t& count) noexcept {
    count = 0;
    if (ssl_ != nullptr) {
        ERR_clear_error();
        const int result = SSL_write_ex(ssl_.get(), source, size, &count);
        // Before the result clears it away.
        write_awaits_input_ = result != 1 && SSL_want_read(ssl_.get());
        return result == 1 ? Io::Done : ssl_result(result);
    }
    const ssize_t put = ::send(descriptor_, source, size, MSG_NOSIGNAL);
    if (put >= 0) {
        count = static_cast<std::size_t>(put);
        return Io::Done;
    }
    return errno == EAGAIN || errno == EINTR ? Io::Again : Io::Closed;
}

}  // namespace tidegate::frontend
