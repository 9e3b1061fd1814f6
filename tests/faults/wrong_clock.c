/* Gives one process a wall clock, an uptime and a boot id of its own; preloaded by wrong_clock.py.
 * WRONG_CLOCK_WALL: a file with one int64, ns added to the wall clock, which may change at any time.
 * WRONG_CLOCK_BOOT: ns added to CLOCK_BOOTTIME. WRONG_CLOCK_BOOT_ID: a file read instead of the kernel's boot id.
 * Sleeps and timeouts stay the kernel's: CLOCK_MONOTONIC is left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *wall;
static int64_t boot;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_open)(const char *, int, ...);

__attribute__((constructor)) static void begin(void) {
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    real_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    boot = strtoll(getenv("WRONG_CLOCK_BOOT"), NULL, 10);
    int file = real_open(getenv("WRONG_CLOCK_WALL"), O_RDONLY);
    void *page = mmap(NULL, sizeof *wall, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    wall = page;
    close(file);
}

int clock_gettime(clockid_t which, struct timespec *out) {
    if (real_gettime == NULL) begin();
    int failed = real_gettime(which, out);
    int64_t more = which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE ? *wall : which == CLOCK_BOOTTIME ? boot : 0;
    int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + more;
    if (failed || ns < 0) return failed;
    out->tv_sec = ns / 1000000000;
    out->tv_nsec = ns % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    if (real_open == NULL) begin();
    if (strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) path = getenv("WRONG_CLOCK_BOOT_ID");
    return real_open(path, flags, mode);
}
