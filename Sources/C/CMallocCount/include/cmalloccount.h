// Counts allocations, for benches: what `malloc` and its kin are asked for by each thread.
#pragma once
#include <stdint.h>

// From here on, calls of malloc, calloc, realloc, posix_memalign and aligned_alloc from the program and the libraries
// it has loaded are counted. 0, or -1 where this system is not one it knows; nothing is changed then.
// To be called before other threads are started; a further call does nothing. What is counted stays correct: each call
// goes on to the C library.
int malloc_count_start(void);
// How many there were on the calling thread since the start.
uint64_t malloc_count_now(void);
