/* Convolutions of stride 1 as XLA's CPU backend calls them; see cpu.py.

   In an image [H, W, C] with zeros left and right, the C * k values that a kernel of
   size k meets in one row are neighbours. So a row is already the matrix of a matrix
   product whose lines overlap, and nothing has to be gathered.

   Images are float32 or bfloat16, whose products are summed in float32: of pairs where
   the processor has the instruction (AVX512-BF16), otherwise of what they are in
   float32.

   A call of this form cannot report that memory is short. So cpu.py reserves the memory
   to work in before XLA calls, and reports it; the process keeps it. */

#include <math.h> /* NAN */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define SLOPE 0.01f /* of LeakyReLU, see activation.py */
#define MAX_SIZE 7 /* of a kernel */
#define MAX_THREADS 512
#define PIXELS 96   /* of a row that a bfloat16 convolution reads again and again */
#define COLUMNS 128 /* that are summed before the sums go back to memory */
#define HUGE_PAGE (1 << 21)
#define LINE 16     /* floats of a cache's line */
#define SUMS 1024   /* of a bfloat16 convolution that wait to be rounded */

/* How products are computed of images, whose type it implies. */
enum { FLOAT32, BFLOAT16, BFLOAT16_PAIRS };

typedef uint16_t bfloat16 __attribute__((may_alias));
typedef uint32_t pair __attribute__((may_alias)); /* the first in the lower half */

typedef struct task {
    int64_t images, height, width, inputs, outputs, size, lanes, format;
    int64_t is_turned; /* whether the kernel is of the convolution whose gradient of the
                          input this is: [size, size, outputs, inputs], rows and columns
                          the other way round */
    int64_t workers; /* threads that share the parts */
    float slope;     /* of the activation, where what it takes is negative */
    int64_t columns; /* of a product: the outputs, in bfloat16 made a multiple of 8 */
    const void *x;      /* [images, height, width, inputs] */
    const void *second; /* the kernel, float32, or the gradient of the output */
    const float *bias;  /* to be added before an activation, or NULL */
    const void *residual; /* likewise; in bfloat16 without a bias too */
    void *out;
    double *sums;  /* [parts, outputs] */
    float *packed; /* the kernel, for products in bfloat16 */
    float *space;  /* for each worker, as much as its function needs */
    int64_t parts; /* into which all rows are split */
    /* Brings a row of x, counted over all images, into the form of `Rows`. */
    void (*fill)(const struct task *, int64_t row, float *values);
    /* Makes a row, or two, of the result. */
    void (*pass)(const struct task *, int64_t row, float *between);
} Task;

/* ---- threads: they wait for one task after the other, and share its parts ---- */

static pthread_mutex_t one_task = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static void (*work)(const Task *, int64_t part, int64_t worker);
static const Task *task;
static int64_t num_parts, next_part, parts_left, num_workers;
static int num_threads = 1; /* with the one that calls */

/* Holds the lock at its beginning and its end. */
static void take_parts(int64_t worker)
{
    while (worker < num_workers && next_part < num_parts) {
        const int64_t part = next_part++;
        pthread_mutex_unlock(&lock);
        work(task, part, worker);
        pthread_mutex_lock(&lock);
        if (--parts_left == 0)
            pthread_cond_signal(&ended);
    }
}

static void *help(void *number)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        take_parts((intptr_t)number);
        pthread_cond_wait(&begun, &lock);
    }
    return NULL;
}

/* Between `begin` and `end`. */
static void share(const Task *shared,
                  void (*function)(const Task *, int64_t part, int64_t worker))
{
    pthread_mutex_lock(&lock);
    task = shared;
    work = function;
    next_part = 0;
    num_parts = parts_left = shared->parts;
    num_workers = shared->workers;
    pthread_cond_broadcast(&begun);
    take_parts(0);
    while (parts_left > 0)
        pthread_cond_wait(&ended, &lock);
    pthread_mutex_unlock(&lock);
}

