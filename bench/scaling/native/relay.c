#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
/* One thread, epoll, splice(2) through a pipe per direction: what the kernel gives a plain relay. */
struct end { int fd; int eof; int pipe[2]; size_t held; struct end *peer; int dead; };
static int ep;
static void arm(struct end *e) {
    struct epoll_event ev = {.data.ptr = e};
    if (!e->eof && e->held == 0) ev.events |= EPOLLIN;
    if (e->peer->held) ev.events |= EPOLLOUT;
    epoll_ctl(ep, EPOLL_CTL_MOD, e->fd, &ev);
}
static struct end *graves[65536]; static int ngraves;
static void finish(struct end *e) {
    struct end *p = e->peer;
    if (e->dead) return;
    e->dead = p->dead = 1;
    for (int i = 0; i < 2; i++) { close(e->pipe[i]); close(p->pipe[i]); }
    close(e->fd); close(p->fd);
    graves[ngraves++] = e; graves[ngraves++] = p;
}
static int push(struct end *e) { /* pipe of e -> peer's socket */
    while (e->held) {
        ssize_t n = splice(e->pipe[0], 0, e->peer->fd, 0, e->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0) { if (errno == EAGAIN) return 0; return -1; }
        e->held -= n;
    }
    if (e->eof) shutdown(e->peer->fd, SHUT_WR);
    return 0;
}
static void on(struct end *e, unsigned events) {
    if (e->dead) return;
    if (events & EPOLLOUT) { if (push(e->peer)) { finish(e); return; } }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !e->eof && e->held == 0) {
        ssize_t n = splice(e->fd, 0, e->pipe[1], 0, 1 << 20, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0 && errno != EAGAIN) { finish(e); return; }
        if (n == 0) e->eof = 1;
        if (n > 0) e->held = n;
        if (n >= 0 && push(e)) { finish(e); return; }
    } else if (events & EPOLLERR) { finish(e); return; }
    if (e->eof && e->peer->eof && !e->held && !e->peer->held) { finish(e); return; }
    arm(e); arm(e->peer);
}
int main(int argc, char **argv) {
    if (argc < 3) { fprintf(stderr, "usage: relay LISTEN_PORT TARGET_PORT\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))}, t = a;
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr); t.sin_addr = a.sin_addr; t.sin_port = htons(atoi(argv[2]));
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("listen"); return 1; }
    ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
    for (;;) {
        int n = epoll_wait(ep, evs, 256, -1);
        for (int i = 0; i < n; i++) {
            if (evs[i].data.ptr) { on(evs[i].data.ptr, evs[i].events); continue; }
            for (int k = 0; k < 64; k++) {
                int c = accept4(l, NULL, NULL, SOCK_NONBLOCK);
                if (c < 0) break;
                int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
                setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (connect(s, (void *)&t, sizeof t) && errno != EINPROGRESS) { close(c); close(s); continue; }
                struct end *x = calloc(1, sizeof *x), *y = calloc(1, sizeof *y);
                x->fd = c; y->fd = s; x->peer = y; y->peer = x;
                if (pipe2(x->pipe, O_NONBLOCK) || pipe2(y->pipe, O_NONBLOCK)) return 1;
                fcntl(x->pipe[1], F_SETPIPE_SZ, 1 << 20); fcntl(y->pipe[1], F_SETPIPE_SZ, 1 << 20);
                struct epoll_event e1 = {.events = EPOLLIN, .data.ptr = x}, e2 = {.events = EPOLLIN, .data.ptr = y};
                epoll_ctl(ep, EPOLL_CTL_ADD, c, &e1); epoll_ctl(ep, EPOLL_CTL_ADD, s, &e2);
            }
        }
        while (ngraves) free(graves[--ngraves]);
    }
}
