// What the Glibc module does not carry, and what needs the processor's own instructions.
#pragma once
#include <pthread.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

// CRC-32C (Castagnoli), as iSCSI and ext4 use it. `crc` is 0 to start, or the result for the bytes before.
uint32_t clinux_crc32c(uint32_t crc, const void *bytes, size_t count);

// Waits on a condition for at most `ns` nanoseconds of the monotonic clock; for ever when `ns` is negative.
// 0 when signalled (or woken for no reason), ETIMEDOUT when the time is over.
int clinux_condition_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, int64_t ns);

// open(2) relative to a directory, always with O_CLOEXEC. The descriptor, or the negative errno.
int clinux_openat(int directory, const char *path, int flags, unsigned mode);

// The calls below restart when a signal interrupts them and return the negative errno when they fail.
// One positioned vectored write; may be short.
int64_t clinux_pwritev(int file, const struct iovec *vectors, int count, int64_t offset);
int64_t clinux_pread(int file, void *bytes, size_t count, int64_t offset);
int clinux_fdatasync(int file);
int clinux_fsync(int file);
int clinux_ftruncate(int file, int64_t size);
// An advisory lock on the whole file that ends with the process: 0, or -EWOULDBLOCK when another process has it.
int clinux_lock(int file);
int clinux_unlock(int file);

// Actions of posix_spawn: no descriptor from `first` on is inherited; it begins in a folder. 0 or the errno.
int clinux_spawn_close_from(posix_spawn_file_actions_t *actions, int first);
int clinux_spawn_in(posix_spawn_file_actions_t *actions, const char *folder);

// Names a thread for debuggers and `top`; at most 15 bytes.
void clinux_thread_name(pthread_t thread, const char *name);
