// What of sockets and threads the Glibc module does not carry.
#pragma once
#include <pthread.h>
#include <stdint.h>

// accept4 with close-on-exec and non-blocking. -1 when there is none.
int clinux_accept(int listener);
// A stream socket with close-on-exec and non-blocking. -1 on failure.
int clinux_stream_socket(int family);
// Counts what is written to it and is readable then, with close-on-exec and non-blocking. -1 on failure.
int clinux_event_descriptor(void);
// Readable once the time is up that was set for it, with close-on-exec and non-blocking. -1 on failure.
int clinux_timer_descriptor(void);
// From now on, more than 0; an earlier time is forgotten. 0, or -1.
int clinux_timer_set(int descriptor, int64_t nanoseconds);
// Has a descriptor closed by exec, and reads of it not wait: 0, or -1.
int clinux_make_private(int descriptor);
// The calling process is ended by a signal when the thread that started it ends. 0, or -1.
int clinux_end_with_parent(int signal);
// Names the calling thread, for people; at most 15 bytes.
void clinux_name_thread(const char *name);
// Sleeps of the calling thread end when they are due, not up to 50 us later.
void clinux_sleep_precisely(void);

// The calling thread, and those it starts, give way to the process's others where cores are short.
void clinux_give_way(void);
// Memory that is freed is kept for what is allocated next, up to some 256 MiB, instead of given back at each step.
void clinux_keep_freed_memory(void);
