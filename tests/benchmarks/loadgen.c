/* A load generator: sends one HTTP/1.1 request over and over on keep-alive connections and reports how long the answers took.
 *
 *   loadgen TARGET REQUEST CONNECTIONS SECONDS REQUESTS INTERVAL_US
 *
 * TARGET is tcp:ADDRESS:PORT or unix:PATH; REQUEST a file with the bytes of the whole request. It ends after SECONDS or after
 * REQUESTS (0: no such limit). INTERVAL_US 0: the next request follows the answer. Above 0: each connection has a request due
 * every INTERVAL_US, and the time is taken from when it was due, so that a stall counts for all that it held up.
 *
 * Prints one JSON object. Times are microseconds; `bad` counts answers other than 2xx, `broken` connections that failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HEAD 16384

struct connection {
    int fd, busy, status, chunked;
    size_t sent, head_size, body_left;
    int head_done;
    double due;
    char head[HEAD + 1], tail[5];
};

static union { struct sockaddr any; struct sockaddr_in tcp; struct sockaddr_un local; } address;
static socklen_t address_size;
static char *request;
static size_t request_size;
static double *times;
static size_t count, room;
static long bad, broken, started, limit;
static double end, interval, last;
static int first_bad;
static long long bytes_in;

static void die(const char *what) { perror(what); exit(2); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void aim(const char *target) {
    if (!strncmp(target, "unix:", 5)) {
        address.local.sun_family = AF_UNIX;
        if (strlen(target + 5) >= sizeof address.local.sun_path) { fprintf(stderr, "the socket's path is too long\n"); exit(2); }
        strcpy(address.local.sun_path, target + 5);
        address_size = sizeof address.local;
        return;
    }
    char host[64];
    int port;
    if (sscanf(target, "tcp:%63[^:]:%d", host, &port) != 2) { fprintf(stderr, "not a target: %s\n", target); exit(2); }
    address.tcp.sin_family = AF_INET;
    address.tcp.sin_port = htons(port);
    if (inet_pton(AF_INET, host, &address.tcp.sin_addr) != 1) die(host);
    address_size = sizeof address.tcp;
}

static int open_connection(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = socket(address.any.sa_family, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, &address.any, address_size) < 0) return 0;
    int on = 1;
    if (address.any.sa_family == AF_INET) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    return 1;
}

static void begin(struct connection *c, double due) {
    c->busy = 1;
    c->due = due;
    c->sent = c->head_size = c->body_left = 0;
    c->head_done = c->chunked = 0;
    memset(c->tail, 0, sizeof c->tail);
}

static void note(double microseconds) {
    if (count == room && !(times = realloc(times, (room = room ? room * 2 : 65536) * sizeof *times))) die("memory");
    times[count++] = microseconds;
}

/* Takes in what came of the body; 1 when it is complete. */
static int body(struct connection *c, const char *data, size_t size) {
    if (!c->chunked) {
        c->body_left -= size < c->body_left ? size : c->body_left;
        return c->body_left == 0;
    }
    for (size_t i = size > 5 ? size - 5 : 0; i < size; i++) {
        memmove(c->tail, c->tail + 1, 4);
        c->tail[4] = data[i];
    }
    return !memcmp(c->tail, "0\r\n\r\n", 5);
}

/* 1: the answer is complete; 0: more is to come; -1: broken. */
static int take(struct connection *c) {
    static char buffer[1 << 18];
    for (;;) {
        ssize_t got = c->head_done ? read(c->fd, buffer, sizeof buffer) : read(c->fd, c->head + c->head_size, HEAD - c->head_size);
        if (got < 0) return errno == EAGAIN ? 0 : -1;
        if (got == 0) return -1;
        bytes_in += got;
        if (c->head_done) {
            if (body(c, buffer, got)) return 1;
            continue;
        }
        c->head[c->head_size += got] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            if (c->head_size == HEAD) return -1;
            continue;
        }
        c->head_done = 1;
        if (sscanf(c->head, "HTTP/1.%*d %d", &c->status) != 1) return -1;
        for (char *line = strstr(c->head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
            if (!strncasecmp(line + 2, "content-length:", 15)) c->body_left = strtoul(line + 17, 0, 10);
            if (!strncasecmp(line + 2, "transfer-encoding:", 18)) c->chunked = 1;
        }
        size_t rest = c->head + c->head_size - (end + 4);
        if (body(c, end + 4, rest)) return 1;
    }
}

