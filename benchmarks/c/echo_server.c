/* The limit to measure against: an echo server in C with epoll, one thread, and OpenSSL over memory BIOs, as adapters use it.
 *
 *   echo_server CERTIFICATE.pem KEY.pem      TLS
 *   echo_server --plain                      TCP alone
 *
 * Prints its port, and serves on 127.0.0.1 until it is killed. Once for each readiness: recv, feed, read until OpenSSL wants more, write
 * back, drain, send. What the socket does not take is kept, and no more is read from that peer until it has gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER (256 * 1024)

typedef struct {
    int fd, writing, ended;
    SSL *ssl;
    BIO *in, *out;
    char *unsent;
    size_t unsent_size;
} Connection;

static int epoll_fd;
static SSL_CTX *context;
static char wire[BUFFER], plain[BUFFER];

static void
drop(Connection *c)
{
    close(c->fd);
    SSL_free(c->ssl);
    free(c->unsent);
    free(c);
}

static void
watch(Connection *c, int operation)
{
    struct epoll_event event = {.events = c->writing ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

/* Sends, or keeps what the socket does not take. 0: the connection is lost. */
static int
send_all(Connection *c, const char *data, size_t size)
{
    ssize_t sent = c->writing ? 0 : send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            return 0;
        sent = 0;
    }
    if ((size_t)sent == size)
        return 1;
    c->unsent = realloc(c->unsent, c->unsent_size + size - sent);
    if (c->unsent == NULL)
        return 0;
    memcpy(c->unsent + c->unsent_size, data + sent, size - sent);
    c->unsent_size += size - sent;
    if (!c->writing) {
        c->writing = 1;
        watch(c, EPOLL_CTL_MOD);
    }
    return 1;
}

static int
drain(Connection *c)
{
    int size;
    while ((size = BIO_read(c->out, wire, sizeof wire)) > 0)
        if (!send_all(c, wire, size))
            return 0;
    return 1;
}

static int
on_input(Connection *c)
{
    ssize_t size = recv(c->fd, wire, context == NULL ? sizeof wire : 73728, 0);
    if (size <= 0)
        return size < 0 && errno == EAGAIN;
    if (context == NULL)
        return send_all(c, wire, size);
    BIO_write(c->in, wire, (int)size);
    int got;
    while ((got = SSL_read(c->ssl, plain, sizeof plain)) > 0)
        if (SSL_write(c->ssl, plain, got) <= 0)
            return 0;
    int error = SSL_get_error(c->ssl, got);
    int alive = drain(c);
    if (error != SSL_ERROR_WANT_READ) {
        if (error == SSL_ERROR_ZERO_RETURN) {
            SSL_shutdown(c->ssl);
            drain(c);
        }
        ERR_clear_error();
        return 0;
    }
    return alive;
}

static int
on_room(Connection *c)
{
    ssize_t sent = send(c->fd, c->unsent, c->unsent_size, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN;
    c->unsent_size -= sent;
    memmove(c->unsent, c->unsent + sent, c->unsent_size);
    if (c->unsent_size == 0) {
        free(c->unsent);
        c->unsent = NULL;
        c->writing = 0;
        watch(c, EPOLL_CTL_MOD);
    }
    return 1;
}

static void
accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        if (context != NULL) {
            c->ssl = SSL_new(context);
            c->in = BIO_new(BIO_s_mem());
            c->out = BIO_new(BIO_s_mem());
            SSL_set_bio(c->ssl, c->in, c->out);
            SSL_set_accept_state(c->ssl);
        }
        watch(c, EPOLL_CTL_ADD);
    }
}

int
main(int count, char **arguments)
{
    signal(SIGPIPE, SIG_IGN);
    if (count == 3) {
        context = SSL_CTX_new(TLS_server_method());
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
        if (SSL_CTX_use_certificate_chain_file(context, arguments[1]) != 1 ||
            SSL_CTX_use_PrivateKey_file(context, arguments[2], SSL_FILETYPE_PEM) != 1) {
            ERR_print_errors_fp(stderr);
            return 1;
        }
    }
    else if (count != 2 || strcmp(arguments[1], "--plain") != 0) {
        fprintf(stderr, "usage: echo_server CERTIFICATE.pem KEY.pem | --plain\n");
        return 2;
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1024) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0) {
        perror("listen");
        return 1;
    }
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    printf("%d %s\n", ntohs(address.sin_port), OpenSSL_version(OPENSSL_VERSION));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (c == NULL)
                accept_all(listener);
            else if (!(c->writing ? on_room(c) : on_input(c)))
                drop(c);
        }
    }
}
