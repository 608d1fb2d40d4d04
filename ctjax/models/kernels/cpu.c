/* Convolutions of stride 1 as XLA's CPU backend calls them; see cpu.py.

   In an image [H, W, C] with zeros left and right, the C * k values that a kernel of
   size k meets in one row are neighbours. So a row is already the matrix of a matrix
   product whose lines overlap, and nothing has to be gathered.

   A call of this form cannot report that memory is short. So cpu.py reserves the memory
   to work in before XLA calls, and reports it; the process keeps it. */

#include <math.h> /* NAN */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SLOPE 0.01f /* of LeakyReLU, see activation.py */
#define MAX_SIZE 7 /* of a kernel */
#define MAX_THREADS 512
#define COLUMNS 128 /* that are summed before the sums go back to memory */

typedef struct {
    int64_t images, height, width, inputs, outputs, size;
    int64_t workers; /* threads that share the parts */
    int64_t lanes;
    const float *x;      /* [images, height, width, inputs] */
    const float *second; /* the kernel, or the gradient of the output */
    const float *bias, *residual; /* to be added before an activation, or NULL */
    float *out;
    double *sums;  /* [parts, outputs] */
    float *space;  /* for each worker, as much as its function needs */
    int64_t parts; /* into which all rows are split */
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
        float *memory = malloc(floats * sizeof(float));
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

static void fill_with_nan(float *out, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = NAN;
}

/* ---- the product ---- */

/* out[m][n] (+)= sum over i < blocks, k < count of
       x[i][m * line + k * step] * y[i * skip + k * stride + n]
   for m < lines and n < columns, a multiple of 8; lines of out lie `stride` apart. */
typedef struct {
    const float *const *x;
    int64_t lines, line, step;
    const float *y;
    int64_t columns, skip, stride, blocks, count;
    float *out;
    int add;
} Product;

#define LANES 8
#define TILES_OF_TWO(TILE) TILE(6, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2)
#define TILES_OF_ONE(TILE) TILE(12, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)
#define NAME(name) name##_8
#define TARGET
#include "cpu_product.h"

#if defined(__x86_64__)
/* AVX-512 has twice the registers as well. */
#define LANES 16
#define TILES_OF_TWO(TILE) TILE(12, 2) TILE(8, 2) TILE(4, 2) TILE(1, 2)
#define TILES_OF_ONE(TILE) TILE(12, 1) TILE(8, 1) TILE(4, 1) TILE(1, 1)
#define NAME(name) name##_16
#define TARGET __attribute__((target("avx512f")))
#include "cpu_product.h"

static void wide_product(const Product *p)
{
    Product rest = *p;
    const int64_t done = product_16(p);
    rest.y += done;
    rest.out += done;
    rest.columns -= done;
    product_8(&rest);
}
#endif

/* The same bits, whatever the vectors. */
static void product(const Task *t, const Product *p)
{
#if defined(__x86_64__)
    if (t->lanes == 16) {
        wide_product(p);
        return;
    }
#else
    (void)t;
#endif
    product_8(p);
}

/* ---- rows of the input, with zeros left and right ---- */

typedef struct {
    float *values; /* [size, width + size - 1, inputs] */
    int64_t line, held[MAX_SIZE];
} Rows;

static int64_t floats_of_rows(const Task *t)
{
    return t->size * (t->width + t->size - 1) * t->inputs;
}

static Rows make_rows(const Task *t, int64_t worker)
{
    Rows rows = {NULL, (t->width + t->size - 1) * t->inputs, {0}};
    rows.values = t->space + worker * floats_of_rows(t);
    memset(rows.values, 0, floats_of_rows(t) * sizeof(float));
    for (int64_t i = 0; i < t->size; i++)
        rows.held[i] = -1;
    return rows;
}

/* Finds the rows that the output's row `row` (of all images) meets: `found` holds
   them, the first belongs to the kernel's row `*first`. Returns how many there are. */
static int64_t find_rows(const Task *t, Rows *rows, int64_t row, int64_t *first,
                         const float *found[MAX_SIZE])
{
    const int64_t padding = (t->size - 1) / 2, y = row % t->height;
    const int64_t low = y < padding ? -y : -padding;
    const int64_t high = t->height - 1 - y < padding ? t->height - 1 - y : padding;
    *first = low + padding;
    for (int64_t i = low; i <= high; i++) {
        const int64_t slot = (row + i) % t->size;
        float *values = rows->values + slot * rows->line;
        if (rows->held[slot] != row + i) {
            memcpy(values + padding * t->inputs,
                   t->x + (row + i) * t->width * t->inputs,
                   t->width * t->inputs * sizeof(float));
            rows->held[slot] = row + i;
        }
        found[i - low] = values;
    }
    return high - low + 1;
}

static int64_t first_row(const Task *t, int64_t part)
{
    return t->images * t->height * part / t->parts;
}

/* ---- what XLA calls ---- */

typedef float vector __attribute__((vector_size(32)));
typedef float unaligned __attribute__((vector_size(32), aligned(4)));
typedef int32_t mask __attribute__((vector_size(32)));

/* The bits of SLOPE and of 1. */
static const int32_t SLOPE_BITS = 0x3c23d70a, ONE_BITS = 0x3f800000;

/* Adds to a row of the output and activates it, while it is near. */
static void finish_row(const Task *t, int64_t row)
{
    const int64_t line = t->width * t->outputs;
    float *out = t->out + row * line;
    const float *more = t->residual ? t->residual + row * line : NULL;
    for (int64_t column = 0; column < line; column += t->outputs)
        for (int64_t i = 0; i < t->outputs; i += 8) {
            unaligned *place = (unaligned *)(out + column + i);
            vector sum = *place + *(const unaligned *)(t->bias + i);
            if (more)
                sum += *(const unaligned *)(more + column + i);
            const mask above = sum > 0;
            *place = sum * (vector)((above & ONE_BITS) | (~above & SLOPE_BITS));
        }
}

static void convolve_part(const Task *t, int64_t part, int64_t worker)
{
    const int64_t count = t->size * t->inputs, skip = count * t->outputs;
    Rows rows = make_rows(t, worker);
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++) {
        const float *found[MAX_SIZE];
        int64_t first;
        const int64_t blocks = find_rows(t, &rows, row, &first, found);
        product(t, &(Product){
            .x = found, .lines = t->width, .line = t->inputs, .step = 1,
            .y = t->second + first * skip, .columns = t->outputs, .skip = skip,
            .stride = t->outputs, .blocks = blocks, .count = count,
            .out = t->out + row * t->width * t->outputs,
        });
        if (t->bias)
            finish_row(t, row);
    }
}

