/*
 * The program behind tests/estate.py: runs under any name, with any arguments, and does what its standard input says.
 *
 * One command a line, fields parted by 0x1f, one line of answer each. It ends when its standard input ends; with
 * ESTATE_MUTE set it only waits, and ends with its parent.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIELDS 512

static char line[1 << 20];
static char *field[FIELDS];

static void answer(long number)
{
    char text[32];
    int length = snprintf(text, sizeof text, "%ld\n", number);
    if (write(1, text, length) != length)
        _exit(1);
}

/* One byte at a time: after an exec, the next program must find the rest unread. */
static int read_line(void)
{
    size_t length = 0;
    int count = 0;
    for (;;) {
        char byte;
        ssize_t got = read(0, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0 || length + 1 == sizeof line)
            return 0;
        if (byte == '\n')
            break;
        line[length++] = byte;
    }
    line[length] = 0;
    memset(field, 0, sizeof field);
    for (char *at = line; at != NULL && count < FIELDS - 1;) {
        char *end = strchr(at, 0x1f);
        if (end != NULL)
            *end++ = 0;
        field[count++] = at;
        at = end;
    }
    return count;
}

static void die_with_parent(void)
{
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
}

static void wait_for_ever(void)
{
    for (;;)
        pause();
}

static void *idle(void *unused)
{
    wait_for_ever();
    return unused;
}

static void burn(long milliseconds)
{
    struct timespec began, now;
    volatile unsigned long work = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
    do {
        for (int turn = 0; turn < 100000; turn++)
            work += turn;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000 < milliseconds);
}

/* Starts argv[0..] from `path`; returns once it has become that program. */
static pid_t start(const char *path, char **argv)
{
    int became[2];
    char byte;
    if (pipe2(became, O_CLOEXEC) != 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        setenv("ESTATE_MUTE", "1", 1);
        die_with_parent();
        execv(path, argv);
        _exit(127);
    }
    close(became[1]);
    while (read(became[0], &byte, 1) < 0 && errno == EINTR)
        ;
    close(became[0]);
    return child;
}

/* Replaces {n} by a number. */
static char *numbered(const char *text, long number)
{
    const char *mark = strstr(text, "{n}");
    char *made = malloc(strlen(text) + 24);
    if (mark == NULL)
        strcpy(made, text);
    else
        sprintf(made, "%.*s%ld%s", (int)(mark - text), text, number, mark + 3);
    return made;
}

static long start_many(long first, long count)
{
    for (long number = first; number < first + count; number++) {
        char *argv[FIELDS];
        int at = 0;
        for (; field[at + 4] != NULL; at++)
            argv[at] = numbered(field[at + 4], number);
        argv[at] = NULL;
        if (start(field[3], argv) < 0)
            return number - first;
        for (at = 0; argv[at] != NULL; at++)
            free(argv[at]);
    }
    return count;
}

static long write_file(const char *path, long bytes)
{
    static char block[4096];
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (long done = 0; done < bytes; done += (long)sizeof block)
        if (write(file, block, sizeof block) < 0)
            return -errno;
    fsync(file);
    close(file);
    return bytes;
}

/* What a look costs at least: one line of each process. Answers in microseconds of processor time. */
static long read_all_stats(void)
{
    static char text[4096], path[300];
    struct timespec began, ended;
    struct dirent *entry;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
    DIR *folder = opendir("/proc");
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "%s/stat", entry->d_name);
        int file = openat(dirfd(folder), path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        while (read(file, text, sizeof text) < 0 && errno == EINTR)
            ;
        close(file);
    }
    closedir(folder);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
    return (ended.tv_sec - began.tv_sec) * 1000000 + (ended.tv_nsec - began.tv_nsec) / 1000;
}

static long handle(const char *word)
{
    pid_t child;
    if (strcmp(word, "exec") == 0) {
        execv(field[1], field + 2);
        return -errno;
    }
    if (strcmp(word, "child") == 0)
        return start(field[1], field + 2);
    if (strcmp(word, "crowd") == 0)
        return start_many(atol(field[1]), atol(field[2]));
    if (strcmp(word, "fork") == 0 || strcmp(word, "forkburn") == 0) {
        child = fork();
        if (child == 0) {
            die_with_parent();
            if (field[1] == NULL)
                wait_for_ever();
            burn(atol(field[1]));
            if (strcmp(word, "forkburn") == 0)
                wait_for_ever();
            _exit(0);
        }
        return child;
    }
    if (strcmp(word, "end") == 0) {
        kill(atol(field[1]), SIGKILL);
        return waitpid(atol(field[1]), NULL, 0);
    }
    if (strcmp(word, "kill") == 0)
        return kill(atol(field[1]), SIGKILL);
    if (strcmp(word, "reap") == 0)
        return waitpid(atol(field[1]), NULL, 0);
    if (strcmp(word, "burn") == 0) {
        burn(atol(field[1]));
        return 0;
    }
    if (strcmp(word, "threads") == 0) {
        for (long left = atol(field[1]); left > 0; left--) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, idle, NULL) != 0)
                return -1;
        }
        return 0;
    }
    if (strcmp(word, "write") == 0)
        return write_file(field[1], atol(field[2]));
    if (strcmp(word, "readstats") == 0)
        return read_all_stats();
    if (strcmp(word, "autoreap") == 0)
        return signal(SIGCHLD, SIG_IGN) == SIG_ERR ? -1 : 0;
    if (strcmp(word, "name") == 0)
        return prctl(PR_SET_NAME, field[1]);
    if (strcmp(word, "exit") == 0)
        _exit((int)atol(field[1]));
    return -ENOSYS;
}

int main(void)
{
    signal(SIGTERM, getenv("ESTATE_IGNORES_TERM") != NULL ? SIG_IGN : SIG_DFL);
    if (getenv("ESTATE_MUTE") != NULL) {
        wait_for_ever();
    }
    answer(getpid());
    while (read_line() > 0)
        answer(handle(field[0]));
    return 0;
}
