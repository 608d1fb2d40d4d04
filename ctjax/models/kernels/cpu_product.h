/* The product of cpu.c for vectors of LANES sums; included once for each.

   TILES_OF_TWO and TILES_OF_ONE list tiles, lines by vectors, the largest first: its
   sums fill the registers. TILES_OF_ROWS lists those of rows, each with an address in a
   register too. TARGET has the instructions, NAME makes the names. x holds
   ELEMENTs; MULTIPLY_ADD adds to a vector of sums what is at an address of x times a
   vector of y. ADDRESSES lists the lines and steps that the compiler is to know. FINISH, if it
   is defined, writes a vector of sums where they are rounded at once. */

/* M lines and V vectors of it from line m and column n on; sums stay in registers. */
TARGET static inline __attribute__((always_inline)) void
NAME(tile)(const Product *p, const int64_t line, const int64_t step, int64_t m,
           int64_t n, const int M, const int V)
{
    typedef float vector __attribute__((vector_size(4 * LANES)));
    typedef float unaligned
        __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    const int64_t stride = p->stride, blocks = p->blocks, count = p->count;
    float *out = p->out + m * stride + n;
    vector sums[24];
    for (int i = 0; i < M * V; i++)
        sums[i] = (vector){0};
    for (int64_t i = 0; i < blocks; i++) {
        const ELEMENT *a = (const ELEMENT *)p->x[i] + m * line;
        const float *b = p->y + i * p->skip + n;
        for (int64_t k = 0; k < count; k++, a += step, b += stride) {
            vector row[2];
            for (int v = 0; v < V; v++)
                row[v] = *(const unaligned *)(b + v * LANES);
#pragma GCC unroll 24
            for (int j = 0; j < M; j++)
                for (int v = 0; v < V; v++)
                    sums[j * V + v] =
                        MULTIPLY_ADD(sums[j * V + v], a + j * line, row[v]);
        }
    }
#if defined(FINISH)
    if (p->finished) {
#pragma GCC unroll 24
        for (int i = 0; i < M * V; i++)
            FINISH(p, (m + i / V) * stride + n + i % V * LANES, n + i % V * LANES, sums[i]);
        return;
    }
#endif
    if (p->add)
#pragma GCC unroll 24
        for (int i = 0; i < M * V; i++)
            sums[i] += *(const unaligned *)(out + i / V * stride + i % V * LANES);
#pragma GCC unroll 24
    for (int i = 0; i < M * V; i++)
        *(unaligned *)(out + i / V * stride + i % V * LANES) = sums[i];
}

/* All lines of those columns that fill whole vectors; returns how many they are. */
TARGET static inline __attribute__((always_inline)) int64_t
NAME(tiles)(const Product *p, const int64_t line, const int64_t step)
{
#define TILE(M, V)                                                                     \
    for (; m + (M) <= p->lines; m += (M))                                              \
        NAME(tile)(p, line, step, m, n, M, V);
    int64_t n = 0;
    for (; n + 2 * LANES <= p->columns; n += 2 * LANES) {
        int64_t m = 0;
        TILES_OF_TWO(TILE)
    }
    for (; n + LANES <= p->columns; n += LANES) {
        int64_t m = 0;
        TILES_OF_ONE(TILE)
    }
    return n;
#undef TILE
}

/* With numbers that the compiler knows, addresses cost nothing. */
TARGET static int64_t NAME(product)(const Product *p)
{
#define ADDRESS(LINE, STEP)                                                            \
    if (p->line == (LINE) && p->step == (STEP))                                        \
        return NAME(tiles)(p, LINE, STEP);
    ADDRESSES(ADDRESS)
#undef ADDRESS
    return NAME(tiles)(p, p->line, p->step);
}

/* M rows that are anywhere, V vectors of each from column n on, added to rows of out. */
TARGET static inline __attribute__((always_inline)) void
NAME(tile_of_rows)(const Product *p, int64_t m, int64_t n, const int M, const int V)
{
    typedef float vector __attribute__((vector_size(4 * LANES)));
    typedef float unaligned
        __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    const int64_t stride = p->stride, step = p->step, end = p->count * step;
    const ELEMENT *a[8];
    const float *b = p->y + n;
    vector sums[16];
#pragma GCC unroll 8
    for (int j = 0; j < M; j++)
        a[j] = (const ELEMENT *)p->x[0] + p->rows[m + j] * p->line;
#pragma GCC unroll 16
    for (int i = 0; i < M * V; i++)
        sums[i] = (vector){0};
    for (int64_t k = 0; k < end; k += step, b += stride) {
        vector row[2];
        for (int v = 0; v < V; v++)
            row[v] = *(const unaligned *)(b + v * LANES);
#pragma GCC unroll 8
        for (int j = 0; j < M; j++)
            for (int v = 0; v < V; v++)
                sums[j * V + v] = MULTIPLY_ADD(sums[j * V + v], a[j] + k, row[v]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < M; j++) {
        float *out = p->out + p->places[m + j] * stride + n;
        for (int v = 0; v < V; v++)
            *(unaligned *)(out + v * LANES) += sums[j * V + v];
    }
}

/* As `product`. */
TARGET static int64_t NAME(product_of_rows)(const Product *p)
{
#define TILE(M, V)                                                                     \
    for (; m + (M) <= p->lines; m += (M))                                              \
        NAME(tile_of_rows)(p, m, n, M, V);
    int64_t n = 0;
    for (; n + 2 * LANES <= p->columns; n += 2 * LANES) {
        int64_t m = 0;
        TILES_OF_ROWS(TILE, 2)
    }
    for (; n + LANES <= p->columns; n += LANES) {
        int64_t m = 0;
        TILES_OF_ROWS(TILE, 1)
    }
    return n;
#undef TILE
}

#undef LANES
#undef ELEMENT
#undef MULTIPLY_ADD
#undef ADDRESSES
#undef FINISH
#undef TILES_OF_TWO
#undef TILES_OF_ONE
#undef TILES_OF_ROWS
#undef NAME
#undef TARGET