static void kernel_gradient_part(const Task *t, int64_t part, int64_t worker)
{
    const int64_t count = t->size * t->inputs, skip = count * t->outputs;
    float *out = t->out + part * t->size * skip;
    Rows rows = make_rows(t, worker);
    memset(out, 0, t->size * skip * sizeof(float));
    for (int64_t row = first_row(t, part); row < first_row(t, part + 1); row++) {
        const float *gradient = t->second + row * t->width * t->outputs;
        const float *found[MAX_SIZE];
        int64_t first;
        const int64_t blocks = find_rows(t, &rows, row, &first, found);
        for (int64_t column = 0; column < t->width; column += COLUMNS) {
            const int64_t left = t->width - column;
            for (int64_t i = 0; i < blocks; i++) {
                const float *x = found[i] + column * t->inputs;
                product(t, &(Product){
                    .x = &x, .lines = count, .line = 1, .step = t->inputs,
                    .y = gradient + column * t->outputs, .columns = t->outputs,
                    .stride = t->outputs, .blocks = 1,
                    .count = left < COLUMNS ? left : COLUMNS,
                    .out = out + (first + i) * skip, .add = 1,
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
        const float *result = t->x + row * line;
        const float *gradient = t->second + row * line; /* may be out itself */
        float *out = t->out + row * line;
        memset(of_row, 0, t->outputs * sizeof(float));
        for (int64_t column = 0; column < line; column += t->outputs)
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
   of the wide ones and gained nothing by them; other AMDs were not tried. */
int ctjax_kernels_lanes(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_is("intel"))
        return 16;
#endif
    return 8;
}

static Task read_config(const char *text, size_t length)
{
    Task t = {0};
    int64_t *fields[] = {&t.images,  &t.height, &t.width, &t.inputs,
                         &t.outputs, &t.size,   &t.lanes};
    char copy[256], *position = copy;
    memcpy(copy, text, length < sizeof copy ? length : sizeof copy - 1);
    copy[length < sizeof copy ? length : sizeof copy - 1] = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        *fields[i] = strtoll(position, &position, 10);
    /* A compiled program may come from another machine. */
    t.lanes = smaller(t.lanes, ctjax_kernels_lanes());
    t.workers = num_threads;
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
    return (parts > 0 ? parts : 1) * t->size * t->size * t->inputs * t->outputs;
}

static int64_t floats_of_sums(const Task *t)
{
    return parts_with_sums(t) * t->outputs * (int64_t)(sizeof(double) / sizeof(float));
}

static int64_t floats_to_convolve(const Task *t)
{
    return t->workers * floats_of_rows(t);
}

static int64_t floats_for_activation_gradient(const Task *t)
{
    return floats_of_sums(t) + t->workers * t->outputs;
}

static int64_t floats_for_kernel_gradient(const Task *t)
{
    return floats_of_kernels(t) + t->workers * floats_of_rows(t);
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

static void convolve(Task t, float *out)
{
    t.out = out;
    /* More than threads, so that one that other programs disturb does less. */
    t.parts = smaller(4 * t.workers, t.images * t.height);
    t.space = begin(floats_to_convolve(&t));
    if (t.space)
        share(&t, convolve_part);
    else
        fill_with_nan(out, t.images * t.height * t.width * t.outputs);
    end();
}

/* in: x [N, H, W, C] and kernel [k, k, C, F]; out: [N, H, W, F]. */
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

/* in: also an image [N, H, W, F] to be added. */
void ctjax_convolve_added(void *out, const void **in, const char *text, size_t length,
                          void *status)
{
    (void)status;
    Task t = read_task(in, text, length);
    t.bias = in[2];
    t.residual = in[3];
    convolve(t, out);
}

/* in: result of an activation and its gradient, [N, H, W, F] both; out: the gradient of
   what was activated, and the same summed over the pixels, [F]. */
void ctjax_activation_gradient(void *out, const void **in, const char *text,
                               size_t length, void *status)
{
    (void)status;
    float *const *results = out;
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
            results[1][i] = (float)sum;
        }
    } else {
        fill_with_nan(results[0], t.images * t.height * t.width * t.outputs);
        fill_with_nan(results[1], t.outputs);
    }
    end();
}

/* in: x [N, H, W, C] and gradient [N, H, W, F]; out: [k, k, C, F]. */
void ctjax_kernel_gradient(void *out, const void **in, const char *text,
                           size_t length, void *status)
{
    (void)status;
    Task t = read_task(in, text, length);
    const int64_t elements = t.size * t.size * t.inputs * t.outputs;
    t.parts = parts_with_sums(&t);
    t.out = begin(floats_for_kernel_gradient(&t));
    if (t.out) {
        t.space = t.out + floats_of_kernels(&t);
        if (t.parts == 0) /* no row of any image */
            memset(t.out, 0, elements * sizeof(float));
        share(&t, kernel_gradient_part);
        /* In the order of the rows, whichever thread had them: the same bits every
           time. */
        for (int64_t part = 1; part < t.parts; part++)
            for (int64_t i = 0; i < elements; i++)
                t.out[i] += t.out[part * elements + i];
        memcpy(out, t.out, elements * sizeof(float));
    } else {
        fill_with_nan(out, elements);
    }
    end();
}

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
