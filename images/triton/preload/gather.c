/* Lets the clients that were just answered ask again before the next batch is taken.
 *
 * Triton gives a copy of a model the next batch as soon as it is free. Clients that ask again once they are answered
 * then fall into groups that take turns, each in a batch of its own, and every batch has a fixed cost. Loaded before
 * the C library (LD_PRELOAD), this keeps the copy, whose answers have left, until as many requests are in the server
 * as before them. It gives up when none came for half of the batch's time, and what it waits in vain is taken from
 * a budget of a fiftieth of the time: clients that do not come back at once lose no more than that.
 *
 * LONGSHORE_GATHER is the largest batch that is worth waiting for; without it nothing is changed. It is meant for a
 * server with one copy of one model. The functions are those of tritonserver.h and tritonbackend.h.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define VARIABLE "LONGSHORE_GATHER"

enum {
    SHARE = 50,              /* one part of so many may be waited in vain */
    CREDIT_NS = 20000000,    /* most of it that is saved up */
    LONGEST_NS = 2000000,    /* of one wait */
    LONGEST_QUIET_NS = 500000,
};

/* What is left of the budget, in nanoseconds, and when that was. */
struct budget {
    int64_t credit, at;
};

/* Requests in the server to wait for; 0 is no wait. */
struct wait {
    int64_t until, longest, quiet;
};

/* Decides, from requests in the server before and after the batch's answers, what to wait for; times in nanoseconds. */
struct wait longshore_gather(
    struct budget *budget, int64_t now, int64_t before, int64_t after, int64_t most, int64_t batch)
{
    struct wait wait = {0, LONGEST_NS, batch / 2 < LONGEST_QUIET_NS ? batch / 2 : LONGEST_QUIET_NS};
    if (!budget->at)
        budget->credit = CREDIT_NS;
    else if (now > budget->at)
        budget->credit += (now - budget->at) / SHARE;
    if (budget->credit > CREDIT_NS)
        budget->credit = CREDIT_NS;
    budget->at = now;
    int64_t until = before < most ? before : most;
    if (until > 1 && after < until && wait.quiet > 0 && budget->credit > 0)
        wait.until = until;
    return wait;
}

/* Takes a wait that was in vain from the budget. */
void longshore_gather_lost(struct budget *budget, int64_t waited)
{
    budget->credit -= waited;
}

static int64_t most;
static _Atomic int64_t arrived, answered, awaited;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t enough;
static struct budget budget;
/* Of the batch that this thread answers: its requests, and how many had arrived when its first answer left. */
static _Thread_local int64_t own, seen;

__attribute__((constructor)) static void begin(void)
{
    const char *number = getenv(VARIABLE);
    if (!number)
        return;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&enough, &attributes);
    most = atoi(number);
    /* Programs that the server starts are not concerned. */
    unsetenv(VARIABLE);
}

static int64_t clock_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void gather(int64_t before, int64_t batch)
{
    int64_t begun = clock_ns(), now = begun;
    struct wait wait = longshore_gather(&budget, begun, before, arrived - answered, most, batch);
    if (!wait.until)
        return;
    int64_t level = arrived - answered;
    pthread_mutex_lock(&mutex);
    awaited = wait.until;
    while (level < wait.until && now - begun < wait.longest) {
        int64_t end = now + wait.quiet;
        struct timespec time = {end / 1000000000, end % 1000000000};
        int late = pthread_cond_timedwait(&enough, &mutex, &time) == ETIMEDOUT;
        int64_t last = level;
        level = arrived - answered;
        now = clock_ns();
        if (late && level == last)
            break;
    }
    awaited = 0;
    pthread_mutex_unlock(&mutex);
    if (level < wait.until)
        longshore_gather_lost(&budget, now - begun);
}

/* The functions of the same name in Triton's library. */
#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

void *TRITONSERVER_ServerInferAsync(void *server, void *request, void *trace)
{
    NEXT(TRITONSERVER_ServerInferAsync);
    if (!most)
        return next(server, request, trace);
    arrived++;
    void *error = next(server, request, trace);
    if (error)
        arrived--;
    int64_t until = awaited;
    if (until && arrived - answered >= until) {
        pthread_mutex_lock(&mutex);
        pthread_cond_signal(&enough);
        pthread_mutex_unlock(&mutex);
    }
    return error;
}

void *TRITONBACKEND_ResponseSend(void *response, uint32_t flags, void *error)
{
    NEXT(TRITONBACKEND_ResponseSend);
    if (!seen)
        seen = arrived;
    return next(response, flags, error);
}

void *TRITONBACKEND_ModelInstanceReportStatistics(
    void *instance, void *request, int success, uint64_t begun, uint64_t computing, uint64_t computed, uint64_t ended)
{
    NEXT(TRITONBACKEND_ModelInstanceReportStatistics);
    own++;
    return next(instance, request, success, begun, computing, computed, ended);
}

void *TRITONBACKEND_ModelInstanceReportBatchStatistics(
    void *instance, uint64_t rows, uint64_t begun, uint64_t computing, uint64_t computed, uint64_t ended)
{
    NEXT(TRITONBACKEND_ModelInstanceReportBatchStatistics);
    void *error = next(instance, rows, begun, computing, computed, ended);
    /* What arrived since the first answer left may be the same clients again. */
    int64_t before = (seen ? seen : arrived) - answered;
    answered += own;
    /* Requests of the warm-up never arrived. */
    if (answered > arrived)
        answered = (int64_t)arrived;
    else if (most && ended > begun)
        gather(before, (int64_t)(ended - begun));
    own = seen = 0;
    return error;
}
