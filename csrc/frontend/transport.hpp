// One socket, with or without TLS: reads and writes that never block.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <memory>
#include <string>

namespace tidegate::frontend {

struct FreeSsl {
    void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
    void operator()(SSL_CTX* context) const noexcept { SSL_CTX_free(context); }
};
using TlsContext = std::unique_ptr<SSL_CTX, FreeSsl>;

/// A server's certificate and key, as PEM files; HTTP/2 is the only protocol that it agrees to.
/// Clients must show a certificate of `client_authorities` unless that is empty.
/// \throws std::runtime_error when a file cannot be used
TlsContext make_tls_context(const std::string& certificate, const std::string& key,
                            const std::string& client_authorities);

enum class Io { Done, Again, Closed };

class Transport {
  public:
    /// Owns the descriptor, which does not block.
    Transport(int descriptor, SSL_CTX* tls);
    ~Transport();
    Transport(const Transport&) = delete;
    Transport& operator=(const Transport&) = delete;

    int descriptor() const noexcept { return descriptor_; }
    /// At most `size` bytes; `count` of them came.
    Io read(char* target, std::size_t size, std::size_t& count) noexcept;
    Io write(const char* source, std::size_t size, std::size_t& count) noexcept;
    /// True if the last write can go on only when the client has sent something: TLS shakes hands.
    bool write_awaits_input() const noexcept { return write_awaits_input_; }

  private:
    Io ssl_result(int result) noexcept;

    const int descriptor_;
    std::unique_ptr<SSL, FreeSsl> ssl_;
    bool write_awaits_input_ = false;
};

}  // namespace tidegate::frontend
