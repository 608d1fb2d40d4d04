/* The product of cpu.c for vectors of LANES floats; included once for each.

   TILES_OF_TWO and TILES_OF_ONE list tiles, lines by vectors, the largest first: its
   sums fill the registers. TARGET has the instructions, NAME makes the names. */

/* M lines and V vectors of it from line m and column n on; sums stay in registers. */
TARGET static inline __attribute__((always_inline)) void
NAME(tile)(const Product *p, const int64_t line, const int64_t step, int64_t m,
           int64_t n, const int M, const int V)
{
    typedef float vector __attribute__((vector_size(4 * LANES)));
    typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
    const int64_t stride = p->stride, blocks = p->blocks, count = p->count;
    vector sums[24];
    for (int i = 0; i < M * V; i++)
        sums[i] = (vector){0};
    for (int64_t i = 0; i < blocks; i++) {
        const float *a = p->x[i] + m * line, *b = p->y + i * p->skip + n;
        for (int64_t k = 0; k < count; k++, a += step, b += stride) {
            vector row[2];
            for (int v = 0; v < V; v++)
                row[v] = *(const unaligned *)(b + v * LANES);
            for (int j = 0; j < M; j++)
                for (int v = 0; v < V; v++)
                    sums[j * V + v] += a[j * line] * row[v];
        }
    }
    for (int j = 0; j < M; j++)
        for (int v = 0; v < V; v++) {
            unaligned *place =
                (unaligned *)(p->out + (m + j) * stride + n + v * LANES);
            *place = p->add ? *place + sums[j * V + v] : sums[j * V + v];
        }
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

/* 16 features are those of the largest images: with a number that the compiler knows,
   addresses cost nothing. */
TARGET static int64_t NAME(product)(const Product *p)
{
    if (p->line == 16 && p->step == 1)
        return NAME(tiles)(p, 16, 1);
    return NAME(tiles)(p, p->line, p->step);
}

#undef LANES
#undef TILES_OF_TWO
#undef TILES_OF_ONE
#undef NAME
#undef TARGET
