/* What the kernel's sockets alone allow: answers each HTTP request with its own body, without a model.
 *
 * usage: echo PORT
 *
 * One thread, one request of a connection at a time, no checks: it is for this bench's load generator only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, EVENTS = 64 };

typedef struct {
    int fd, parts, waits;
    size_t have, want, head;
    char in[BUFFER], answer[128];
    struct iovec out[2];
} connection;

static void watch(int poll, int operation, connection *c, uint32_t what) {
    struct epoll_event event = {.events = what, .data.ptr = c};
    epoll_ctl(poll, operation, c->fd, &event);
}

static void flush(connection *c, int poll) {
    while (c->parts) {
        struct iovec *part = &c->out[2 - c->parts];
        ssize_t n = writev(c->fd, part, c->parts);
        if (n < 0) {
            if (errno == EAGAIN && !c->waits) watch(poll, EPOLL_CTL_MOD, c, EPOLLIN | EPOLLOUT), c->waits = 1;
            return;
        }
        for (; c->parts; part++, c->parts--) {
            size_t done = (size_t)n < part->iov_len ? (size_t)n : part->iov_len;
            part->iov_base = (char *)part->iov_base + done;
            part->iov_len -= done;
            n -= done;
            if (part->iov_len) break;
        }
    }
    if (c->waits) watch(poll, EPOLL_CTL_MOD, c, EPOLLIN), c->waits = 0;
}

static void take(connection *c, int poll) {
    if (!c->want) {
        char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!end) return;
        *end = 0;
        char *length = strcasestr(c->in, "\r\ncontent-length:");
        c->head = end + 4 - c->in;
        c->want = c->head + (length ? strtoul(length + 17, NULL, 10) : 0);
    }
    if (c->have < c->want) return;
    size_t size = c->want - c->head;
    int head = snprintf(c->answer, sizeof c->answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", size);
    c->out[0] = (struct iovec){c->answer, head};
    c->out[1] = (struct iovec){c->in + c->head, size};
    c->parts = 2;
    c->have = c->want = 0;
    flush(c, poll);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: echo PORT\n"), 2;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128))
        return perror("listen"), 1;
    int poll = epoll_create1(0);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            connection *c = events[i].data.ptr;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                watch(poll, EPOLL_CTL_ADD, c, EPOLLIN);
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(c, poll);
            ssize_t got = recv(c->fd, c->in + c->have, BUFFER - c->have, 0);
            if (got > 0) {
                c->have += got;
                take(c, poll);
            } else if (!got || errno != EAGAIN) {
                close(c->fd);
                free(c);
            }
        }
    }
}
