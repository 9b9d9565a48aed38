/* The load for all servers that are compared: one thread, epoll, OpenSSL on the sockets. Checks every byte that comes back.
 *
 *   load MODE PORT [name=value ...]
 *
 *   echo        each of `connections` sends `size` bytes and waits for all of them; with interval= (microseconds) it sends on a
 *               schedule instead, and latency counts from the scheduled time, so that a stalled server cannot hide (coordinated omission)
 *   bulk        each connection sends without end, `window` bytes ahead of what has come back
 *   handshake   `connections` at a time connect, shake hands, echo one byte and close; with rate= so many a second, at random times
 *   hold        opens all, echoes `size` bytes once on each (0: none), prints "ready" and waits for the end of its input
 *
 * Further: seconds, warmup (not counted), group, cipher, plain=1 (TCP alone), resume=1, certificates=FILE to trust.
 * Prints one line of JSON. Exits with 1 at the first wrong byte or lost connection.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (256 * 1024)
/* Latencies in microseconds, exact up to here; what is longer counts as this. */
#define LONGEST 2000000

enum { ECHO, BULK, HANDSHAKE, HOLD };
enum { CONNECTING, SHAKING, OPEN };

typedef struct {
    int fd, state, wants_write, held;
    SSL *ssl;
    size_t sent, received; /* of the message at hand; in bulk: of all */
    double begun, due;
} Connection;

static int mode, port, plain_tcp, resume;
static int connections = 64;
static size_t message = 64, window = 1 << 20;
static double seconds = 1, warmup = 0.3, interval, rate;
static const char *group = "X25519", *cipher = "TLS_AES_256_GCM_SHA384", *certificates;

