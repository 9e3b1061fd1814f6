/* Makes each fsync and fdatasync of a program take BENCH_SYNC_DELAY_US longer, as an SD card's do: LD_PRELOAD it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

typedef int (*sync_call)(int);

static int slowly(const char *name, int file) {
    sync_call call = (sync_call)dlsym(RTLD_NEXT, name);
    const char *text = getenv("BENCH_SYNC_DELAY_US");
    long delay_us = text ? atol(text) : 0;
    struct timespec pause = {delay_us / 1000000, delay_us % 1000000 * 1000};
    int result = call(file);
    if (delay_us) nanosleep(&pause, NULL);
    return result;
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
