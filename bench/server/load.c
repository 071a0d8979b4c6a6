/* A load generator on one core: many connections, one request on each at a time, HTTP/1.1 or gRPC over HTTP/2.
 *
 * usage: load http|grpc PORT CONNECTIONS SECONDS RATE REQUEST_FILE [GRPC_PATH]
 *
 * RATE 0 is a closed loop: each connection asks again when it is answered. With a RATE (requests a second) arrivals
 * are Poisson and independent of the answers: one that finds no free connection waits for one, and its latency counts
 * from its arrival, so that a slow server is not asked less. Waiting arrivals beyond 100,000 are counted as dropped.
 * Prints one JSON object: counts, seconds, latencies in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, WAITING = 100000 };

typedef struct {
    int fd, busy, writable;
    double arrived;
    uint32_t stream;
    size_t sent, out_size;
    char *out;
    size_t have;
    char *in;
    long body_left;      /* HTTP: bytes of the body still to come; gRPC: of the frame */
    int in_body, status_ok, settings_due;
    uint8_t frame_type, frame_flags;
    uint64_t received, unreturned;
} connection;

static int grpc;
static char *request;
static size_t request_size;
static const char *path = "/inference.GRPCInferenceService/ModelInfer";
static char first_block[512], next_block[32];
static size_t first_size, next_size;
static long good, bad, dropped;
static double *latencies;
static size_t latency_count, latency_room;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void record(connection *c, int ok, double moment) {
    if (!ok) {
        bad++;
    } else {
        good++;
        if (latency_count == latency_room) {
            latency_room = latency_room ? latency_room * 2 : 1 << 20;
            latencies = realloc(latencies, latency_room * sizeof *latencies);
        }
        latencies[latency_count++] = moment - c->arrived;
    }
    c->busy = 0;
}

static void put24(char *to, uint32_t value) {
    to[0] = value >> 16, to[1] = value >> 8, to[2] = value;
}

static void put32(char *to, uint32_t value) {
    to[0] = value >> 24, to[1] = value >> 16, to[2] = value >> 8, to[3] = value;
}

static size_t frame_head(char *to, uint32_t length, int type, int flags, uint32_t stream) {
    put24(to, length);
    to[3] = type, to[4] = flags;
    put32(to + 5, stream);
    return 9;
}

static size_t text(char *to, const char *value) {
    size_t size = strlen(value);
    to[0] = size;
    memcpy(to + 1, value, size);
    return size + 1;
}

/* The first block puts every field into the table, the later ones name them by index, as gRPC clients do. */
static void make_blocks(void) {
    char *p = first_block;
    *p++ = (char)0x83, *p++ = (char)0x86;
    *p++ = 0x44, p += text(p, path);
    *p++ = 0x41, p += text(p, "127.0.0.1");
    *p++ = 0x5f, p += text(p, "application/grpc");
    *p++ = 0x40, p += text(p, "te"), p += text(p, "trailers");
    *p++ = 0x7a, p += text(p, "longshore-load/1");
    first_size = p - first_block;
    const unsigned char later[] = {0x83, 0x86, 66 | 0x80, 65 | 0x80, 64 | 0x80, 63 | 0x80, 62 | 0x80};
    memcpy(next_block, later, sizeof later);
    next_size = sizeof later;
}

static void flush(connection *c, int poll, struct epoll_event *event) {
    while (c->sent < c->out_size) {
        ssize_t n = grpc ? send(c->fd, c->out + c->sent, c->out_size - c->sent, MSG_NOSIGNAL)
                         /* from where it lies, time and again: a copy would make the client the slower side */
                         : send(c->fd, request + c->sent % request_size, request_size - c->sent % request_size,
                                MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) die("send");
            if (!c->writable) {
                c->writable = 1;
                event->events = EPOLLIN | EPOLLOUT;
                event->data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_MOD, c->fd, event);
            }
            return;
        }
        c->sent += n;
    }
    c->sent = c->out_size = 0;
    if (c->writable) {
        c->writable = 0;
        event->events = EPOLLIN;
        event->data.ptr = c;
        epoll_ctl(poll, EPOLL_CTL_MOD, c->fd, event);
    }
}