/* Starts the threads, once; those that cannot be started are done without. */
void ctjax_start_threads(int count)
{
    pthread_attr_t attributes;
    pthread_mutex_lock(&lock);
    if (pthread_attr_init(&attributes) == 0) {
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        while (num_threads < count && num_threads < MAX_THREADS) {
            pthread_t thread;
            if (pthread_create(&thread, &attributes, help, (void *)(intptr_t)num_threads))
                break;
            num_threads++;
        }
        pthread_attr_destroy(&attributes);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- memory to work in, which tasks use one after the other ---- */

static float *space;
static int64_t space_floats;

static int make_space(int64_t floats)
{
    if (floats > space_floats) {
        const int64_t lines = (floats + LINE - 1) / LINE;
        float *memory = aligned_alloc(LINE * sizeof(float), lines * LINE * sizeof(float));
        if (memory == NULL)
            return 0;
        free(space);
        space = memory;
        space_floats = floats;
    }
    return 1;
}

/* Returns whether there is memory for so many floats from now on. */
int ctjax_reserve(int64_t floats)
{
    pthread_mutex_lock(&one_task);
    const int is_there = make_space(floats);
    pthread_mutex_unlock(&one_task);
    return is_there;
}

/* Returns the memory for a task, until `end`. NULL for a program that another process has
   traced, where there is none: the result is not a number then. */
static float *begin(int64_t floats)
{
    pthread_mutex_lock(&one_task);
    return make_space(floats > 0 ? floats : 1) ? space : NULL;
}

static void end(void) { pthread_mutex_unlock(&one_task); }

static void fill_with_nan(const Task *t, void *out, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (t->format == FLOAT32)
            ((float *)out)[i] = NAN;
        else
            ((bfloat16 *)out)[i] = 0x7fc0;
}

/* Memory for a result is new in every step, and the system clears it page by page when
   it is first written: huge pages are fewer. A hint, which may be refused. */
static void prefer_huge_pages(void *out, int64_t bytes)
{
#if defined(MADV_HUGEPAGE)
    const uintptr_t first = (uintptr_t)out / HUGE_PAGE * HUGE_PAGE;
    const uintptr_t last = (uintptr_t)out + bytes;
    if (bytes >= HUGE_PAGE)
        (void)madvise((void *)first, (last - first + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE,
                      MADV_HUGEPAGE);
#else
    (void)out;
    (void)bytes;
#endif
}

/* ---- the product ---- */

/* out[m][n] (+)= sum over i < blocks, k < count of
       x[i][m * line + k * step] * y[i * skip + k * stride + n]
   for m < lines and n < columns, a multiple of 8; lines of out lie `stride` apart.

   Of pairs: at each of these places are two neighbours in bfloat16, in the space of a
   float; the sum is over both. x is then counted in bfloat16s. Where `finished` is
   given, it gets the sums instead of out, plus `more` and a bias if there are any, with a
   bias activated, and rounded. */
typedef struct {
    const void *const *x;
    int64_t lines, line, step; /* the last two in elements of x */
    const float *y;
    int64_t columns, skip, stride, blocks, count;
    float *out;
    int add;
    bfloat16 *finished;
    const float *bias;
    const bfloat16 *more;
    /* Of a product of rows: line m of x is rows[m], whose products are added to line
       places[m] of out. */
    const int32_t *rows, *places;
} Product;

#define ELEMENT float
#define MULTIPLY_ADD(sum, a, row) ((sum) + *(a) * (row))
#define ADDRESSES(ADDRESS) ADDRESS(16, 1) /* features of the largest images */
#define LANES 8
#define TILES_OF_ROWS(TILE, V) TILE(6, V) TILE(4, V) TILE(2, V) TILE(1, V)
#define TILES_OF_TWO(TILE) TILE(6, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2)
#define TILES_OF_ONE(TILE) TILE(12, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)
#define NAME(name) name##_8
#define TARGET
#include "cpu_product.h"

#if defined(__x86_64__)
/* AVX-512 has twice the registers as well. */
#define ELEMENT float
#define MULTIPLY_ADD(sum, a, row) ((sum) + *(a) * (row))
#define ADDRESSES(ADDRESS) ADDRESS(16, 1)
#define LANES 16
#define TILES_OF_ROWS(TILE, V) TILE(8, V) TILE(4, V) TILE(2, V) TILE(1, V)
#define TILES_OF_TWO(TILE) TILE(12, 2) TILE(8, 2) TILE(4, 2) TILE(1, 2)
#define TILES_OF_ONE(TILE) TILE(12, 1) TILE(8, 1) TILE(4, 1) TILE(1, 1)
#define NAME(name) name##_16
#define TARGET __attribute__((target("avx512f")))
#include "cpu_product.h"

#if defined(__clang__) || __GNUC__ >= 10
#include <immintrin.h>
#define HAS_PAIRS 1
typedef uint32_t unaligned_pair __attribute__((may_alias, aligned(2)));
#define PAIR(address) *(const unaligned_pair *)(address)
/* Fewer sums than 6 at a time wait for each other. */
#define TILES_OF_ONE_OF_PAIRS(TILE)                                                    \
    TILE(24, 1) TILE(16, 1) TILE(8, 1) TILE(5, 1) TILE(3, 1) TILE(1, 1)
#define PAIRS_TARGET __attribute__((target("avx512f,avx512vl,avx512bf16")))
#define ADDRESSES_OF_PAIRS(ADDRESS)                                                    \
    ADDRESS(2, p->step) /* gradients of a kernel */                                    \
    ADDRESS(16, 2) ADDRESS(32, 2) ADDRESS(48, 2) ADDRESS(64, 2)

/* Writes the sums of 16 outputs from `column` on; `place` counts elements of the image. */
PAIRS_TARGET static inline void finish_16(const Product *p, int64_t place, int64_t column,
                                          __m512 sum)
{
    if (p->more) {
        const __m256i more = _mm256_loadu_si256((const void *)(p->more + place));
        sum += (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(more), 16);
    }
    if (p->bias) {
        sum += _mm512_loadu_ps(p->bias + column);
        const __mmask16 above = _mm512_cmp_ps_mask(sum, _mm512_setzero_ps(), _CMP_GT_OQ);
        sum = _mm512_mask_mul_ps(sum, (__mmask16)~above, sum, _mm512_set1_ps(SLOPE));
    }
    _mm256_storeu_si256((void *)(p->finished + place), (__m256i)_mm512_cvtneps_pbh(sum));
}

PAIRS_TARGET static inline void finish_8(const Product *p, int64_t place, int64_t column,
                                         __m256 sum)
{
    if (p->more) {
        const __m128i more = _mm_loadu_si128((const void *)(p->more + place));
        sum += (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(more), 16);
    }
    if (p->bias) {
        sum += _mm256_loadu_ps(p->bias + column);
        const __mmask8 above = _mm256_cmp_ps_mask(sum, _mm256_setzero_ps(), _CMP_GT_OQ);
        sum = _mm256_mask_mul_ps(sum, (__mmask8)~above, sum, _mm256_set1_ps(SLOPE));
    }
    _mm_storeu_si128((void *)(p->finished + place), (__m128i)_mm256_cvtneps_pbh(sum));
}

#define ELEMENT bfloat16
#define MULTIPLY_ADD(sum, a, row)                                                      \
    (vector)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32((int)PAIR(a)), \
                             (__m512bh)(row))
#define ADDRESSES ADDRESSES_OF_PAIRS
#define FINISH finish_16
#define LANES 16
#define TILES_OF_ROWS(TILE, V) TILE(8, V) TILE(4, V) TILE(2, V) TILE(1, V)
#define TILES_OF_TWO(TILE) TILE(12, 2) TILE(8, 2) TILE(4, 2) TILE(1, 2)
#define TILES_OF_ONE TILES_OF_ONE_OF_PAIRS
#define NAME(name) name##_of_pairs_16
#define TARGET PAIRS_TARGET
#include "cpu_product.h"

#define ELEMENT bfloat16
#define MULTIPLY_ADD(sum, a, row)                                                      \
    (vector)_mm256_dpbf16_ps((__m256)(sum), (__m256bh)_mm256_set1_epi32((int)PAIR(a)), \
                             (__m256bh)(row))
#define ADDRESSES ADDRESSES_OF_PAIRS
#define FINISH finish_8
#define LANES 8
#define TILES_OF_ROWS(TILE, V) TILE(8, V) TILE(4, V) TILE(2, V) TILE(1, V)
#define TILES_OF_TWO(TILE) TILE(1, 2) /* never: wide vectors take these columns */
#define TILES_OF_ONE TILES_OF_ONE_OF_PAIRS
#define NAME(name) name##_of_pairs_8
#define TARGET PAIRS_TARGET
#include "cpu_product.h"
#endif
#endif

/* Wide vectors for the columns that fill them, short ones for the rest. */
static void product_of_both(const Product *p, int64_t (*wide)(const Product *),
                            int64_t (*narrow)(const Product *))
{
    Product rest = *p;
    const int64_t done = wide(p);
    rest.y += done;
    rest.out += done;
    rest.columns -= done;
    if (rest.finished)
        rest.finished += done;
    if (rest.bias)
        rest.bias += done;
    if (rest.more)
        rest.more += done;
    narrow(&rest);
}

/* In float32 the same bits, whatever the vectors. */
static void product(const Task *t, const Product *p)
{
#if defined(HAS_PAIRS)
    if (t->format == BFLOAT16_PAIRS) {
        product_of_both(p, product_of_pairs_16, product_of_pairs_8);
        return;
    }
#endif
#if defined(__x86_64__)
    if (t->lanes == 16) {
        product_of_both(p, product_16, product_8);
        return;
    }
#endif
    (void)t;
    product_8(p);
}

/* Of one block. */
static void product_of_rows(const Task *t, const Product *p)
{
#if defined(HAS_PAIRS)
    if (t->format == BFLOAT16_PAIRS) {
        product_of_both(p, product_of_rows_of_pairs_16, product_of_rows_of_pairs_8);
        return;
    }
#endif
#if defined(__x86_64__)
    if (t->lanes == 16) {
        product_of_both(p, product_of_rows_16, product_of_rows_8);
        return;
    }
#endif
    (void)t;
    product_of_rows_8(p);
}

/* ---- bfloat16 ---- */

typedef float vector __attribute__((vector_size(32)));
typedef float unaligned __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(32)));
typedef uint32_t words __attribute__((vector_size(32)));
typedef uint32_t unaligned_words __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(16)));
typedef uint16_t unaligned_halves __attribute__((vector_size(16), aligned(2), may_alias));