/* 0: broken. */
static int give(struct connection *c) {
    while (c->sent < request_size) {
        ssize_t put = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (put < 0) return errno == EAGAIN;
        c->sent += put;
    }
    return 1;
}

static int order(const void *a, const void *b) { return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b); }

static double at(double share) { return count ? times[(size_t)(share * (count - 1) + 0.5)] : 0; }

static int may_begin(const struct connection *c, double time) {
    return time < end && (!limit || started < limit) && (!interval || c->due <= time);
}

static void finish(struct connection *c) {
    c->busy = 0;
    if (interval) c->due += interval;
}

/* Does what can be done without waiting. 0: there is no use in going on. */
static int pump(struct connection *c, int readable) {
    for (;;) {
        if (!c->busy) {
            double time = now();
            if (!may_begin(c, time)) return 1;
            begin(c, interval ? c->due : time);
            started++;
            readable = 0;
        }
        int state = give(c) ? readable ? take(c) : 0 : -1;
        if (!state) return 1;
        last = now();
        if (state > 0) {
            note(last - c->due);
            if (c->status / 100 != 2) {
                bad++;
                if (!first_bad) first_bad = c->status;
            }
            finish(c);
        } else {
            finish(c);
            if (++broken > 1000 || !open_connection(c)) return 0;
        }
    }
}

int main(int n, char **a) {
    if (n != 7) {
        fprintf(stderr, "loadgen TARGET REQUEST CONNECTIONS SECONDS REQUESTS INTERVAL_US\n");
        return 2;
    }
    aim(a[1]);
    FILE *file = fopen(a[2], "rb");
    if (!file) die(a[2]);
    fseek(file, 0, SEEK_END);
    request_size = ftell(file);
    rewind(file);
    if (!(request = malloc(request_size)) || fread(request, 1, request_size, file) != request_size) die(a[2]);
    int connections = atoi(a[3]);
    limit = atol(a[5]);
    interval = atof(a[6]);
    struct connection *all = calloc(connections, sizeof *all);
    struct pollfd *polled = calloc(connections, sizeof *polled);
    for (int i = 0; i < connections; i++) {
        all[i].fd = -1;
        if (!open_connection(&all[i])) die(a[1]);
    }
    double start = last = now();
    end = start + atof(a[4]) * 1e6;
    for (int i = 0; i < connections; i++) all[i].due = start + interval * i / connections;
    for (;;) {
        for (int i = 0; i < connections; i++)
            if ((!all[i].busy || polled[i].revents) && !pump(&all[i], polled[i].revents)) goto over;
        int busy = 0;
        double next = end;
        for (int i = 0; i < connections; i++) {
            busy += all[i].busy;
            if (!all[i].busy && all[i].due < next) next = all[i].due;
            polled[i].fd = all[i].busy ? all[i].fd : -1;
            polled[i].events = POLLIN | (all[i].sent < request_size ? POLLOUT : 0);
            polled[i].revents = 0;
        }
        double time = now();
        if (!busy && (time >= end || (limit && started >= limit))) break;
        if (time > end + 60e6) { /* nobody answers these any more */
            broken += busy;
            break;
        }
        double wait = interval && next > time && next < end ? next - time : interval && next <= time ? 0 : 1e5;
        struct timespec patience = {(time_t)(wait / 1e6), (long)(wait - (time_t)(wait / 1e6) * 1e6) * 1000};
        ppoll(polled, connections, &patience, NULL);
    }
over:
    qsort(times, count, sizeof *times, order);
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += times[i];
    printf("{\"requests\": %zu, \"bad\": %ld, \"first_bad\": %d, \"broken\": %ld, \"seconds\": %.6f, \"bytes_in\": %lld, "
           "\"mean\": %.2f, \"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"max\": %.2f}\n",
           count, bad, first_bad, broken, (last - start) / 1e6, bytes_in, count ? sum / count : 0, at(0.5), at(0.9), at(0.99), at(1));
    return 0;
}
