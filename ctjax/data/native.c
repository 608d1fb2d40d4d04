/* The inner loops of reading, for events as larcv3 writes them; called by native.py.

   Nothing here knows of Python, so that one build serves every interpreter and no
   loop holds its lock. Whatever is unusual is left to the loops in numpy, which also
   word the errors: these functions say no more than that. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian"
#endif

/* Of the sources; setup.py defines it, native_library.py compares it. */
const char *ctjax_source_hash(void) { return CTJAX_SOURCE_HASH; }

/* Splits records (id uint64 at byte 0, value float at byte 8 of 16) into lists.

   planes is [num_planes][2]: first record and the one after the last. Exactly one of
   charges and classes takes the values. Returns 0 unless in each plane ids ascend
   strictly, and every id is inside the image and every value of its kind: a charge of
   at most charge_limit either way (not a number is not less), or a class. */
int32_t ctjax_split_records(const uint8_t *restrict records,
                            const int64_t (*planes)[2], int64_t num_planes,
                            int64_t num_pixels, float charge_limit,
                            int32_t *restrict ids, float *restrict charges,
                            uint8_t *restrict classes) {
  int32_t usual = 1;
  for (int64_t plane = 0; plane < num_planes; plane++) {
    int64_t before = -1, stop = planes[plane][1];
    for (int64_t i = planes[plane][0]; i < stop; i++) {
      int64_t id;
      float value;
      memcpy(&id, records + 16 * i, 8);
      memcpy(&value, records + 16 * i + 8, 4);
      usual &= id > before;
      before = id;
      ids[i] = (int32_t)id;
      if (charges) {
        usual &= fabsf(value) <= charge_limit;
        charges[i] = value;
      } else {
        int32_t inside = value >= 0 && value <= 2;
        classes[i] = inside ? (uint8_t)value : 0;
        usual &= inside && classes[i] == value;
      }
    }
    usual &= before < num_pixels;
  }
  return usual;
}

/* Whether there are pixels, and no more than an int32 can count over all planes. */
static inline int32_t is_image(int32_t num_rows, int32_t num_columns,
                               int64_t num_planes) {
  return num_rows > 0 && num_columns > 0 && num_planes >= 0 &&
         num_planes <= INT32_MAX / num_rows / num_columns;
}

/* Row of an id; start and column follow it, mostly without a division. */
static inline int32_t row_of(int32_t id, int32_t num_rows, int32_t *start,
                             int32_t *column) {
  if ((uint32_t)(id - *start) >= (uint32_t)num_rows) {
    *column = id / num_rows;
    *start = *column * num_rows;
  }
  return id - *start;
}

/* Pools by 2^d: sums of charges divided by the area, and highest classes, per cell.

   The voxels of one column of cells follow one another, each to be added to its cell
   of that column; the bits of seen then give the cells in their order.

   Either of charges and classes may be null, and what is made of it. cells, sums and
   highest have room for every voxel, spans takes the planes of the cells. Returns 0
   unless cells divide both sides of the image, and ids ascend strictly in each plane,
   inside of the image. */
