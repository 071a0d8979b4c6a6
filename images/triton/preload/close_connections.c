/* Lets Triton's HTTP server say `Connection: close` (RFC 9112, section 9.6), which it cannot by itself.
 *
 * At its end Triton refuses new connections and waits for the open ones. A client that keeps one busy is
 * answered until the exit timeout, and then loses the request that is under way. Loaded before the C library
 * (LD_PRELOAD), this adds the header to answers once `longshore-triton` drains the server: a client then sends
 * its next request to another pod.
 *
 * LONGSHORE_DRAIN_FD is a file of at least one byte, shared with `longshore-triton`; not zero means drain.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define VARIABLE "LONGSHORE_DRAIN_FD"

static const char PROTOCOL[] = "HTTP/1.1 ";
static const char HEADER[] = "Connection: close\r\n";
enum { PROTOCOL_SIZE = sizeof PROTOCOL - 1, HEADER_SIZE = sizeof HEADER - 1 };

/* A status line is `HTTP/1.1 200 OK`; nothing longer is looked at. */
enum { STATUS_LINE = 128 };

/* Parts of an answer; libevent, on which Triton's server stands, writes 128 at most. */
enum { PARTS = 128 };

enum { PATIENCE_MS = 1000 };

static volatile const char *draining;

__attribute__((constructor)) static void begin(void)
{
    const char *number = getenv(VARIABLE);
    if (!number)
        return;
    int file = atoi(number);
    void *page = mmap(NULL, 1, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        draining = page;
    close(file);
    /* Programs that the server starts are not concerned. */
    unsetenv(VARIABLE);
}

/* Length of the status line of an answer that the part begins with; 0 where it begins with none. */
static size_t status_line(const struct iovec *part)
{
    size_t seen = part->iov_len < STATUS_LINE ? part->iov_len : STATUS_LINE;
    const char *line = part->iov_base;
    if (seen <= PROTOCOL_SIZE || memcmp(line, PROTOCOL, PROTOCOL_SIZE))
        return 0;
    /* The answer itself follows `100 Continue`. */
    if (line[PROTOCOL_SIZE] == '1')
        return 0;
    const char *end = memchr(line, '\n', seen);
    return end ? (size_t)(end + 1 - line) : 0;
}

/* Write what is left of the header: the caller does not know of it, so that it cannot go on for us. */
static int finish(int file, size_t written)
{
    while (written < HEADER_SIZE) {
        ssize_t more = syscall(SYS_write, file, HEADER + written, HEADER_SIZE - written);
        if (more > 0) {
            written += more;
        } else if (errno == EAGAIN) {
            struct pollfd room = {.fd = file, .events = POLLOUT};
            if (poll(&room, 1, PATIENCE_MS) != 1) {
                errno = EPIPE;
                return -1;
            }
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return 0;
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    size_t line = draining && *draining && count > 0 && count <= PARTS ? status_line(parts) : 0;
    if (!line)
        return syscall(SYS_writev, file, parts, count);
    struct iovec longer[PARTS + 2];
    longer[0] = (struct iovec){parts[0].iov_base, line};
    longer[1] = (struct iovec){(void *)HEADER, HEADER_SIZE};
    longer[2] = (struct iovec){(char *)parts[0].iov_base + line, parts[0].iov_len - line};
    memcpy(longer + 3, parts + 1, (count - 1) * sizeof *parts);
    ssize_t written = syscall(SYS_writev, file, longer, count + 2);
    if (written <= (ssize_t)line)
        return written;
    size_t ours = written - line;
    if (ours < HEADER_SIZE)
        return finish(file, ours) ? -1 : (ssize_t)line;
    return written - HEADER_SIZE;
}