/* What the activation multiplies with, by its argument or by its result. */
static inline vector slopes(vector x, float slope)
{
    const mask above = x > 0;
    const vector below = (vector){0} + slope, one = (vector){0} + 1.0f;
    return (vector)((above & (mask)one) | (~above & (mask)below));
}

static inline vector activate(vector x, float slope) { return x * slopes(x, slope); }

static inline words words_of(const bfloat16 *x)
{
    return __builtin_convertvector(*(const unaligned_halves *)x, words);
}

static inline vector widen_8(const bfloat16 *x) { return (vector)(words_of(x) << 16); }

/* To the nearest, ties to even; what is not a number stays none. */
static inline halves round_8(vector x)
{
    const words bits = (words)x;
    const words nearest = bits + 0x7fff + (bits >> 16 & 1);
    const words none = (words)(x != x);
    const words kept = (nearest & ~none) | ((bits | 1 << 22) & none);
    return __builtin_convertvector(kept >> 16, halves);
}

static void widen(const bfloat16 *x, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        ((pair *)out)[i] = (pair)x[i] << 16;
}

/* Brings [lines, outputs] into the form of y of a product, zeros where nothing is. */
static void pack(const Task *t, const bfloat16 *x, int64_t lines, float *out)
{
    const int64_t outputs = t->outputs, columns = t->columns;
    const int64_t step = t->format == BFLOAT16_PAIRS ? 2 : 1;
    for (int64_t line = 0; line < lines; line += step, x += step * outputs) {
        pair *packed = (pair *)out + line / step * columns;
        if (outputs < columns)
            memset(packed + outputs, 0, (columns - outputs) * sizeof *packed);
        if (step == 1)
            widen(x, outputs, (float *)packed);
        else if (line + 1 < lines && outputs % 8 == 0)
            for (int64_t i = 0; i < outputs; i += 8)
                *(unaligned_words *)(packed + i) =
                    words_of(x + i) | words_of(x + i + outputs) << 16;
        else if (line + 1 < lines)
            for (int64_t i = 0; i < outputs; i++)
                packed[i] = x[i] | (pair)x[i + outputs] << 16;
        else
            for (int64_t i = 0; i < outputs; i++)
                packed[i] = x[i];
    }
}

