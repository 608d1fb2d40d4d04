/* Passes over images in bfloat16, of cpu.c; included once for each way of rounding.

   ROUND makes eight bfloat16s of a vector, by the instructions of TARGET; NAME makes the
   names. All sums are float32. */

/* Adds to `lines` sums, activates them and writes them as pixels from `pixel` on. */
TARGET static void NAME(finish)(const Task *t, int64_t pixel, int64_t lines,
                                const float *sums)
{
    const int64_t outputs = t->outputs;
    bfloat16 *out = (bfloat16 *)t->out + pixel * outputs;
    const bfloat16 *more =
        t->residual ? (const bfloat16 *)t->residual + pixel * outputs : NULL;
    for (int64_t line = 0; line < lines; line++, sums += t->columns, out += outputs) {
        int64_t i = 0;
        for (; i + 8 <= outputs; i += 8) {
            vector sum = *(const unaligned *)(sums + i);
            if (more)
                sum += widen_8(more + line * outputs + i);
            if (t->bias)
                sum = activate(sum + *(const unaligned *)(t->bias + i), t->slope);
            *(unaligned_halves *)(out + i) = ROUND(sum);
        }
        if (i < outputs) { /* where nothing is added */
            const halves rest = ROUND(*(const unaligned *)(sums + i));
            memcpy(out + i, &rest, (outputs - i) * sizeof(bfloat16));
        }
    }
}

/* As `activation_gradient_part` of a row from `pixel` on; adds its sums to `sums`. */
TARGET static void NAME(activation_gradient)(const Task *t, int64_t pixel, float *sums)
{
    const int64_t outputs = t->outputs;
    const bfloat16 *result = (const bfloat16 *)t->x + pixel * outputs;
    const bfloat16 *gradient = (const bfloat16 *)t->second + pixel * outputs;
    bfloat16 *out = (bfloat16 *)t->out + pixel * outputs;
    for (int64_t column = 0; column < t->width; column += COLUMNS) {
        const int64_t left = t->width - column;
        const int64_t end = column + (left < COLUMNS ? left : COLUMNS);
        for (int64_t i = 0; i < outputs; i += 8) {
            vector sum = {0};
            for (int64_t place = column * outputs + i; place < end * outputs;
                 place += outputs) {
                const vector value =
                    widen_8(gradient + place) * slopes(widen_8(result + place), SLOPE);
                *(unaligned_halves *)(out + place) = ROUND(value);
                sum += value;
            }
            *(unaligned *)(sums + i) += sum;
        }
    }
}

/* A row of the kernel, as y of a product. */
TARGET static void NAME(pack_kernel_part)(const Task *t, int64_t row, int64_t worker)
{
    (void)worker;
    const int64_t inputs = t->inputs, outputs = t->outputs, columns = t->columns;
    const int64_t count = t->size * inputs, size = packed_lines(t, count) * columns;
    const int64_t is_even = inputs % 8 == 0 && outputs % 8 == 0;
    const int64_t is_fast = is_even && t->format == BFLOAT16_PAIRS;
    float *packed = t->packed + row * size;
    if (!is_fast)
        memset(packed, 0, size * sizeof(float));
    if (!t->is_turned) {
        const float *kernel = (const float *)t->second + row * count * outputs;
        for (int64_t line = 0; line < count; line += 1 + is_fast)
            for (int64_t i = 0; i < outputs; i += is_fast ? 8 : 1) {
                const float *place = kernel + line * outputs + i;
                if (!is_fast) {
                    pack_one(t, packed, line, i, *place);
                    continue;
                }
                const halves even = ROUND(*(const unaligned *)place);
                const halves odd = ROUND(*(const unaligned *)(place + outputs));
                *(unaligned_words *)(packed + line / 2 * columns + i) =
                    __builtin_convertvector(even, words) |
                    __builtin_convertvector(odd, words) << 16;
            }
        return;
    }
    for (int64_t j = 0; j < t->size; j++) {
        const int64_t place = (t->size - 1 - row) * t->size + t->size - 1 - j;
        const float *kernel = (const float *)t->second + place * outputs * inputs;
        for (int64_t f = 0; f < inputs; f += is_fast ? 8 : 1)
            for (int64_t i = 0; i < outputs; i += is_fast ? 8 : 1) {
                const int64_t line = j * inputs + f;
                if (!is_fast) {
                    pack_one(t, packed, line, i, kernel[i * inputs + f]);
                    continue;
                }
                halves rounded[8];
                for (int n = 0; n < 8; n++)
                    rounded[n] = ROUND(*(const unaligned *)(kernel + (i + n) * inputs + f));
                for (int k = 0; k < 4; k++)
                    for (int n = 0; n < 8; n++)
                        ((pair *)packed)[(line / 2 + k) * columns + i + n] =
                            ((const pair *)&rounded[n])[k];
            }
    }
}

