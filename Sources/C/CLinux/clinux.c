#define _GNU_SOURCE
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static uint32_t crc32c_table[256];

// The 3-way kernel runs three streams over blocks of LONG (or SHORT) bytes and joins them: the CRC of a stream is moved
// over the bytes of the ones behind it, which is a linear map, kept as four tables of 256 words per block length.
#define CRC_LONG 4096
#define CRC_SHORT 256
static uint32_t crc32c_move_long[4][256];
static uint32_t crc32c_move_short[4][256];

static uint32_t gf2_times(const uint32_t *matrix, uint32_t vector) {
    uint32_t sum = 0;
    for (; vector; vector >>= 1, matrix++)
        if (vector & 1) sum ^= *matrix;
    return sum;
}

static void gf2_square(uint32_t *square, const uint32_t *matrix) {
    for (int n = 0; n < 32; n++) square[n] = gf2_times(matrix, matrix[n]);
}

// Tables that move a CRC over `count` zero bytes; `count` is a power of two, at least 1.
static void crc32c_fill_move(uint32_t table[4][256], size_t count) {
    uint32_t a[32], b[32];
    a[0] = 0x82f63b78u;
    for (int n = 1; n < 32; n++) a[n] = 1u << (n - 1);
    // One zero bit so far; three squarings make a byte, the rest make `count` of them.
    size_t bits = 8 * count;
    uint32_t *from = a, *to = b;
    for (size_t have = 1; have < bits; have *= 2) {
        gf2_square(to, from);
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int k = 0; k < 4; k++) table[k][n] = gf2_times(from, n << (8 * k));
}

__attribute__((constructor)) static void crc32c_fill_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = (c & 1) ? (c >> 1) ^ 0x82f63b78u : c >> 1;
        crc32c_table[i] = c;
    }
    crc32c_fill_move(crc32c_move_long, CRC_LONG);
    crc32c_fill_move(crc32c_move_short, CRC_SHORT);
}

static uint32_t crc32c_portable(uint32_t c, const uint8_t *p, size_t n) {
    while (n--) c = crc32c_table[(c ^ *p++) & 0xff] ^ (c >> 8);
    return c;
}

#if defined(__x86_64__)
static uint32_t crc32c_move(const uint32_t table[4][256], uint32_t c) {
    return table[0][c & 0xff] ^ table[1][(c >> 8) & 0xff] ^ table[2][(c >> 16) & 0xff] ^ table[3][c >> 24];
}

static inline uint64_t word_at(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

#define CRC_THREE_WAYS(BLOCK, TABLE)                                             \
    while (n >= 3 * (BLOCK)) {                                                   \
        uint64_t c1 = 0, c2 = 0;                                                 \
        const uint8_t *end = p + (BLOCK);                                        \
        do {                                                                     \
            c = __builtin_ia32_crc32di(c, word_at(p));                           \
            c1 = __builtin_ia32_crc32di(c1, word_at(p + (BLOCK)));               \
            c2 = __builtin_ia32_crc32di(c2, word_at(p + 2 * (BLOCK)));           \
            p += 8;                                                              \
        } while (p < end);                                                       \
        c = crc32c_move(TABLE, (uint32_t)c) ^ (uint32_t)c1;                      \
        c = crc32c_move(TABLE, (uint32_t)c) ^ (uint32_t)c2;                      \
        p += 2 * (BLOCK);                                                        \
        n -= 3 * (BLOCK);                                                        \
    }

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t c0, const uint8_t *p, size_t n) {
    uint64_t c = c0;
    CRC_THREE_WAYS(CRC_LONG, crc32c_move_long)
    CRC_THREE_WAYS(CRC_SHORT, crc32c_move_short)
    while (n >= 8) {
        c = __builtin_ia32_crc32di(c, word_at(p));
        p += 8;
        n -= 8;
    }
    uint32_t r = (uint32_t)c;
    while (n--) r = __builtin_ia32_crc32qi(r, *p++);
    return r;
}
#endif

uint32_t clinux_crc32c(uint32_t crc, const void *bytes, size_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc32c_sse42(~crc, bytes, count);
#endif
    return ~crc32c_portable(~crc, bytes, count);
}

int clinux_condition_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t ns) {
    if (ns < 0) return pthread_cond_wait(condition, mutex);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec += ns % 1000000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &until);
}

#define RESTARTING(call)                          \
    do {                                          \
        __typeof__(call) result;                  \
        do result = (call);                       \
        while (result < 0 && errno == EINTR);     \
        return result < 0 ? -errno : result;      \
    } while (0)

int clinux_openat(int directory, const char *path, int flags, unsigned mode) {
    RESTARTING(openat(directory, path, flags | O_CLOEXEC, mode));
}

int64_t clinux_pwritev(int file, const struct iovec *vectors, int count, int64_t offset) {
    RESTARTING(pwritev(file, vectors, count, offset));
}

int64_t clinux_pread(int file, void *bytes, size_t count, int64_t offset) {
    RESTARTING(pread(file, bytes, count, offset));
}

int clinux_fdatasync(int file) { RESTARTING(fdatasync(file)); }

int clinux_fsync(int file) { RESTARTING(fsync(file)); }

int clinux_ftruncate(int file, int64_t size) { RESTARTING(ftruncate(file, size)); }

int clinux_lock(int file) { RESTARTING(flock(file, LOCK_EX | LOCK_NB)); }

int clinux_unlock(int file) { RESTARTING(flock(file, LOCK_UN)); }

void clinux_thread_name(pthread_t thread, const char *name) { pthread_setname_np(thread, name); }

int clinux_spawn_close_from(posix_spawn_file_actions_t *actions, int first) {
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
}

int clinux_spawn_in(posix_spawn_file_actions_t *actions, const char *folder) {
    return posix_spawn_file_actions_addchdir_np(actions, folder);
}
