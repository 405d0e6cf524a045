/* Gives a process the time that a file tells: loaded before libc by LD_PRELOAD.

   struct simulated in the file that FIELDSTATION_SOAK_TIME names. All clocks but those of CPU time
   stand still between two changes of it, and every wait with a timeout ends by them, so a program
   cannot tell a day that passes in minutes from one that takes a day. Without the file, nothing. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS INT64_C(1000000000)
/* Waits look at the time so often. */
#define SLICE_NS INT64_C(4000000)
/* Shorter waits are not of the day but of the machine (the interpreter's lock, a busy database):
   they are as long as they say, or a holder of that lock would not be asked to yield. */
#define SHORT_NS INT64_C(20000000)

struct simulated {
    int64_t wall_us;      /* at elapsed 0 */
    int64_t elapsed_us;
};

static volatile struct simulated *simulated;

#define REAL(name)                                     \
    ({                                                 \
        if (!real_##name)                              \
            real_##name = dlsym(RTLD_NEXT, #name);     \
        real_##name;                                   \
    })

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_clock_nanosleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_sem_clockwait)(sem_t *, clockid_t, const struct timespec *);
static int (*real_ppoll)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
static int (*real_pselect)(int, fd_set *, fd_set *, fd_set *, const struct timespec *,
                           const sigset_t *);
static int (*real_epoll_pwait)(int, struct epoll_event *, int, int, const sigset_t *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_pthread_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t,
                                          const struct timespec *);

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("FIELDSTATION_SOAK_TIME");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof(struct simulated), PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED)
        simulated = found;
    close(file);
}

static int64_t to_ns(const struct timespec *time) { return time->tv_sec * NS + time->tv_nsec; }

static struct timespec from_ns(int64_t ns) {
    return (struct timespec){.tv_sec = ns / NS, .tv_nsec = ns % NS};
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

static int is_cpu(clockid_t clock) {
    return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID || clock < 0;
}

static int64_t real_ns(clockid_t clock) {
    struct timespec now;
    REAL(clock_gettime)(clock, &now);
    return to_ns(&now);
}

/* What the process takes for the time: also by a library that bends this one's wall clock. */
static int64_t told_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return to_ns(&now);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!simulated || is_cpu(clock))
        return REAL(clock_gettime)(clock, now);
    *now = from_ns((simulated->elapsed_us + (is_wall(clock) ? simulated->wall_us : 1000000)) * 1000);
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    int64_t us = told_ns(CLOCK_REALTIME) / 1000;
    now->tv_sec = us / 1000000;
    now->tv_usec = us % 1000000;
    return 0;
}

time_t time(time_t *now) {
    time_t seconds = told_ns(CLOCK_REALTIME) / NS;
    if (now)
        *now = seconds;
    return seconds;
}

static int64_t slice(int64_t left_ns) { return left_ns <= SHORT_NS ? left_ns : SLICE_NS; }

/* Sleeps until the process's own monotonic clock says so. */
static int sleep_until(int64_t until_ns) {
    int64_t left_ns;
    while ((left_ns = until_ns - told_ns(CLOCK_MONOTONIC)) > 0) {
        struct timespec step = from_ns(slice(left_ns));
        int error = REAL(clock_nanosleep)(CLOCK_MONOTONIC, 0, &step, NULL);
        if (error || left_ns <= SHORT_NS)
            return error;
    }
    return 0;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left) {
    if (!simulated)
        return REAL(clock_nanosleep)(clock, flags, time, left);
    int64_t for_ns = to_ns(time) - (flags & TIMER_ABSTIME ? told_ns(clock) : 0);
    int64_t until_ns = told_ns(CLOCK_MONOTONIC) + for_ns;
    int error = sleep_until(until_ns);
    if (left && !(flags & TIMER_ABSTIME)) {
        int64_t left_ns = until_ns - told_ns(CLOCK_MONOTONIC);
        *left = from_ns(left_ns > 0 ? left_ns : 0);
    }
    return error;
}

int nanosleep(const struct timespec *time, struct timespec *left) {
    int error = clock_nanosleep(CLOCK_MONOTONIC, 0, time, left);
    errno = error ? error : errno;
    return error ? -1 : 0;
}

int usleep(useconds_t us) {
    struct timespec time = from_ns((int64_t)us * 1000);
    return nanosleep(&time, NULL);
}

unsigned sleep(unsigned seconds) {
    struct timespec left = {0}, time = from_ns(seconds * NS);
    return nanosleep(&time, &left) ? left.tv_sec : 0;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    if (!simulated)
        return REAL(sem_clockwait)(semaphore, clock, until);
    for (;;) {
        int64_t left_ns = to_ns(until) - told_ns(clock);
        int64_t step_ns = left_ns > 0 ? slice(left_ns) : 0;
        struct timespec step = from_ns(real_ns(CLOCK_MONOTONIC) + step_ns);
        int failed = REAL(sem_clockwait)(semaphore, CLOCK_MONOTONIC, &step);
        if (!failed || errno != ETIMEDOUT || left_ns <= SHORT_NS)
            return failed;
    }
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    return sem_clockwait(semaphore, CLOCK_REALTIME, until);
}