static int64_t packed_lines(const Task *t, int64_t lines)
{
    return t->format == BFLOAT16_PAIRS ? (lines + 1) / 2 : lines;
}

/* Rounds a number of the kernel and puts it where y of a product has it. */
static void pack_one(const Task *t, float *packed, int64_t line, int64_t column,
                     float value)
{
    const bfloat16 rounded = round_8(value - (vector){0})[0];
    if (t->format == BFLOAT16_PAIRS)
        ((bfloat16 *)packed)[(line / 2 * t->columns + column) * 2 + line % 2] = rounded;
    else
        ((pair *)packed)[line * t->columns + column] = (pair)rounded << 16;
}

#define NAME(name) name##_by_bits
#define ROUND round_8
#define TARGET
#include "cpu_bfloat16.h"

#if defined(HAS_PAIRS)
#define NAME(name) name##_by_one
#define ROUND(x) (halves)_mm256_cvtneps_pbh((__m256)(x))
#define TARGET PAIRS_TARGET
#include "cpu_bfloat16.h"
#define PASS(t, name) ((t)->format == BFLOAT16_PAIRS ? name##_by_one : name##_by_bits)
#else
#define PASS(t, name) name##_by_bits
#endif

/* ---- rows of the input, with zeros left and right ---- */

typedef struct {
    float *values; /* [size, width + size - 1, inputs], elements or pairs */
    int64_t line, held[MAX_SIZE];
} Rows;

static int64_t floats_of_rows(const Task *t)
{
    return t->size * (t->width + t->size - 1) * t->inputs;
}

static Rows make_rows(const Task *t, float *values)
{
    Rows rows = {values, (t->width + t->size - 1) * t->inputs, {0}};
    memset(rows.values, 0, floats_of_rows(t) * sizeof(float));
    for (int64_t i = 0; i < t->size; i++)
        rows.held[i] = -1;
    return rows;
}

/* Finds the rows that the output's row `row` (of all images) meets: `found` holds
   them, the first belongs to the kernel's row `*first`. Returns how many there are. */
static int64_t find_rows(const Task *t, Rows *rows, int64_t row, int64_t *first,
                         const void *found[MAX_SIZE])
{
    const int64_t padding = (t->size - 1) / 2, y = row % t->height;
    const int64_t low = y < padding ? -y : -padding;
    const int64_t high = t->height - 1 - y < padding ? t->height - 1 - y : padding;
    *first = low + padding;
    for (int64_t i = low; i <= high; i++) {
        const int64_t slot = (row + i) % t->size;
        float *values = rows->values + slot * rows->line;
        if (rows->held[slot] != row + i) {
            t->fill(t, row + i, values);
            rows->held[slot] = row + i;
        }
        found[i - low] = values;
    }
    return high - low + 1;
}

static int64_t size_of_padding(const Task *t)
{
    return (t->size - 1) / 2 * t->inputs;
}

static void copy_row(const Task *t, int64_t row, float *values)
{
    const int64_t count = t->width * t->inputs;
    memcpy(values + size_of_padding(t), (const float *)t->x + row * count,
           count * sizeof(float));
}

/* Then a row fills but the first half of its space. What follows it is zero, and what
   the last pixel's last pair may reach. */
static void copy_bfloat16_row(const Task *t, int64_t row, float *values)
{
    const int64_t count = t->width * t->inputs;
    memcpy((bfloat16 *)values + size_of_padding(t), (const bfloat16 *)t->x + row * count,
           count * sizeof(bfloat16));
}

static void widen_row(const Task *t, int64_t row, float *values)
{
    const int64_t count = t->width * t->inputs;
    widen((const bfloat16 *)t->x + row * count, count, values + size_of_padding(t));
}

/* Each element with that of the next pixel. */
static void pair_row(const Task *t, int64_t row, float *values)
{
    const int64_t count = t->width * t->inputs, next = t->inputs;
    const bfloat16 *x = (const bfloat16 *)t->x + row * count;
    pair *out = (pair *)values + size_of_padding(t);
    if (t->size > 1) /* the first pixel follows a zero */
        for (int64_t i = 0; i < next; i++)
            out[i - next] = (pair)x[i] << 16;
    for (int64_t i = 0; i < count - next; i++)
        out[i] = x[i] | (pair)x[i + next] << 16;
    for (int64_t i = count - next; i < count; i++)
        out[i] = x[i];
}

static int64_t first_row(const Task *t, int64_t part)
{
    return t->images * t->height * part / t->parts;
}

