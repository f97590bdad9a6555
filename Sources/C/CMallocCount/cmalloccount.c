#define _GNU_SOURCE
#include "cmalloccount.h"
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// How it is done: a program and its libraries call each other through tables of addresses that the dynamic linker
// fills in (x86-64 and AArch64 ELF psABI: relocations JUMP_SLOT and GLOB_DAT). The entries that name an allocation
// function are pointed at one of ours, which counts and goes on to the C library's. Unlike a `malloc` of our own, it
// costs a program that does not count nothing; unlike LD_PRELOAD, it needs no second file.

#if defined(__x86_64__)
enum { SLOT = R_X86_64_JUMP_SLOT, DATA = R_X86_64_GLOB_DAT };
#elif defined(__aarch64__)
enum { SLOT = R_AARCH64_JUMP_SLOT, DATA = R_AARCH64_GLOB_DAT };
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
int malloc_count_start(void) { return -1; }
uint64_t malloc_count_now(void) { return 0; }
#else

static __thread uint64_t count;

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);

static void *counted_malloc(size_t size) {
    count++;
    return real_malloc(size);
}

static void *counted_calloc(size_t items, size_t size) {
    count++;
    return real_calloc(items, size);
}

static void *counted_realloc(void *bytes, size_t size) {
    count++;
    return real_realloc(bytes, size);
}

static int counted_posix_memalign(void **bytes, size_t alignment, size_t size) {
    count++;
    return real_posix_memalign(bytes, alignment, size);
}

static void *counted_aligned_alloc(size_t alignment, size_t size) {
    count++;
    return real_aligned_alloc(alignment, size);
}

static struct {
    const char *name;
    void *counted;
    void **real;
} const functions[] = {
    {"malloc", counted_malloc, (void **)&real_malloc},
    {"calloc", counted_calloc, (void **)&real_calloc},
    {"realloc", counted_realloc, (void **)&real_realloc},
    {"posix_memalign", counted_posix_memalign, (void **)&real_posix_memalign},
    {"aligned_alloc", counted_aligned_alloc, (void **)&real_aligned_alloc},
};
enum { FUNCTIONS = sizeof functions / sizeof functions[0] };

static void *counted(const char *name) {
    for (int n = 0; n < FUNCTIONS; n++)
        if (strcmp(name, functions[n].name) == 0) return functions[n].counted;
    return NULL;
}

// The entry is on a page that is read-only where the object was linked with RELRO.
static int point(void **entry, void *function) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *start = (void *)((uintptr_t)entry & ~(page - 1));
    if (mprotect(start, page, PROT_READ | PROT_WRITE) != 0) return -1;
    __atomic_store_n(entry, function, __ATOMIC_RELEASE);
    return 0;
}

static int point_object(struct dl_phdr_info *object, size_t size, void *result) {
    (void)size;
    const ElfW(Dyn) *dynamic = NULL;
    for (int n = 0; n < object->dlpi_phnum; n++)
        if (object->dlpi_phdr[n].p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)(object->dlpi_addr + object->dlpi_phdr[n].p_vaddr);
    // The linker itself and the vDSO allocate nothing, and their tables hold no addresses but offsets.
    if (!dynamic || strstr(object->dlpi_name, "ld-linux") || strstr(object->dlpi_name, "vdso")) return 0;
    const ElfW(Rela) *tables[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    for (; dynamic->d_tag != DT_NULL; dynamic++) switch (dynamic->d_tag) {
            case DT_JMPREL: tables[0] = (const ElfW(Rela) *)dynamic->d_un.d_ptr; break;
            case DT_PLTRELSZ: sizes[0] = dynamic->d_un.d_val; break;
            case DT_RELA: tables[1] = (const ElfW(Rela) *)dynamic->d_un.d_ptr; break;
            case DT_RELASZ: sizes[1] = dynamic->d_un.d_val; break;
            case DT_SYMTAB: symbols = (const ElfW(Sym) *)dynamic->d_un.d_ptr; break;
            case DT_STRTAB: names = (const char *)dynamic->d_un.d_ptr; break;
        }
    if (!symbols || !names) return 0;
    for (int t = 0; t < 2; t++) {
        if (!tables[t]) continue;
        for (size_t n = 0; n < sizes[t] / sizeof *tables[t]; n++) {
            const ElfW(Rela) *entry = tables[t] + n;
            unsigned type = (unsigned)ELF64_R_TYPE(entry->r_info);
            if (type != SLOT && type != DATA) continue;
            void *function = counted(names + symbols[ELF64_R_SYM(entry->r_info)].st_name);
            if (function && point((void **)(object->dlpi_addr + entry->r_offset), function) != 0) *(int *)result = -1;
        }
    }
    return 0;
}

int malloc_count_start(void) {
    static int started;
    if (started) return 0;
    for (int n = 0; n < FUNCTIONS; n++) {
        *functions[n].real = dlsym(RTLD_DEFAULT, functions[n].name);
        if (!*functions[n].real) return -1;
    }
    int result = 0;
    dl_iterate_phdr(point_object, &result);
    started = result == 0;
    return result;
}

uint64_t malloc_count_now(void) { return count; }

#endif
