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
            if (t->bias) {
                sum += *(const unaligned *)(t->bias + i);
                if (more)
                    sum += widen_8(more + line * outputs + i);
                sum = activate(sum);
            }
            *(unaligned_halves *)(out + i) = ROUND(sum);
        }
        if (i < outputs) {
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
                    widen_8(gradient + place) * slopes(widen_8(result + place));
                *(unaligned_halves *)(out + place) = ROUND(value);
                sum += value;
            }
            *(unaligned *)(sums + i) += sum;
        }
    }
}

#undef NAME
#undef TARGET
#undef ROUND