/* A slice that ends is a spurious wake-up, as the standard allows: to wait on in here would miss a
   signal that comes between two slices. */
int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *until) {
    if (!simulated)
        return REAL(pthread_cond_clockwait)(condition, mutex, clock, until);
    int64_t left_ns = to_ns(until) - told_ns(clock);
    struct timespec step = from_ns(real_ns(clock) + (left_ns > 0 ? slice(left_ns) : 0));
    int error = REAL(pthread_cond_clockwait)(condition, mutex, clock, &step);
    return error == ETIMEDOUT && left_ns > SHORT_NS ? 0 : error;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                           const struct timespec *until) {
    if (!real_cond_timedwait) /* without its version, dlsym finds that of 1998 */
        real_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!simulated)
        return real_cond_timedwait(condition, mutex, until);
    /* Which clock a condition goes by cannot be asked, but the two are decades apart. */
    int64_t to_wall = llabs(to_ns(until) - told_ns(CLOCK_REALTIME));
    int64_t to_monotonic = llabs(to_ns(until) - told_ns(CLOCK_MONOTONIC));
    clockid_t clock = to_monotonic < to_wall ? CLOCK_MONOTONIC : CLOCK_REALTIME;
    int64_t left_ns = to_ns(until) - told_ns(clock);
    struct timespec step = from_ns(real_ns(clock) + (left_ns > 0 ? slice(left_ns) : 0));
    int error = real_cond_timedwait(condition, mutex, &step);
    return error == ETIMEDOUT && left_ns > SHORT_NS ? 0 : error;
}

int ppoll(struct pollfd *files, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
    if (!simulated || !timeout)
        return REAL(ppoll)(files, n, timeout, mask);
    int64_t until_ns = told_ns(CLOCK_MONOTONIC) + to_ns(timeout);
    for (;;) {
        int64_t left_ns = until_ns - told_ns(CLOCK_MONOTONIC);
        struct timespec step = from_ns(left_ns > 0 ? slice(left_ns) : 0);
        int found = REAL(ppoll)(files, n, &step, mask);
        if (found || left_ns <= SHORT_NS)
            return found;
    }
}

int poll(struct pollfd *files, nfds_t n, int timeout_ms) {
    struct timespec timeout = from_ns((int64_t)timeout_ms * 1000000);
    return ppoll(files, n, timeout_ms < 0 ? NULL : &timeout, NULL);
}

static void copy(fd_set *to, const fd_set *from) {
    if (to)
        *to = *from;
}

int pselect(int n, fd_set *reading, fd_set *writing, fd_set *failing, const struct timespec *timeout,
            const sigset_t *mask) {
    if (!simulated || !timeout)
        return REAL(pselect)(n, reading, writing, failing, timeout, mask);
    fd_set asked[3];
    if (reading)
        asked[0] = *reading;
    if (writing)
        asked[1] = *writing;
    if (failing)
        asked[2] = *failing;
    int64_t until_ns = told_ns(CLOCK_MONOTONIC) + to_ns(timeout);
    for (;;) {
        int64_t left_ns = until_ns - told_ns(CLOCK_MONOTONIC);
        struct timespec step = from_ns(left_ns > 0 ? slice(left_ns) : 0);
        copy(reading, &asked[0]);
        copy(writing, &asked[1]);
        copy(failing, &asked[2]);
        int found = REAL(pselect)(n, reading, writing, failing, &step, mask);
        if (found || left_ns <= SHORT_NS)
            return found;
    }
}

int select(int n, fd_set *reading, fd_set *writing, fd_set *failing, struct timeval *timeout) {
    struct timespec time = {0};
    if (timeout)
        time = from_ns(timeout->tv_sec * NS + timeout->tv_usec * 1000);
    return pselect(n, reading, writing, failing, timeout ? &time : NULL, NULL);
}

int epoll_pwait(int epoll, struct epoll_event *events, int n, int timeout_ms, const sigset_t *mask) {
    if (!simulated || timeout_ms < 0)
        return REAL(epoll_pwait)(epoll, events, n, timeout_ms, mask);
    int64_t until_ns = told_ns(CLOCK_MONOTONIC) + (int64_t)timeout_ms * 1000000;
    for (;;) {
        int64_t left_ns = until_ns - told_ns(CLOCK_MONOTONIC);
        int step_ms = left_ns > 0 ? (slice(left_ns) + 999999) / 1000000 : 0;
        int found = REAL(epoll_pwait)(epoll, events, n, step_ms, mask);
        if (found || left_ns <= SHORT_NS)
            return found;
    }
}

int epoll_wait(int epoll, struct epoll_event *events, int n, int timeout_ms) {
    return epoll_pwait(epoll, events, n, timeout_ms, NULL);
}
