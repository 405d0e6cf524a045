/* Bends a process's clock and disk: loaded before libc by LD_PRELOAD, steered by a mapped file.

   struct bent in the file that FIELDSTATION_TEST_BENT names; zeros bend nothing. The monotonic
   clock stays true, as on a machine whose time is set. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct bent {
    int64_t wall_offset_us;
    int64_t sync_delay_us;
    int64_t n_syncs;
};

static struct bent none;
static volatile struct bent *bent = &none;

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("FIELDSTATION_TEST_BENT");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof(struct bent), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found != MAP_FAILED)
        bent = found;
    close(file);
}

static int64_t wall_us(void) {
    static int (*real)(clockid_t, struct timespec *);
    struct timespec now;
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000 + bent->wall_offset_us;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    if (clock != CLOCK_REALTIME)
        return real(clock, now);
    int64_t us = wall_us();
    now->tv_sec = us / 1000000;
    now->tv_nsec = us % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    int64_t us = wall_us();
    now->tv_sec = us / 1000000;
    now->tv_usec = us % 1000000;
    return 0;
}

time_t time(time_t *now) {
    time_t seconds = wall_us() / 1000000;
    if (now)
        *now = seconds;
    return seconds;
}

static void wait_for_the_disk(void) {
    bent->n_syncs++;
    if (bent->sync_delay_us > 0)
        usleep(bent->sync_delay_us);
}

int fsync(int file) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    wait_for_the_disk();
    return real(file);
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fdatasync");
    wait_for_the_disk();
    return real(file);
}