/* ---- what XLA calls ---- */

/* Adds to a row of the output and activates it, while it is near. */
static void finish_row(const Task *t, int64_t row)
{
    const int64_t line = t->width * t->outputs;
    float *out = (float *)t->out + row * line;
    const float *more = t->residual ? (const float *)t->residual + row * line : NULL;
    for (int64_t column = 0; column < line; column += t->outputs)
        for (int64_t i = 0; i < t->outputs; i += 8) {
            unaligned *place = (unaligned *)(out + column + i);
            vector sum = *place + *(const unaligned *)(t->bias + i);
            if (more)
                sum += *(const unaligned *)(more + column + i);
            *place = activate(sum, t->slope);
        }
}

static void convolve_part(const Task *t, int64_t part, int64_t worker)
{
    const int64_t count = t->size * t->inputs, skip = count * t->outputs;
    Rows rows = make_rows(t, t->space + worker * floats_of_rows(t));
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++) {
        const void *found[MAX_SIZE];
        int64_t first;
        const int64_t blocks = find_rows(t, &rows, row, &first, found);
        product(t, &(Product){
            .x = found, .lines = t->width, .line = t->inputs, .step = 1,
            .y = (const float *)t->second + first * skip, .columns = t->outputs,
            .skip = skip, .stride = t->outputs, .blocks = blocks, .count = count,
            .out = (float *)t->out + row * t->width * t->outputs,
        });
        if (t->bias)
            finish_row(t, row);
    }
}

static int64_t whole_lines(int64_t floats) { return (floats + LINE - 1) / LINE * LINE; }

/* Pixels whose sums wait together; largest tiles leave nothing of them. */
static int64_t pixels_of_sums(const Task *t)
{
    const int64_t tiles = SUMS / t->columns / 24;
    return 24 * (tiles > 0 ? tiles : 1);
}

static int64_t worker_floats_to_convolve_bfloat16(const Task *t)
{
    return whole_lines(floats_of_rows(t)) + whole_lines(pixels_of_sums(t) * t->columns);
}

static void convolve_bfloat16_part(const Task *t, int64_t part, int64_t worker)
{
    const int64_t count = packed_lines(t, t->size * t->inputs);
    const int64_t skip = count * t->columns;
    const int64_t is_paired = t->format == BFLOAT16_PAIRS;
    const int64_t bytes = is_paired ? sizeof(bfloat16) : sizeof(float);
    float *own = t->space + worker * worker_floats_to_convolve_bfloat16(t);
    float *sums = own + whole_lines(floats_of_rows(t));
    const int64_t is_finished = is_paired && t->columns == t->outputs;
    const int64_t pixels = is_finished ? PIXELS : pixels_of_sums(t);
    /* As it is, but for a last pair that would reach beyond the image. */
    const int64_t is_ready = is_paired && t->size == 1 && t->inputs % 2 == 0;
    Rows rows = {0};
    if (!is_ready)
        rows = make_rows(t, own);
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++) {
        const void *found[MAX_SIZE], *x[MAX_SIZE];
        int64_t first = 0, blocks = 1;
        if (is_ready)
            found[0] = (const bfloat16 *)t->x + row * t->width * t->inputs;
        else
            blocks = find_rows(t, &rows, row, &first, found);
        for (int64_t column = 0; column < t->width; column += pixels) {
            const int64_t left = t->width - column;
            const int64_t lines = left < pixels ? left : pixels;
            const int64_t place = (row * t->width + column) * t->outputs;
            for (int64_t i = 0; i < blocks; i++)
                x[i] = (const char *)found[i] + column * t->inputs * bytes;
            product(t, &(Product){
                .x = x, .lines = lines, .line = t->inputs, .step = 1 + is_paired,
                .y = t->packed + first * skip, .columns = t->columns, .skip = skip,
                .stride = t->columns, .blocks = blocks, .count = count, .out = sums,
                .finished = is_finished ? (bfloat16 *)t->out + place : NULL,
                .bias = t->bias,
                .more = t->residual ? (const bfloat16 *)t->residual + place : NULL,
            });
            if (!is_finished)
                PASS(t, finish)(t, row * t->width + column, lines, sums);
        }
    }
}

static int64_t worker_floats_for_kernel_gradient(const Task *t)
{
    if (t->format == FLOAT32)
        return floats_of_rows(t);
    return whole_lines(floats_of_rows(t)) + COLUMNS * t->columns;
}

/* The gradient of `columns` pixels from `pixel` on as y of a product. */
static const float *find_gradient(const Task *t, int64_t pixel, int64_t columns,
                                  float *packed)
{
    if (t->format == FLOAT32)
        return (const float *)t->second + pixel * t->outputs;
    pack(t, (const bfloat16 *)t->second + pixel * t->outputs, columns, packed);
    return packed;
}

