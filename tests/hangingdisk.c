/* Preloaded: while the file named by DISK_HANGS exists, whatever writes to a disk or waits for one does not return. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for_disk(void) {
    const char *held = getenv("DISK_HANGS");
    while (held && access(held, F_OK) == 0)
        usleep(10000);
}

int fsync(int file) {
    wait_for_disk();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file) {
    wait_for_disk();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}

ssize_t pwrite64(int file, const void *data, size_t count, off_t at) {
    wait_for_disk();
    return ((ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64"))(file, data, count, at);
}

ssize_t pwrite(int file, const void *data, size_t count, off_t at) {
    wait_for_disk();
    return ((ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite"))(file, data, count, at);
}
