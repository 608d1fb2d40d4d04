/* Convolutions of lists of sites, part of cpu.c; see sparse.py.

   For one neighbour after the other, the sites that exist as such of a block of places are
   listed, and their products added to the sums of those places. What does not exist is not
   multiplied. A place's sum is in the order of its neighbours, whatever else is in its
   block: the same bits with any number of threads. */

#define SPARSE_SLOPE (1.0f / 3.0f) /* of LeakyReLU, see sparse.py */
#define SITES 128                  /* of a block, whose sums stay in a cache */
#define SITES_OF_SUM 4096 /* of each of the sums that make a kernel's gradient */

/* The features of sites and places are multiples of 8. */
typedef struct {
    Task task; /* of a kernel of size 1; the first, as what threads share */
    int64_t sites, places, neighbours;
    int64_t is_refined; /* whether the table says which part of which site each place is */
    const int32_t *table; /* [places, neighbours], or [places] */
} SparseTask;

/* What a block has of one neighbour. */
typedef struct {
    int64_t count;
    int32_t site[SITES], place[SITES]; /* the latter counted in the block */
} Found;

static void find_sites(const SparseTask *s, int64_t neighbour, int64_t first,
                       int64_t end, Found *found)
{
    const uint32_t sites = (uint32_t)s->sites;
    int64_t count = 0;
    if (s->is_refined) {
        const uint32_t parts = (uint32_t)s->neighbours;
        for (int64_t i = first; i < end; i++) {
            const uint32_t part = (uint32_t)s->table[i], site = part / parts;
            found->site[count] = (int32_t)site;
            found->place[count] = (int32_t)(i - first);
            count += site < sites && part - site * parts == (uint32_t)neighbour;
        }
    } else {
        const int32_t *table = s->table + first * s->neighbours + neighbour;
        for (int64_t i = first; i < end; i++, table += s->neighbours) {
            found->site[count] = *table;
            found->place[count] = (int32_t)(i - first);
            count += (uint32_t)*table < sites;
        }
    }
    found->count = count;
}