static void kernel_gradient_part(const Task *t, int64_t part, int64_t worker)
{
    const int64_t count = t->size * t->inputs, skip = count * t->columns;
    const int64_t is_paired = t->format == BFLOAT16_PAIRS;
    float *out = (float *)t->out + part * t->size * skip;
    float *own = t->space + worker * worker_floats_for_kernel_gradient(t);
    Rows rows = make_rows(t, own);
    memset(out, 0, t->size * skip * sizeof(float));
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++) {
        const void *found[MAX_SIZE];
        int64_t first;
        const int64_t blocks = find_rows(t, &rows, row, &first, found);
        for (int64_t column = 0; column < t->width; column += COLUMNS) {
            const int64_t left = t->width - column;
            const int64_t pixels = left < COLUMNS ? left : COLUMNS;
            const float *gradient =
                find_gradient(t, row * t->width + column, pixels,
                              own + whole_lines(floats_of_rows(t)));
            for (int64_t i = 0; i < blocks; i++) {
                const void *x = (const float *)found[i] + column * t->inputs;
                product(t, &(Product){
                    .x = &x, .lines = count, .line = 1 + is_paired,
                    .step = is_paired ? 4 * t->inputs : t->inputs, .y = gradient,
                    .columns = t->columns, .stride = t->columns, .blocks = 1,
                    .count = packed_lines(t, pixels), .out = out + (first + i) * skip,
                    .add = 1,
                });
            }
        }
    }
}

/* Takes a gradient back through the activation, by the activation's result, and sums it
   over the pixels: a row in single precision, the rows in double. */
static void activation_gradient_part(const Task *t, int64_t part, int64_t worker)
{
    const int64_t line = t->width * t->outputs;
    double *sums = t->sums + part * t->outputs;
    float *of_row = t->space + worker * t->outputs;
    memset(sums, 0, t->outputs * sizeof(double));
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++) {
        const float *result = (const float *)t->x + row * line;
        const float *gradient = (const float *)t->second + row * line; /* or is out */
        float *out = (float *)t->out + row * line;
        memset(of_row, 0, t->outputs * sizeof(float));
        if (t->format != FLOAT32)
            PASS(t, activation_gradient)(t, row * t->width, of_row);
        else for (int64_t column = 0; column < line; column += t->outputs)
#pragma GCC ivdep
            for (int64_t i = 0; i < t->outputs; i++) {
                const float slope = result[column + i] > 0 ? 1.0f : SLOPE;
                const float value = gradient[column + i] * slope;
                out[column + i] = value;
                of_row[i] += value;
            }
        for (int64_t i = 0; i < t->outputs; i++)
            sums[i] += of_row[i];
    }
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Floats of the vectors that this processor is fastest with. Zen 4 computes with halves
   of the wide ones and gained nothing by them; Zen 5, the first AMD with
   AVX512-VP2INTERSECT, computes with whole ones. */
int ctjax_kernels_lanes(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") &&
        (__builtin_cpu_is("intel") || __builtin_cpu_supports("avx512vp2intersect")))
        return 16;
#endif
    return 8;
}

/* How this processor computes products of bfloat16 images. */
int ctjax_kernels_bfloat16(void)
{
#if defined(HAS_PAIRS)
    if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16"))
        return BFLOAT16_PAIRS;
#endif
    return BFLOAT16;
}

static void read_numbers(const char *text, size_t length, int64_t *const *numbers,
                         size_t count)
{
    char copy[256], *position = copy;
    memcpy(copy, text, length < sizeof copy ? length : sizeof copy - 1);
    copy[length < sizeof copy ? length : sizeof copy - 1] = 0;
    for (size_t i = 0; i < count; i++)
        *numbers[i] = strtoll(position, &position, 10);
}

/* Adds what follows from the numbers that were read, and from this machine. */
static void complete(Task *t)
{
    /* A compiled program may come from another machine. */
    t->lanes = smaller(t->lanes, ctjax_kernels_lanes());
    t->format = smaller(t->format, ctjax_kernels_bfloat16());
    t->columns = t->format == FLOAT32 ? t->outputs : (t->outputs + 7) / 8 * 8;
    t->workers = num_threads;
    t->slope = SLOPE;
}

static Task read_config(const char *text, size_t length)
{
    Task t = {0};
    int64_t *fields[] = {&t.images,  &t.height, &t.width, &t.inputs,
                         &t.outputs, &t.size,   &t.lanes, &t.format, &t.is_turned};
    read_numbers(text, length, fields, sizeof fields / sizeof *fields);
    complete(&t);
    return t;
}

static Task read_task(const void **in, const char *text, size_t length)
{
    Task t = read_config(text, length);
    t.x = in[0];
    t.second = in[1];
    return t;
}

/* Into which the rows are split where each part has sums of its own. */
static int64_t parts_with_sums(const Task *t)
{
    return smaller(t->workers, t->images * t->height);
}

static int64_t floats_of_kernels(const Task *t)
{
    const int64_t parts = parts_with_sums(t);
    return (parts > 0 ? parts : 1) * t->size * t->size * t->inputs * t->columns;
}

static int64_t floats_of_sums(const Task *t)
{
    return parts_with_sums(t) * t->outputs * (int64_t)(sizeof(double) / sizeof(float));
}

static int64_t floats_of_packed_kernel(const Task *t)
{
    return whole_lines(t->size * packed_lines(t, t->size * t->inputs) * t->columns);
}

static int64_t floats_to_convolve(const Task *t)
{
    if (t->format == FLOAT32)
        return t->workers * floats_of_rows(t);
    return floats_of_packed_kernel(t) +
           t->workers * worker_floats_to_convolve_bfloat16(t);
}

static int64_t floats_for_activation_gradient(const Task *t)
{
    return floats_of_sums(t) + t->workers * t->outputs;
}