static void ask(connection *c, double arrived, int poll) {
    struct epoll_event event;
    c->busy = 1;
    c->arrived = arrived;
    if (!grpc) {
        c->out_size += request_size;
    } else {
        char *p = c->out + c->out_size;
        int first = c->stream == 0;
        c->stream = first ? 1 : c->stream + 2;
        size_t block = first ? first_size : next_size;
        p += frame_head(p, block, 1, 4, c->stream);
        memcpy(p, first ? first_block : next_block, block);
        p += block;
        size_t whole = request_size + 5, at = 0;
        char prefix[5] = {0};
        put32(prefix + 1, request_size);
        while (at < whole) {
            size_t part = whole - at > 16384 ? 16384 : whole - at;
            p += frame_head(p, part, 0, at + part == whole, c->stream);
            size_t done = 0;
            if (at < 5) memcpy(p, prefix + at, 5 - at), done = 5 - at;
            memcpy(p + done, request + at + done - 5, part - done);
            p += part, at += part;
        }
        c->out_size = p - c->out;
    }
    flush(c, poll, &event);
}

static void take_http(connection *c, double moment) {
    for (;;) {
        if (!c->in_body) {
            char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
            if (!end) return;
            c->status_ok = c->have > 12 && c->in[9] == '2';
            char *length = NULL;
            for (char *p = c->in; p < end; p++)
                if (*p == '\n' && !strncasecmp(p + 1, "content-length:", 15)) length = p + 16;
            c->body_left = length ? strtol(length, NULL, 10) : 0;
            c->in_body = 1;
            size_t head = end + 4 - c->in;
            memmove(c->in, c->in + head, c->have -= head);
        }
        long part = c->have < (size_t)c->body_left ? (long)c->have : c->body_left;
        c->body_left -= part;
        memmove(c->in, c->in + part, c->have -= part);
        if (c->body_left) return;
        c->in_body = 0;
        if (c->busy) record(c, c->status_ok, moment);
        if (!c->have) return;
    }
}

static void take_grpc(connection *c, double moment, int poll) {
    size_t at = 0;
    struct epoll_event event;
    while (c->have - at) {
        if (!c->in_body) {
            if (c->have - at < 9) break;
            unsigned char *h = (unsigned char *)c->in + at;
            c->body_left = h[0] << 16 | h[1] << 8 | h[2];
            c->frame_type = h[3], c->frame_flags = h[4];
            if (c->frame_type == 7) {
                fprintf(stderr, "the server ends a connection: %.*s\n", (int)(c->have - at > 17 ? c->have - at - 17 : 0), c->in + at + 17);
                exit(1);
            }
            c->in_body = 1;
            at += 9;
        }
        if (c->frame_type != 0) { /* small frames are looked at whole */
            if (c->have - at < (size_t)c->body_left) break;
            if (c->frame_type == 1 && c->frame_flags & 1) {
                /* trailers: grpc-status is a literal, in Huffman code, or indexed after a first literal, so what
                 * tells is that a message came, and that grpc-message, which some send always, is empty */
                char *said = memmem(c->in + at, c->body_left, "grpc-message", 12);
                int reason = said && said + 12 < c->in + at + c->body_left && said[12] != 0;
                c->status_ok = c->received > 0 && !reason;
                record(c, c->status_ok, moment);
                c->received = 0;
            } else if (c->frame_type == 3) {
                record(c, 0, moment);
            } else if ((c->frame_type == 4 || c->frame_type == 6) && !(c->frame_flags & 1)) {
                char *p = c->out + c->out_size;
                p += frame_head(p, c->frame_type == 6 ? 8 : 0, c->frame_type, 1, 0);
                if (c->frame_type == 6) memcpy(p, c->in + at, 8), p += 8;
                c->out_size = p - c->out;
                c->settings_due = 1;
            }
            at += c->body_left;
            c->in_body = 0;
            continue;
        }
        size_t part = c->have - at < (size_t)c->body_left ? c->have - at : (size_t)c->body_left;
        c->received += part;
        c->unreturned += part;
        at += part;
        c->body_left -= part;
        if (c->body_left == 0) {
            c->in_body = 0;
            char *p = c->out + c->out_size; /* give the connection's window back now and then */
            if (c->unreturned >= 1 << 20) {
                p += frame_head(p, 4, 8, 0, 0);
                put32(p, c->unreturned);
                c->unreturned = 0;
                c->out_size += 13;
                c->settings_due = 1;
            }
        }
    }
    memmove(c->in, c->in + at, c->have -= at);
    if (c->settings_due && !c->busy) c->settings_due = 0, flush(c, poll, &event);
}

