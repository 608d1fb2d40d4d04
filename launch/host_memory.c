/* Large blocks of memory that a program frees are kept for its next request of the same
   size. Preloaded before the C library's allocator; see host_memory.sh.

   XLA asks for one block for all that a step computes, and frees it: given back to the
   system, each of its pages is cleared and faulted in again at every step.

   A program never holds more memory from here than it had in use at some time: kept
   blocks are given back, the oldest first, before a new one would lift the sum. Where
   the system runs short of memory, it takes the kept pages before all others. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE ((size_t)1 << 21) /* a huge page: sizes and addresses are multiples */
#define LEAST PAGE             /* smaller blocks the C library keeps itself */
#define MOST 256               /* blocks; further ones are the C library's */

typedef struct {
    char *start; /* NULL: no block */
    size_t bytes;
    uint64_t freed; /* when, in blocks freed before; 0: in use */
} Block;

static Block blocks[MOST];
static size_t in_use, kept, most_in_use;
static uint64_t num_freed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *(*next_memalign)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);
static size_t (*next_usable_size)(void *);

static void hold(void) { pthread_mutex_lock(&lock); }

static void release(void) { pthread_mutex_unlock(&lock); }

/* Others' constructors may allocate before this one runs: every entry calls it. */
__attribute__((constructor)) static void find_next(void)
{
    if (next_free != NULL)
        return;
    *(void **)&next_memalign = dlsym(RTLD_NEXT, "memalign");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_usable_size = dlsym(RTLD_NEXT, "malloc_usable_size");
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    pthread_atfork(hold, release, release);
}

/* The functions below are called with the lock held. */

static Block *find(const char *start)
{
    for (Block *block = blocks; block < blocks + MOST; block++)
        if (block->start == start)
            return block;
    return NULL;
}

static Block *find_kept(size_t bytes)
{
    for (Block *block = blocks; block < blocks + MOST; block++)
        if (block->start != NULL && block->freed && block->bytes == bytes)
            return block;
    return NULL;
}

static void give_back_oldest(void)
{
    Block *oldest = NULL;
    for (Block *block = blocks; block < blocks + MOST; block++)
        if (block->freed && (oldest == NULL || block->freed < oldest->freed))
            oldest = block;
    munmap(oldest->start, oldest->bytes);
    kept -= oldest->bytes;
    *oldest = (Block){NULL, 0, 0};
}

/* Maps memory that starts at a multiple of PAGE; NULL where there is none. */
static char *map(size_t bytes)
{
    char *all = mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    char *start = (char *)(((uintptr_t)all + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    if (start > all)
        munmap(all, start - all);
    munmap(start + bytes, all + PAGE - start);
    madvise(start, bytes, MADV_HUGEPAGE); /* a wish; without, pages are small */
    return start;
}

static Block *make(size_t bytes)
{
    if (in_use + bytes > most_in_use)
        most_in_use = in_use + bytes;
    while (in_use + bytes + kept > most_in_use)
        give_back_oldest();
    Block *block = find(NULL);
    if (block == NULL && kept > 0) {
        give_back_oldest();
        block = find(NULL);
    }
    if (block == NULL)
        return NULL;
    char *start = map(bytes);
    if (start == NULL)
        return NULL;
    *block = (Block){start, bytes, 0};
    return block;
}

/* ---- the C library's functions ---- */

static void *allocate(size_t alignment, size_t bytes)
{
    Block *block = NULL;
    find_next();
    if (bytes >= LEAST && bytes < SIZE_MAX / 2 && alignment <= PAGE) {
        bytes = (bytes + PAGE - 1) & ~(PAGE - 1);
        hold();
        block = find_kept(bytes);
        if (block != NULL) {
            block->freed = 0;
            kept -= bytes;
        } else {
            block = make(bytes);
        }
        if (block != NULL)
            in_use += bytes;
        release();
    }
    return block != NULL ? block->start : next_memalign(alignment, bytes);
}

/* The block in use that starts here; it is the caller's, so it stays in use. */
static Block *find_used(void *start)
{
    if (start == NULL || (uintptr_t)start % PAGE)
        return NULL;
    hold();
    Block *block = find(start);
    release();
    return block;
}

int posix_memalign(void **result, size_t alignment, size_t bytes)
{
    if (alignment % sizeof(void *) || (alignment & (alignment - 1)) || !alignment)
        return EINVAL;
    const int before = errno;
    void *start = allocate(alignment, bytes);
    errno = before;
    if (start == NULL)
        return ENOMEM;
    *result = start;
    return 0;
}

void *memalign(size_t alignment, size_t bytes) { return allocate(alignment, bytes); }

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return allocate(alignment, bytes);
}

void free(void *start)
{
    Block *block = find_used(start);
    if (block == NULL) {
        find_next();
        next_free(start);
        return;
    }
    const int before = errno;
    hold();
    madvise(start, block->bytes, MADV_FREE); /* what it holds may be lost */
    block->freed = ++num_freed;
    in_use -= block->bytes;
    kept += block->bytes;
    release();
    errno = before;
}

void *realloc(void *start, size_t bytes)
{
    Block *block = find_used(start);
    if (block == NULL) {
        find_next();
        return next_realloc(start, bytes);
    }
    void *other = malloc(bytes);
    if (other != NULL) {
        memcpy(other, start, bytes < block->bytes ? bytes : block->bytes);
        free(start);
    }
    return other;
}

size_t malloc_usable_size(void *start)
{
    Block *block = find_used(start);
    if (block != NULL)
        return block->bytes;
    find_next();
    return next_usable_size(start);
}

/* For tests: what is in use and kept, in bytes. */
void ctjax_memory(size_t *bytes_in_use, size_t *bytes_kept)
{
    hold();
    *bytes_in_use = in_use;
    *bytes_kept = kept;
    release();
}
