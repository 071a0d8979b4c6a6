/* Servers and clients that cost next to nothing, so that what stands between them is measured.
 *
 *   load source PORT                        sends without end to one client at a time
 *   load echo PORT                          answers one byte and closes
 *   load pull PORT SECONDS                  prints bytes per second received
 *   load connect PORT SECONDS AT_ONCE       prints new connections per second (each: 1 byte there and back)
 *   load burst PORT COUNT SECONDS           opens COUNT at once, prints how many got their byte, and the
 *                                           longest wait in seconds
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct sockaddr_in at(const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    return a;
}

static int listen_on(const char *port) {
    int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = at(port);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("listen"); exit(1); }
    return l;
}

static int dial(int ep, const char *port) {
    struct sockaddr_in a = at(port);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct epoll_event e = {.events = EPOLLOUT, .data.fd = s};
    if (s < 0) { perror("socket"); exit(1); }
    connect(s, (void *)&a, sizeof a);
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
    return s;
}

/* One step of a client: 0 goes on, 1 got its byte, -1 failed. */
static int advance(int ep, struct epoll_event *event) {
    char byte;
    int s = event->data.fd;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = s};
    if (event->events & EPOLLOUT) {
        if (write(s, "x", 1) != 1) return -1;
        epoll_ctl(ep, EPOLL_CTL_MOD, s, &e);
        return 0;
    }
    return read(s, &byte, 1) == 1 ? 1 : -1;
}

static void echo(const char *port) {
    int l = listen_on(port), ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = l}, es[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, l, &e);
    for (;;) {
        int n = epoll_wait(ep, es, 256, -1);
        for (int i = 0; i < n; i++) {
            int f = es[i].data.fd;
            if (f == l) {
                e.data.fd = accept(l, NULL, NULL);
                if (e.data.fd >= 0) epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e);
            } else {
                ssize_t r = read(f, buffer, 4096);
                if (r > 0 && write(f, buffer, r) < 0) perror("write");
                close(f);
            }
        }
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc < 3) return 2;
    const char *what = argv[1], *port = argv[2];
    if (!strcmp(what, "echo")) echo(port);
    if (!strcmp(what, "source")) {
        int l = listen_on(port);
        for (;;) {
            int s = accept(l, NULL, NULL);
            while (write(s, buffer, sizeof buffer) > 0) {}
            close(s);
        }
    }
    if (argc < 4) return 2;
    if (!strcmp(what, "pull")) {
        double begin = now(), limit = atof(argv[3]);
        long bytes = 0;
        struct sockaddr_in a = at(port);
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (void *)&a, sizeof a)) { perror("connect"); return 1; }
        while (now() - begin < limit) {
            ssize_t r = recv(s, buffer, sizeof buffer, MSG_TRUNC); /* not copied out: the relay is measured */
            if (r <= 0) break;
            bytes += r;
        }
        printf("%.0f\n", bytes / (now() - begin));
        return 0;
    }
    if (argc < 5) return 2;
    int ep = epoll_create1(0), live = 0;
    struct epoll_event es[256];
    struct linger reset = {1, 0}; /* no TIME_WAIT: ports must not run out */
    if (!strcmp(what, "connect")) {
        double begin = now(), limit = atof(argv[3]);
        int most = atoi(argv[4]);
        long done = 0, failed = 0;
        while (now() - begin < limit) {
            for (; live < most; live++) dial(ep, port);
            int n = epoll_wait(ep, es, 256, 100);
            for (int i = 0; i < n; i++) {
                int r = advance(ep, &es[i]);
                if (!r) continue;
                if (r > 0) done++; else failed++;
                setsockopt(es[i].data.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
                close(es[i].data.fd);
                live--;
            }
        }
        printf("%.0f %ld\n", done / (now() - begin), failed);
        return 0;
    }
    if (!strcmp(what, "burst")) {
        int count = atoi(argv[3]);
        double begin = now(), limit = atof(argv[4]), last = 0;
        long done = 0, failed = 0;
        for (; live < count; live++) dial(ep, port);
        while (live > 0 && now() - begin < limit) {
            int n = epoll_wait(ep, es, 256, 100);
            for (int i = 0; i < n; i++) {
                int r = advance(ep, &es[i]);
                if (!r) continue;
                if (r > 0) { done++; last = now() - begin; } else failed++;
                close(es[i].data.fd);
                live--;
            }
        }
        printf("%ld %ld %.3f\n", done, failed + live, last);
        return 0;
    }
    return 2;
}