static int open_connection(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    return latency_count ? latencies[(size_t)(share * (latency_count - 1))] * 1e6 : 0;
}

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: load http|grpc PORT CONNECTIONS SECONDS RATE REQUEST_FILE [GRPC_PATH]\n");
        return 2;
    }
    grpc = !strcmp(argv[1], "grpc");
    int port = atoi(argv[2]), count = atoi(argv[3]);
    double seconds = atof(argv[4]), rate = atof(argv[5]);
    if (argc > 7) path = argv[7];
    FILE *file = fopen(argv[6], "rb");
    if (!file) die(argv[6]);
    fseek(file, 0, SEEK_END);
    request_size = ftell(file);
    rewind(file);
    request = malloc(request_size);
    if (fread(request, 1, request_size, file) != request_size) die("read");
    make_blocks();
    int poll = epoll_create1(0);
    connection *all = calloc(count, sizeof *all);
    for (int i = 0; i < count; i++) {
        connection *c = &all[i];
        c->fd = open_connection(port);
        c->in = malloc(BUFFER);
        if (grpc) c->out = malloc(request_size + request_size / 1000 + 65536);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
        if (grpc) {
            char *p = c->out;
            memcpy(p, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24), p += 24;
            p += frame_head(p, 6, 4, 0, 0);
            p[0] = 0, p[1] = 4, put32(p + 2, 0x7fffffff), p += 6;
            p += frame_head(p, 4, 8, 0, 0);
            put32(p, 0x7fffffff - 65535), p += 4;
            c->out_size = p - c->out;
        }
    }
    srand48(7);
    static double waiting[WAITING];
    size_t first = 0, queued = 0;
    double start = now(), end = start + seconds, next = start, moment = start;
    long arrivals = 0;
    int cursor = 0;
    if (rate == 0)
        for (int i = 0; i < count; i++) ask(&all[i], now(), poll);
    struct epoll_event events[512];
    while (moment < end) {
        double pause = rate == 0 ? 0.1 : next - now();
        if (pause < 0) pause = 0;
        struct timespec wait = {.tv_sec = (time_t)pause, .tv_nsec = (long)((pause - floor(pause)) * 1e9)};
        int n = epoll_pwait2(poll, events, 512, &wait, NULL);
        moment = now();
        for (int i = 0; i < n; i++) {
            connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) flush(c, poll, &events[i]);
            /* What is left of a body is dropped in the kernel: only its length is looked at. */
            int drops = !grpc && c->in_body && c->body_left > 1;
            ssize_t got = drops ? recv(c->fd, NULL, c->body_left - 1, MSG_TRUNC)
                                : recv(c->fd, c->in + c->have, BUFFER - c->have, 0);
            if (got == 0) {
                fprintf(stderr, "the server closed a connection\n");
                return 1;
            }
            if (got < 0) {
                if (errno == EAGAIN) continue;
                die("recv");
            }
            if (drops) {
                c->body_left -= got;
                continue;
            }
            c->have += got;
            int was = c->busy;
            if (grpc) take_grpc(c, moment, poll);
            else take_http(c, moment);
            if (was && !c->busy) {
                if (rate == 0) ask(c, now(), poll);
                else if (queued) ask(c, waiting[first], poll), first = (first + 1) % WAITING, queued--;
            }
        }
        while (rate > 0 && next <= moment) {
            arrivals++;
            int found = -1;
            if (!queued)
                for (int tries = 0; tries < count; tries++) {
                    cursor = (cursor + 1) % count;
                    if (!all[cursor].busy) {
                        found = cursor;
                        break;
                    }
                }
            if (found >= 0) ask(&all[found], next, poll);
            else if (queued < WAITING) waiting[(first + queued++) % WAITING] = next;
            else dropped++;
            next += -log(1 - drand48()) / rate;
        }
    }
    double took = moment - start;
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"good\": %ld, \"bad\": %ld, \"dropped\": %ld, \"arrivals\": %ld, \"waiting\": %zu, \"seconds\": %.4f, "
           "\"rps\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}\n",
           good, bad, dropped, arrivals, queued, took, good / took, percentile(.5), percentile(.9), percentile(.99),
           percentile(.999), percentile(1));
    return 0;
}