static int64_t floats_for_kernel_gradient(const Task *t)
{
    return floats_of_kernels(t) + t->workers * worker_floats_for_kernel_gradient(t);
}

/* What `ctjax_reserve` is to be asked for before XLA calls. */
int64_t ctjax_convolve_space(const char *text, size_t length)
{
    const Task t = read_config(text, length);
    return floats_to_convolve(&t);
}

int64_t ctjax_activation_gradient_space(const char *text, size_t length)
{
    const Task t = read_config(text, length);
    return floats_for_activation_gradient(&t);
}

int64_t ctjax_kernel_gradient_space(const char *text, size_t length)
{
    const Task t = read_config(text, length);
    return floats_for_kernel_gradient(&t);
}

static void convolve(Task t, void *out)
{
    const int64_t is_paired = t.format == BFLOAT16_PAIRS;
    const int64_t bytes = t.format == FLOAT32 ? sizeof(float) : sizeof(bfloat16);
    t.out = out;
    prefer_huge_pages(out, t.images * t.height * t.width * t.outputs * bytes);
    /* More than threads, so that one that other programs disturb does less. */
    t.parts = smaller(4 * t.workers, t.images * t.height);
    t.space = begin(floats_to_convolve(&t));
    if (t.space == NULL) {
        fill_with_nan(&t, out, t.images * t.height * t.width * t.outputs);
    } else if (t.format == FLOAT32) {
        t.fill = copy_row;
        share(&t, convolve_part);
    } else {
        t.packed = t.space;
        t.space += floats_of_packed_kernel(&t);
        t.fill = is_paired ? copy_bfloat16_row : widen_row;
        Task packing = t;
        packing.parts = t.size;
        share(&packing, PASS(&t, pack_kernel_part));
        share(&t, convolve_bfloat16_part);
    }
    end();
}

/* in: x [N, H, W, C] and kernel [k, k, C, F] float32, or [k, k, F, C] that is to be
   turned; out: [N, H, W, F]. */
void ctjax_convolve(void *out, const void **in, const char *text, size_t length,
                    void *status)
{
    (void)status;
    convolve(read_task(in, text, length), out);
}

/* in: also the bias [F]; out: what the activation makes of the sum. */
void ctjax_convolve_biased(void *out, const void **in, const char *text, size_t length,
                           void *status)
{
    (void)status;
    Task t = read_task(in, text, length);
    t.bias = in[2];
    convolve(t, out);
}

/* in: after x also an image [N, H, W, F] to be added. */
void ctjax_convolve_added(void *out, const void **in, const char *text, size_t length,
                          void *status)
{
    (void)status;
    Task t = read_task(in, text, length);
    t.residual = in[1];
    t.second = in[2];
    t.bias = in[3];
    convolve(t, out);
}

/* in: x in bfloat16, an image [N, H, W, F] to be added, and the kernel. */
void ctjax_convolve_plus(void *out, const void **in, const char *text, size_t length,
                         void *status)
{
    (void)status;
    Task t = read_task(in, text, length);
    t.residual = in[1];
    t.second = in[2];
    convolve(t, out);
}

/* in: result of an activation and its gradient, [N, H, W, F] both; out: the gradient of
   what was activated, and the same summed over the pixels, [F]. */
void ctjax_activation_gradient(void *out, const void **in, const char *text,
                               size_t length, void *status)
{
    (void)status;
    void *const *results = out;
    float *sums = results[1];
    Task t = read_task(in, text, length);
    t.out = results[0];
    t.parts = parts_with_sums(&t);
    t.sums = (double *)begin(floats_for_activation_gradient(&t));
    if (t.sums) {
        t.space = (float *)t.sums + floats_of_sums(&t);
        share(&t, activation_gradient_part);
        for (int64_t i = 0; i < t.outputs; i++) {
            double sum = 0;
            for (int64_t part = 0; part < t.parts; part++)
                sum += t.sums[part * t.outputs + i];
            sums[i] = (float)sum;
        }
    } else {
        fill_with_nan(&t, results[0], t.images * t.height * t.width * t.outputs);
        for (int64_t i = 0; i < t.outputs; i++)
            sums[i] = NAN;
    }
    end();
}

/* in: x [N, H, W, C] and gradient [N, H, W, F]; out: [k, k, C, F] float32. */
void ctjax_kernel_gradient(void *out, const void **in, const char *text,
                           size_t length, void *status)
{
    (void)status;
    Task t = read_task(in, text, length);
    const int64_t lines = t.size * t.size * t.inputs, elements = lines * t.columns;
    float *of_kernel = out, *total = begin(floats_for_kernel_gradient(&t));
    t.parts = parts_with_sums(&t);
    t.out = total;
    prefer_huge_pages(out, lines * t.outputs * (int64_t)sizeof(float));
    t.fill = t.format == FLOAT32    ? copy_row
             : t.format == BFLOAT16 ? widen_row
                                    : pair_row;
    if (total) {
        t.space = total + floats_of_kernels(&t);
        if (t.parts == 0) /* no row of any image */
            memset(total, 0, elements * sizeof(float));
        share(&t, kernel_gradient_part);
        /* In the order of the rows, whichever thread had them: the same bits every
           time. */
        for (int64_t part = 1; part < t.parts; part++)
            for (int64_t i = 0; i < elements; i++)
                total[i] += total[part * elements + i];
        for (int64_t line = 0; line < lines; line++)
            memcpy(of_kernel + line * t.outputs, total + line * t.columns,
                   t.outputs * sizeof(float));
    } else {
        for (int64_t i = 0; i < lines * t.outputs; i++)
            of_kernel[i] = NAN;
    }
    end();
}