int32_t ctjax_pool(const int32_t *restrict ids, const float *restrict charges,
                   const uint8_t *restrict classes, const int64_t (*planes)[2],
                   int64_t num_planes, int32_t num_rows, int32_t num_columns, int32_t d,
                   int32_t *restrict cells, float *restrict sums,
                   uint8_t *restrict highest, int64_t (*spans)[2]) {
  if (d < 0 || d > 15 || !is_image(num_rows, num_columns, num_planes)) return 0;
  if ((num_rows | num_columns) & ((1 << d) - 1)) return 0;
  int32_t rows = num_rows >> d, num_words = rows / 64 + 1, usual = 0;
  float share = 1.0f / (1 << 2 * d);
  int64_t num_cells = 0;
  float *sum = calloc(rows, sizeof *sum);
  uint8_t *top = calloc(rows, sizeof *top);
  uint64_t *seen = calloc(num_words, sizeof *seen);
  if (!sum || !top || !seen) goto end;

  for (int64_t plane = 0; plane < num_planes; plane++) {
    int32_t start = 0, column = 0, before = -1;
    spans[plane][0] = num_cells;
    for (int64_t i = planes[plane][0]; i < planes[plane][1];) {
      if (ids[i] < 0 || ids[i] / num_rows >= num_columns) goto end;
      int32_t cell_column = ids[i] / num_rows >> d;
      int32_t beyond = ((cell_column + 1) << d) * num_rows;
      for (; i < planes[plane][1] && ids[i] < beyond; i++) {
        if (ids[i] <= before) goto end;
        before = ids[i];
        int32_t row = row_of(ids[i], num_rows, &start, &column) >> d;
        seen[row / 64] |= UINT64_C(1) << row % 64;
        if (charges) sum[row] += charges[i];
        if (classes) top[row] = classes[i] > top[row] ? classes[i] : top[row];
      }
      for (int32_t word = 0; word < num_words; word++)
        for (; seen[word]; seen[word] &= seen[word] - 1, num_cells++) {
          int32_t row = 64 * word + __builtin_ctzll(seen[word]);
          cells[num_cells] = cell_column * rows + row;
          if (charges) sums[num_cells] = sum[row] * share;
          if (classes) highest[num_cells] = top[row];
          sum[row] = top[row] = 0;
        }
    }
    spans[plane][1] = num_cells;
  }
  usual = 1;

end:
  free(sum);
  free(top);
  free(seen);
  return usual;
}

/* Writes an event's voxels into zeros [num_planes][num_rows][num_columns].

   Ids count down the columns, images along the rows: written in the file's order,
   nearly every pixel would fetch another line of memory, twice. Therefore the voxels
   are first sorted by row, which is one count and one move.

   charges and image, or classes and label, may be null. pixels takes the flat places
   written. Returns 0 where an id is outside of the image, where there is no image, or
   where there is no memory, with nothing written. */
int32_t ctjax_fill(const int32_t *restrict ids, const float *restrict charges,
                   const uint8_t *restrict classes, const int64_t (*planes)[2],
                   int64_t num_planes, int32_t num_rows, int32_t num_columns,
                   float *restrict image, uint8_t *restrict label,
                   int32_t *restrict pixels) {
  if (!is_image(num_rows, num_columns, num_planes)) return 0;
  int64_t num_voxels = 0, num_bins = num_planes * num_rows, sum = 0;
  for (int64_t plane = 0; plane < num_planes; plane++)
    num_voxels += planes[plane][1] - planes[plane][0];
  int32_t written = 0, *next = calloc(num_bins, sizeof *next);
  float *charge = malloc(num_voxels * sizeof *charge + 1);
  uint8_t *class = malloc(num_voxels + 1);
  if (!next || !charge || !class) goto end;

  for (int64_t plane = 0; plane < num_planes; plane++) {
    int32_t start = 0, column = 0, *count = next + plane * num_rows;
    for (int64_t i = planes[plane][0]; i < planes[plane][1]; i++) {
      if (ids[i] < 0 || ids[i] >= (int64_t)num_rows * num_columns) goto end;
      count[row_of(ids[i], num_rows, &start, &column)]++;
    }
  }
  for (int64_t bin = 0; bin < num_bins; bin++) {
    int32_t count = next[bin];
    next[bin] = sum;
    sum += count;
  }
  for (int64_t plane = 0; plane < num_planes; plane++) {
    int32_t start = 0, column = 0;
    for (int64_t i = planes[plane][0]; i < planes[plane][1]; i++) {
      int32_t bin = plane * num_rows + row_of(ids[i], num_rows, &start, &column);
      int32_t at = next[bin]++;
      pixels[at] = bin * num_columns + column;
      if (charges) charge[at] = charges[i];
      if (classes) class[at] = classes[i];
    }
  }
  for (int64_t i = 0; i < num_voxels; i++) {
    if (charges) image[pixels[i]] = charge[i];
    if (classes) label[pixels[i]] = class[i];
  }
  written = 1;

end:
  free(next);
  free(charge);
  free(class);
  return written;
}

/* Sets pixels back to zero; image or label may be null. */
void ctjax_clear(const int32_t *restrict pixels, int64_t num_pixels,
                 float *restrict image, uint8_t *restrict label) {
  for (int64_t i = 0; i < num_pixels; i++) {
    if (image) image[pixels[i]] = 0;
    if (label) label[pixels[i]] = 0;
  }
}