/* Of the smaller image, `row` is one that doubles to two of the result. */
TARGET static void NAME(upsample_row)(const Task *t, int64_t row, float *between)
{
    const int64_t width = t->width, features = t->inputs, line = width * features;
    const int64_t y = row % t->height;
    for (int64_t is_lower = 0; is_lower < 2; is_lower++) {
        const int64_t is_inside = is_lower ? y + 1 < t->height : y > 0;
        const int64_t other = is_inside ? row + 2 * is_lower - 1 : row;
        const bfloat16 *near = (const bfloat16 *)t->x + row * line;
        const bfloat16 *far = (const bfloat16 *)t->x + other * line;
        bfloat16 *out = (bfloat16 *)t->out + (2 * row + is_lower) * 2 * line;
        for (int64_t i = 0; i < line; i += 8)
            *(unaligned *)(between + i) =
                0.75f * widen_8(near + i) + 0.25f * widen_8(far + i);
        for (int64_t column = 0; column < width; column++) {
            const float *here = between + column * features;
            const float *left = column > 0 ? here - features : here;
            const float *right = column + 1 < width ? here + features : here;
            for (int64_t i = 0; i < features; i += 8, out += 8) {
                const vector most = 0.75f * *(const unaligned *)(here + i);
                *(unaligned_halves *)out =
                    ROUND(most + 0.25f * *(const unaligned *)(left + i));
                *(unaligned_halves *)(out + features) =
                    ROUND(most + 0.25f * *(const unaligned *)(right + i));
            }
            out += features;
        }
    }
}

/* The transpose of `upsample_row`: x is the gradient of the larger image. */
TARGET static void NAME(upsample_gradient_row)(const Task *t, int64_t row, float *between)
{
    const int64_t width = t->width, features = t->inputs, line = 2 * width * features;
    const int64_t y = row % t->height;
    const bfloat16 *upper = (const bfloat16 *)t->x + 2 * row * line;
    const bfloat16 *lower = upper + line;
    const bfloat16 *above = y > 0 ? upper - line : upper;
    const bfloat16 *below = y + 1 < t->height ? lower + line : lower;
    bfloat16 *out = (bfloat16 *)t->out + row * width * features;
    for (int64_t i = 0; i < line; i += 8)
        *(unaligned *)(between + i) =
            0.75f * (widen_8(upper + i) + widen_8(lower + i)) +
            0.25f * (widen_8(above + i) + widen_8(below + i));
    for (int64_t column = 0; column < width; column++) {
        const float *left = between + 2 * column * features, *right = left + features;
        const float *before = column > 0 ? left - features : left;
        const float *after = column + 1 < width ? right + features : right;
        for (int64_t i = 0; i < features; i += 8, out += 8)
            *(unaligned_halves *)out = ROUND(
                0.75f * (*(const unaligned *)(left + i) + *(const unaligned *)(right + i)) +
                0.25f *
                    (*(const unaligned *)(before + i) + *(const unaligned *)(after + i)));
    }
}

#undef NAME
#undef TARGET
#undef ROUND