/* ---- passes over bfloat16 images alone ---- */

static inline words choose(mask first, words a, words b)
{
    return (a & (words)first) | (b & ~(words)first);
}

static inline void put(words x, bfloat16 *place)
{
    *(unaligned_halves *)place = __builtin_convertvector(x, halves);
}

/* Where the first of two bfloat16s is the larger, or as large. */
static inline mask is_first(words a, words b)
{
    return (vector)(a << 16) >= (vector)(b << 16);
}

static inline words larger(words a, words b)
{
    const vector first = (vector)(a << 16);
    return choose(is_first(a, b) | (first != first), a, b);
}

/* A row of the smaller image. */
static void pool_row(const Task *t, int64_t row, float *between)
{
    (void)between;
    const int64_t features = t->inputs, line = 2 * t->width * features;
    const bfloat16 *x = (const bfloat16 *)t->x + 2 * row * line;
    bfloat16 *out = (bfloat16 *)t->out + row * t->width * features;
    for (int64_t column = 0; column < t->width; column++, x += features)
        for (int64_t i = 0; i < features; i += 8, x += 8, out += 8)
            put(larger(larger(words_of(x), words_of(x + features)),
                       larger(words_of(x + line), words_of(x + line + features))),
                out);
}

/* The gradient goes to the first of the maxima. */
static void pool_gradient_row(const Task *t, int64_t row, float *between)
{
    (void)between;
    const int64_t features = t->inputs, line = 2 * t->width * features;
    const bfloat16 *x = (const bfloat16 *)t->x + 2 * row * line;
    const bfloat16 *gradient = (const bfloat16 *)t->second + row * t->width * features;
    bfloat16 *out = (bfloat16 *)t->out + 2 * row * line;
    for (int64_t column = 0; column < t->width; column++, x += features, out += features)
        for (int64_t i = 0; i < features; i += 8, x += 8, out += 8, gradient += 8) {
            const words a = words_of(x), b = words_of(x + features);
            const words c = words_of(x + line), d = words_of(x + line + features);
            const mask left = is_first(a, b), right = is_first(c, d);
            const mask upper = is_first(choose(left, a, b), choose(right, c, d));
            const words value = words_of(gradient);
            put(value & (words)(upper & left), out);
            put(value & (words)(upper & ~left), out + features);
            put(value & (words)(~upper & right), out + line);
            put(value & (words)(~upper & ~right), out + line + features);
        }
}

/* Of a row of the larger image, as floats. */
static int64_t floats_between(const Task *t)
{
    return whole_lines(2 * t->width * t->inputs);
}

static void pass_part(const Task *t, int64_t part, int64_t worker)
{
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++)
        t->pass(t, row, t->space + worker * floats_between(t));
}

static void run_pass(Task t, void *out, int64_t num_results, /* to a pixel */
                     void (*row)(const Task *, int64_t row, float *between))
{
    const int64_t results = num_results * t.images * t.height * t.width * t.inputs;
    t.out = out;
    t.pass = row;
    prefer_huge_pages(out, results * sizeof(bfloat16));
    t.parts = smaller(4 * t.workers, t.images * t.height);
    t.space = begin(t.workers * floats_between(&t));
    if (t.space)
        share(&t, pass_part);
    else
        fill_with_nan(&t, out, results);
    end();
}

int64_t ctjax_pass_space(const char *text, size_t length)
{
    const Task t = read_config(text, length);
    return t.workers * floats_between(&t);
}

/* in: x [N, 2 H, 2 W, C]; out: [N, H, W, C]. */
void ctjax_pool(void *out, const void **in, const char *text, size_t length, void *status)
{
    (void)status;
    Task t = read_config(text, length);
    t.x = in[0];
    run_pass(t, out, 1, pool_row);
}

/* in: also the gradient [N, H, W, C]; out: [N, 2 H, 2 W, C]. */
void ctjax_pool_gradient(void *out, const void **in, const char *text, size_t length,
                         void *status)
{
    (void)status;
    run_pass(read_task(in, text, length), out, 4, pool_gradient_row);
}

/* in: x [N, H, W, C]; out: [N, 2 H, 2 W, C]. */
void ctjax_upsample(void *out, const void **in, const char *text, size_t length,
                    void *status)
{
    (void)status;
    Task t = read_config(text, length);
    t.x = in[0];
    run_pass(t, out, 4, PASS(&t, upsample_row));
}

/* in: the gradient of that, [N, 2 H, 2 W, C]; out: [N, H, W, C]. */
void ctjax_upsample_gradient(void *out, const void **in, const char *text, size_t length,
                             void *status)
{
    (void)status;
    Task t = read_config(text, length);
    t.x = in[0];
    run_pass(t, out, 1, PASS(&t, upsample_gradient_row));
}

/* ---- lists of sites ---- */

#include "cpu_sparse.h"

/* Of the sources; setup.py defines it, native_library.py compares it. */
const char *ctjax_source_hash(void) { return CTJAX_SOURCE_HASH; }

/* Whether this processor has the instructions that the file was built for. */
int ctjax_runs_here(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}