static SSL_CTX *context;
static SSL_SESSION *session;
static int epoll_fd;
static char pattern[2 * BUFFER], incoming[BUFFER];
static uint32_t *histogram;
static uint64_t messages, bytes, shakes, resumed_shakes;
static int counting, open_count, held_count;
static Connection *all, timer;

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void
die(const char *what)
{
    fprintf(stderr, "load: %s (errno %d: %s)\n", what, errno, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void
watch(Connection *c, int operation, int write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (operation == EPOLL_CTL_MOD && c->wants_write == write)
        return;
    c->wants_write = write;
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static int
keep_session(SSL *ssl, SSL_SESSION *fresh)
{
    (void)ssl;
    if (session != NULL || !resume)
        return 0;
    session = fresh;
    return 1;
}

static void
begin(Connection *c)
{
    static unsigned source;
    /* Several source addresses: one has too few ports for tens of thousands of short connections. */
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + source++ % 200)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0)
        die("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        die("connect");
    c->state = CONNECTING;
    c->sent = c->received = 0;
    if (!plain_tcp) {
        c->ssl = SSL_new(context);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_connect_state(c->ssl);
        SSL_set_tlsext_host_name(c->ssl, "localhost");
        if (session != NULL) {
            /* A copy: OpenSSL spends a TLS 1.3 session with its first use. The servers do not count. */
            SSL_SESSION *copy = SSL_SESSION_dup(session);
            SSL_set_session(c->ssl, copy);
            SSL_SESSION_free(copy);
        }
    }
    watch(c, EPOLL_CTL_ADD, 1);
}

static void
end(Connection *c)
{
    struct linger now_ = {.l_onoff = 1, .l_linger = 0};
    if (c->ssl != NULL) {
        SSL_shutdown(c->ssl);
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    /* The reset leaves no TIME_WAIT behind; the server has had close_notify before it. */
    if (mode == HANDSHAKE)
        shutdown(c->fd, SHUT_WR);
    else
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now_, sizeof now_);
    close(c->fd);
    c->fd = -1;
}

/* How much was written or read; 0: not now. */
static int
put(Connection *c, const char *data, size_t size)
{
    if (plain_tcp) {
        ssize_t done = send(c->fd, data, size, MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN)
            die("send");
        return done < 0 ? 0 : (int)done;
    }
    int done = SSL_write(c->ssl, data, (int)size);
    if (done <= 0) {
        int error = SSL_get_error(c->ssl, done);
        if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ)
            die("SSL_write");
        return 0;
    }
    return done;
}

static int
get(Connection *c, char *data, size_t size)
{
    if (plain_tcp) {
        ssize_t got = recv(c->fd, data, size, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            die("recv");
        return got < 0 ? 0 : (int)got;
    }
    int got = SSL_read(c->ssl, data, (int)size);
    if (got <= 0) {
        if (SSL_get_error(c->ssl, got) != SSL_ERROR_WANT_READ)
            die("SSL_read");
        return 0;
    }
    return got;
}

/* Byte i of a connection's stream is pattern[i % 251], so every byte can be checked wherever it is cut. */
static const char *
stream_at(uint64_t position)
{
    return pattern + position % 251;
}

static void
push(Connection *c)
{
    int blocked = 0;
    for (;;) {
        size_t limit = mode == BULK ? c->received + window : message;
        size_t left = limit - c->sent;
        if (left == 0)
            break;
        if (mode == BULK && left > 65536)
            left = 65536;
        int done = put(c, stream_at(c->sent), left > BUFFER ? BUFFER : left);
        if (done == 0) {
            blocked = 1;
            break;
        }
        c->sent += done;
    }
    watch(c, EPOLL_CTL_MOD, blocked);
}

static void
send_message(Connection *c, double at)
{
    c->begun = at;
    c->sent = c->received = 0;
    push(c);
}

static void
on_open(Connection *c)
{
    c->state = OPEN;
    open_count++;
    if (counting)
        shakes++;
    if (c->ssl != NULL && SSL_session_reused(c->ssl) && counting)
        resumed_shakes++;
    watch(c, EPOLL_CTL_MOD, 0);
    if (mode == HOLD && message == 0) {
        held_count += !c->held;
        c->held = 1;
    }
    else if (mode == ECHO && interval > 0)
        c->due = now() + interval * 1e-6 * (rand() / (double)RAND_MAX);
    else
        send_message(c, now());
}

static void
on_message(Connection *c)
{
    double t = now();
    if (counting) {
        messages++;
        double us = (t - c->begun) * 1e6;
        histogram[us < LONGEST ? (uint32_t)us : LONGEST]++;
    }
    if (mode == HANDSHAKE) {
        /* TLS 1.3 tickets come with the answer at the latest. */
        end(c);
        if (rate <= 0)
            begin(c);
    }
    else if (mode == HOLD) {
        held_count += !c->held;
        c->held = 1;
    }
    else if (interval > 0) {
        c->due += interval * 1e-6;
        c->begun = 0;
    }
    else
        send_message(c, t);
}

static void
on_ready(Connection *c, int writable)
{
    if (c->state == CONNECTING && writable) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            errno = error;
            die("connect");
        }
        c->state = SHAKING;
        if (plain_tcp)
            on_open(c);
    }
    if (c->state == SHAKING) {
        int done = SSL_do_handshake(c->ssl);
        if (done == 1)
            on_open(c);
        else {
            int error = SSL_get_error(c->ssl, done);
            if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
                die("handshake");
            watch(c, EPOLL_CTL_MOD, error == SSL_ERROR_WANT_WRITE);
        }
        return;
    }
    if (c->state != OPEN)
        return;
    int got;
    while ((got = get(c, incoming, sizeof incoming)) > 0) {
        if (memcmp(incoming, stream_at(c->received), got) != 0)
            die("wrong bytes came back");
        c->received += got;
        if (counting)
            bytes += got;
        if (mode != BULK && c->received == message) {
            on_message(c);
            break;
        }
        if (c->ssl != NULL ? !SSL_has_pending(c->ssl) : got < (int)sizeof incoming)
            break;
    }
    if (c->fd >= 0 && c->state == OPEN && (mode == BULK || (c->sent < message && c->begun > 0)))
        push(c);
}

static void
read_arguments(int count, char **arguments)
{
    static const char *modes[] = {"echo", "bulk", "handshake", "hold"};
    if (count < 3)
        die("usage: load MODE PORT [name=value ...]");
    for (mode = 0; mode < 4 && strcmp(modes[mode], arguments[1]) != 0; mode++)
        ;
    if (mode == 4)
        die("MODE is echo, bulk, handshake or hold");
    port = atoi(arguments[2]);
    for (int i = 3; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (value == NULL)
            die("arguments are name=value");
        *value++ = 0;
        const char *name = arguments[i];
        if (strcmp(name, "connections") == 0) connections = atoi(value);
        else if (strcmp(name, "size") == 0) message = strtoul(value, NULL, 10);
        else if (strcmp(name, "window") == 0) window = strtoul(value, NULL, 10);
        else if (strcmp(name, "seconds") == 0) seconds = atof(value);
        else if (strcmp(name, "warmup") == 0) warmup = atof(value);
        else if (strcmp(name, "interval") == 0) interval = atof(value);
        else if (strcmp(name, "rate") == 0) rate = atof(value);
        else if (strcmp(name, "plain") == 0) plain_tcp = atoi(value);
        else if (strcmp(name, "resume") == 0) resume = atoi(value);
        else if (strcmp(name, "group") == 0) group = value;
        else if (strcmp(name, "cipher") == 0) cipher = value;
        else if (strcmp(name, "certificates") == 0) certificates = value;
        else die(name);
    }
    if (mode == HANDSHAKE)
        message = 1;
    if (rate > 0)
        srand((unsigned)getpid());
    if (connections < 1 || (message == 0 && mode != HOLD))
        die("connections and size are at least 1");
}