/* Brings rows of features into one piece, as floats or as bfloat16s for pairs. */
static void gather_rows(const Task *t, const void *x, int64_t features,
                        const int32_t *rows, int64_t count, float *out)
{
    if (t->format == FLOAT32) {
        for (int64_t i = 0; i < count; i++, out += features) {
            const float *row = (const float *)x + rows[i] * features;
            for (int64_t j = 0; j < features; j += 8)
                *(unaligned *)(out + j) = *(const unaligned *)(row + j);
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        const bfloat16 *row = (const bfloat16 *)x + rows[i] * features;
        bfloat16 *place = (bfloat16 *)out + i * features;
        if (t->format == BFLOAT16)
            widen(row, features, out + i * features);
        else for (int64_t j = 0; j < features; j += 8)
            *(unaligned_halves *)(place + j) = *(const unaligned_halves *)(row + j);
    }
}

/* The same where the product is over the rows: two of them are a pair then. */
static void gather_lines(const Task *t, const void *x, int64_t features,
                         const int32_t *rows, int64_t count, float *out)
{
    if (t->format != BFLOAT16_PAIRS) {
        gather_rows(t, x, features, rows, count, out);
        return;
    }
    for (int64_t i = 0; i < count; i += 2, out += features) {
        const bfloat16 *even = (const bfloat16 *)x + rows[i] * features;
        if (i + 1 == count) {
            widen(even, features, out); /* the second of a pair with a zero */
            continue;
        }
        const bfloat16 *odd = (const bfloat16 *)x + rows[i + 1] * features;
        for (int64_t j = 0; j < features; j += 8)
            *(unaligned_words *)(out + j) = words_of(even + j) | words_of(odd + j) << 16;
    }
}

/* All at once: a product waits for each of its rows. */
static void fetch_rows(const Task *t, const Found *found)
{
    const int64_t bytes =
        t->inputs * (t->format == FLOAT32 ? sizeof(float) : sizeof(bfloat16));
    for (int64_t i = 0; i < found->count; i++)
        for (int64_t j = 0; j < bytes; j += LINE * sizeof(float))
            __builtin_prefetch((const char *)t->x + found->site[i] * bytes + j);
}

static int64_t worker_floats_to_convolve_sites(const Task *t)
{
    return SITES * (t->inputs + t->outputs);
}

static void convolve_block(const SparseTask *s, int64_t first, int64_t end, float *own)
{
    const Task *t = &s->task;
    const int64_t inputs = t->inputs, outputs = t->outputs;
    const int64_t is_paired = t->format == BFLOAT16_PAIRS;
    float *sums = t->format == FLOAT32 ? (float *)t->out + first * outputs
                                       : own + SITES * inputs;
    const float *kernel = t->format == FLOAT32 ? t->second : t->packed;
    memset(sums, 0, (end - first) * outputs * sizeof(float));
    for (int64_t i = 0; i < s->neighbours; i++) {
        Found found;
        find_sites(s, i, first, end, &found);
        if (found.count == 0)
            continue;
        fetch_rows(t, &found);
        const int64_t count = packed_lines(t, inputs);
        const void *x = t->x;
        if (t->format == BFLOAT16) {
            gather_rows(t, t->x, inputs, found.site, found.count, own);
            x = own;
            for (int32_t row = 0; row < found.count; row++)
                found.site[row] = row;
        }
        product_of_rows(t, &(Product){
            .x = &x, .lines = found.count, .line = inputs, .step = 1 + is_paired,
            .y = kernel + i * count * outputs, .columns = outputs, .stride = outputs,
            .count = count, .out = sums, .rows = found.site, .places = found.place,
        });
    }
    if (t->format != FLOAT32)
        PASS(t, finish)(t, first, end - first, sums);
    else if (t->bias)
        for (int64_t place = first; place < end; place++)
            finish_row(t, place);
}

static int64_t blocks_of(int64_t places) { return (places + SITES - 1) / SITES; }

static void convolve_sites_part(const Task *t, int64_t part, int64_t worker)
{
    const SparseTask *s = (const SparseTask *)t;
    const int64_t blocks = blocks_of(s->places);
    float *own = t->space + worker * worker_floats_to_convolve_sites(t);
    for (int64_t block = blocks * part / t->parts; block < blocks * (part + 1) / t->parts;
         block++)
        convolve_block(s, block * SITES, smaller((block + 1) * SITES, s->places), own);
}

static int64_t worker_floats_for_sites_kernel_gradient(const Task *t)
{
    return SITES * (t->inputs + t->outputs);
}

/* One neighbour of some places. */
static void sites_kernel_gradient_part(const Task *t, int64_t part, int64_t worker)
{
    const SparseTask *s = (const SparseTask *)t;
    const int64_t inputs = t->inputs, outputs = t->outputs;
    const int64_t is_paired = t->format == BFLOAT16_PAIRS;
    const int64_t start = part / s->neighbours * SITES_OF_SUM;
    const int64_t end = smaller(start + SITES_OF_SUM, s->places);
    float *out = (float *)t->out + part * inputs * outputs;
    float *own = t->space + worker * worker_floats_for_sites_kernel_gradient(t);
    memset(out, 0, inputs * outputs * sizeof(float));
    for (int64_t first = start; first < end; first += SITES) {
        Found found;
        find_sites(s, part % s->neighbours, first, smaller(first + SITES, end), &found);
        if (found.count == 0)
            continue;
        const void *x = own;
        float *gradient = own + SITES * inputs;
        for (int64_t i = 0; i < found.count; i++)
            found.place[i] += (int32_t)first;
        gather_lines(t, t->x, inputs, found.site, found.count, own);
        gather_lines(t, t->second, outputs, found.place, found.count, gradient);
        product(t, &(Product){
            .x = &x, .lines = inputs, .line = 1 + is_paired,
            .step = (1 + is_paired) * inputs, .y = gradient, .columns = outputs,
            .stride = outputs, .blocks = 1, .count = packed_lines(t, found.count),
            .out = out, .add = 1,
        });
    }
}

static SparseTask read_sparse_config(const char *text, size_t length)
{
    SparseTask s = {0};
    int64_t *fields[] = {&s.sites,       &s.places,      &s.neighbours,  &s.is_refined,
                         &s.task.inputs, &s.task.outputs, &s.task.lanes, &s.task.format};
    read_numbers(text, length, fields, sizeof fields / sizeof *fields);
    s.task.size = s.task.width = 1;
    complete(&s.task);
    s.task.slope = SPARSE_SLOPE;
    return s;
}

static int64_t floats_of_packed_kernels(const SparseTask *s)
{
    if (s->task.format == FLOAT32)
        return 0;
    return s->neighbours * floats_of_packed_kernel(&s->task);
}

static int64_t floats_to_convolve_sites(const SparseTask *s)
{
    const Task *t = &s->task;
    return floats_of_packed_kernels(s) + t->workers * worker_floats_to_convolve_sites(t);
}

static int64_t floats_of_sums_of_sites(const SparseTask *s)
{
    const int64_t sums = (s->places + SITES_OF_SUM - 1) / SITES_OF_SUM;
    return sums * s->neighbours * s->task.inputs * s->task.outputs;
}

static int64_t floats_for_sites_kernel_gradient(const SparseTask *s)
{
    return floats_of_sums_of_sites(s) +
           s->task.workers * worker_floats_for_sites_kernel_gradient(&s->task);
}

int64_t ctjax_convolve_sites_space(const char *text, size_t length)
{
    const SparseTask s = read_sparse_config(text, length);
    return floats_to_convolve_sites(&s);
}

int64_t ctjax_sites_kernel_gradient_space(const char *text, size_t length)
{
    const SparseTask s = read_sparse_config(text, length);
    return floats_for_sites_kernel_gradient(&s);
}

static void convolve_sites(SparseTask s, const void **in, void *out)
{
    Task *t = &s.task;
    const int64_t bytes = t->format == FLOAT32 ? sizeof(float) : sizeof(bfloat16);
    s.table = in[0];
    t->x = in[1];
    t->second = in[2];
    t->out = out;
    prefer_huge_pages(out, s.places * t->outputs * bytes);
    t->parts = smaller(4 * t->workers, blocks_of(s.places));
    t->space = begin(floats_to_convolve_sites(&s));
    if (t->space == NULL) {
        fill_with_nan(t, out, s.places * t->outputs);
    } else {
        if (t->format != FLOAT32) {
            Task packing = *t;
            packing.packed = t->packed = t->space;
            packing.parts = s.neighbours;
            t->space += floats_of_packed_kernels(&s);
            share(&packing, PASS(t, pack_kernel_part));
        }
        share(t, convolve_sites_part);
    }
    end();
}

/* in: table, x [N, C], kernel [T, C, F] float32; out: [M, F]. */
void ctjax_convolve_sites(void *out, const void **in, const char *text, size_t length,
                          void *status)
{
    (void)status;
    convolve_sites(read_sparse_config(text, length), in, out);
}

/* in: also the bias [F]; out: what the activation makes of the sum. */
void ctjax_convolve_sites_biased(void *out, const void **in, const char *text,
                                 size_t length, void *status)
{
    (void)status;
    SparseTask s = read_sparse_config(text, length);
    s.task.bias = in[3];
    convolve_sites(s, in, out);
}

/* in: also features [M, F] to be added. */
void ctjax_convolve_sites_added(void *out, const void **in, const char *text,
                                size_t length, void *status)
{
    (void)status;
    SparseTask s = read_sparse_config(text, length);
    s.task.bias = in[3];
    s.task.residual = in[4];
    convolve_sites(s, in, out);
}

/* in: table, x [N, C] and gradient [M, F]; out: [T, C, F] float32. */
void ctjax_sites_kernel_gradient(void *out, const void **in, const char *text,
                                 size_t length, void *status)
{
    (void)status;
    SparseTask s = read_sparse_config(text, length);
    Task *t = &s.task;
    const int64_t elements = s.neighbours * t->inputs * t->outputs;
    const int64_t floats = floats_of_sums_of_sites(&s);
    float *of_kernel = out, *sums = begin(floats_for_sites_kernel_gradient(&s));
    s.table = in[0];
    t->x = in[1];
    t->second = in[2];
    t->out = sums;
    for (int64_t i = 0; i < elements; i++)
        of_kernel[i] = sums ? 0 : NAN;
    if (sums) {
        t->space = sums + floats;
        t->parts = floats / (t->inputs * t->outputs);
        share(t, sites_kernel_gradient_part);
        for (int64_t first = 0; first < floats; first += elements)
            for (int64_t i = 0; i < elements; i++)
                of_kernel[i] += sums[first + i];
    }
    end();
}