static void
set_up(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i % 251);
    histogram = calloc(LONGEST + 1, sizeof *histogram);
    all = calloc(connections, sizeof *all);
    if (histogram == NULL || all == NULL)
        die("memory");
    epoll_fd = epoll_create1(0);
    if (plain_tcp)
        return;
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    /* One recv for what is there, instead of one for each header and each body. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, 4 * 16384 + 1024);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    if (SSL_CTX_set1_groups_list(context, group) != 1 || SSL_CTX_set_ciphersuites(context, cipher) != 1)
        die("group or cipher");
    if (certificates != NULL) {
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        if (SSL_CTX_load_verify_locations(context, certificates, NULL) != 1)
            die("certificates");
    }
}

/* The loop goes round then, if not earlier. */
static void
wake_at(double when)
{
    static int fd = -1;
    if (fd < 0) {
        fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &timer};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)when, .tv_nsec = (long)((when - (time_t)when) * 1e9)}};
    timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static double
cpu_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint32_t
percentile(double part)
{
    uint64_t total = 0, seen = 0;
    for (uint32_t i = 0; i <= LONGEST; i++)
        total += histogram[i];
    for (uint32_t i = 0; i <= LONGEST; i++) {
        seen += histogram[i];
        if (total && seen >= part * total)
            return i;
    }
    return 0;
}

int
main(int count, char **arguments)
{
    read_arguments(count, arguments);
    set_up();
    /* Held connections and long queues are opened a few at a time, others all at once. */
    int at_once = mode == HOLD ? 16 : connections;
    int begun = 0, announced = 0;
    double start = now(), counted = 0, cpu = 0, next_arrival = start;
    if (rate <= 0)
        for (; begun < at_once && begun < connections; begun++)
            begin(&all[begun]);
    else
        for (int i = 0; i < connections; i++)
            all[i].fd = -1;
    struct epoll_event events[256];
    for (;;) {
        double t = now();
        int timeout = 100;
        if (mode != HOLD) {
            if (!counting && t - start >= warmup && (mode == HANDSHAKE || open_count == connections)) {
                counting = 1;
                counted = t;
                cpu = cpu_time();
                /* The parent measures the server from here to the last line. */
                printf("counting\n");
                fflush(stdout);
            }
            if (counting && t - counted >= seconds)
                break;
            if (t - start > warmup + seconds + 60)
                die("it takes too long");
        }
        if (rate > 0) {
            for (int i = 0; i < connections && next_arrival <= t; i++)
                if (all[i].fd < 0) {
                    begin(&all[i]);
                    next_arrival += -log((rand() + 1.0) / (RAND_MAX + 2.0)) / rate;
                }
            timeout = 1;
        }
        if (interval > 0 && mode == ECHO) {
            double next = t + 0.1;
            for (int i = 0; i < connections; i++)
                if (all[i].state == OPEN && all[i].begun == 0) {
                    if (all[i].due <= t)
                        send_message(&all[i], all[i].due);
                    else if (all[i].due < next)
                        next = all[i].due;
                }
            wake_at(next);
        }
        if (mode == HOLD) {
            for (; begun < connections && begun - held_count < at_once; begun++)
                begin(&all[begun]);
            if (held_count == connections && !announced) {
                announced = 1;
                printf("ready\n");
                fflush(stdout);
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
                if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event) < 0)
                    die("stdin");
            }
        }
        int ready = epoll_wait(epoll_fd, events, 256, timeout);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (c == NULL)
                return 0;
            if (c != &timer && c->fd >= 0)
                on_ready(c, (events[i].events & (EPOLLOUT | EPOLLERR)) != 0);
        }
    }
    double elapsed = now() - counted;
    printf("{\"messages\": %llu, \"bytes\": %llu, \"handshakes\": %llu, \"resumed\": %llu, \"seconds\": %.6f, \"busy\": %.4f, "
           "\"p50_us\": %u, \"p99_us\": %u, \"openssl\": \"%s\"}\n",
           (unsigned long long)messages, (unsigned long long)bytes, (unsigned long long)shakes, (unsigned long long)resumed_shakes, elapsed,
           (cpu_time() - cpu) / elapsed, percentile(0.5), percentile(0.99), OpenSSL_version(OPENSSL_VERSION));
    fflush(stdout);
    return 0;
}
