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
                            int64_t num_pixels, float limit,
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
        usual &= fabsf(value) <= limit;
        charges[i] = value;
      } else {
        int32_t inside = value >= 0 && value <= limit;
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

/* Whether planes follow one another and ids ascend strictly in each, inside of the
   image. */
static int32_t are_sites(const int32_t *restrict ids, const int64_t (*planes)[2],
                         int64_t num_planes, int32_t num_rows, int32_t num_columns) {
  if (num_planes < 1 || !is_image(num_rows, num_columns, num_planes)) return 0;
  int64_t expected = 0, num_pixels = (int64_t)num_rows * num_columns;
  for (int64_t plane = 0; plane < num_planes; plane++) {
    int64_t before = -1;
    if (planes[plane][0] != expected) return 0;
    expected = planes[plane][1];
    for (int64_t i = planes[plane][0]; i < expected; i++) {
      if (ids[i] <= before) return 0;
      before = ids[i];
    }
    if (before >= num_pixels) return 0;
  }
  return 1;
}

/* The first of sites from begin on, up to stop, whose id is not below beyond. */
static inline int64_t end_of_run(const int32_t *restrict ids, int64_t begin,
                                 int64_t stop, int64_t beyond) {
  while (begin < stop && ids[begin] < beyond) begin++;
  return begin;
}

/* Finds the sites in the square of size x size pixels around each of num_sites.

   Every pair is met once, from the site that comes first, and written to both: sites
   below it in its own column, and those of the next columns, of which a window moves
   down along with it. table is [num_sites][size * size]; sites count from first on,
   and absent stands for none. Returns 0 unless size is odd and small, and are_sites
   holds. */
int32_t ctjax_find_neighbours(const int32_t *restrict ids, const int64_t (*planes)[2],
                              int64_t num_planes, int32_t num_rows,
                              int32_t num_columns, int32_t size, int32_t first,
                              int32_t absent, int32_t *restrict table) {
  if (size < 1 || size > 1024 || size % 2 == 0) return 0;
  if (!are_sites(ids, planes, num_planes, num_rows, num_columns)) return 0;
  int64_t num_sites = planes[num_planes - 1][1];
  int32_t area = size * size, reach = size / 2;
  for (int64_t i = 0; i < num_sites * area; i++) table[i] = absent;
  int32_t *middle = table + area / 2;

  for (int64_t plane = 0; plane < num_planes; plane++) {
    int64_t stop = planes[plane][1];
    for (int64_t begin = planes[plane][0], end; begin < stop; begin = end) {
      int64_t column = ids[begin] / num_rows;
      end = end_of_run(ids, begin, stop, (column + 1) * num_rows);
      for (int64_t i = begin; i < end; i++) {
        middle[i * area] = first + i;
        for (int64_t j = i + 1; j < end && ids[j] - ids[i] <= reach; j++) {
          int32_t number = (ids[j] - ids[i]) * size;
          middle[i * area + number] = first + j;
          middle[j * area - number] = first + i;
        }
      }
      for (int64_t next = end, next_end; next < stop; next = next_end) {
        int64_t right = ids[next] / num_rows - column;
        if (right > reach) break;
        next_end = end_of_run(ids, next, stop, (column + right + 1) * num_rows);
        int64_t low = next;
        for (int64_t i = begin; i < end; i++) {
          int64_t beside = ids[i] + right * num_rows;
          while (low < next_end && ids[low] < beside - reach) low++;
          for (int64_t j = low; j < next_end && ids[j] - beside <= reach; j++) {
            int64_t number = (ids[j] - beside) * size + right;
            middle[i * area + number] = first + j;
            middle[j * area - number] = first + i;
          }
        }
      }
    }
  }
  return 1;
}

/* Makes the sites of half the resolution, active where any of the four is.

   Two columns become one: their sites are met in the order of the rows. cells and parts
   have room for as many sites as there are, of which spans takes the planes. parts is
   [cells][4], the number of sites for none; place says where in it each site is.
   Returns 0 unless are_sites holds. */
int32_t ctjax_halve(const int32_t *restrict ids, const int64_t (*planes)[2],
                    int64_t num_planes, int32_t num_rows, int32_t num_columns,
                    int32_t *restrict cells, int64_t (*spans)[2],
                    int32_t (*restrict parts)[4], int32_t *restrict place) {
  if (!are_sites(ids, planes, num_planes, num_rows, num_columns)) return 0;
  int64_t num_sites = planes[num_planes - 1][1], num_cells = 0;
  if (num_sites > INT32_MAX / 4) return 0;
  int32_t rows = (num_rows + 1) / 2;

  for (int64_t plane = 0; plane < num_planes; plane++) {
    int64_t stop = planes[plane][1];
    spans[plane][0] = num_cells;
    for (int64_t i = planes[plane][0]; i < stop;) {
      int64_t cell_column = ids[i] / num_rows / 2;
      int64_t first[2] = {2 * cell_column * num_rows, (2 * cell_column + 1) * num_rows};
      int64_t end[2], at[2] = {i, 0};
      end[0] = at[1] = end_of_run(ids, i, stop, first[1]);
      i = end[1] = end_of_run(ids, at[1], stop, first[1] + num_rows);
      for (; at[0] < end[0] || at[1] < end[1]; num_cells++) {
        int64_t row = rows;
        for (int side = 0; side < 2; side++)
          if (at[side] < end[side] && (ids[at[side]] - first[side]) / 2 < row)
            row = (ids[at[side]] - first[side]) / 2;
        cells[num_cells] = cell_column * rows + row;
        for (int part = 0; part < 4; part++) parts[num_cells][part] = num_sites;
        for (int side = 0; side < 2; side++)
          for (; at[side] < end[side]; at[side]++) {
            int64_t lower = ids[at[side]] - first[side] - 2 * row;
            if (lower > 1) break;
            parts[num_cells][2 * lower + side] = at[side];
            place[at[side]] = 4 * num_cells + 2 * lower + side;
          }
      }
    }
    spans[plane][1] = num_cells;
  }
  return 1;
}

/* Makes the sites of all planes in one, active where any plane is.

   As ctjax_halve, with parts [cells][num_planes], and all cells in one plane. Returns 0
   for very many planes, too. */
int32_t ctjax_merge_planes(const int32_t *restrict ids, const int64_t (*planes)[2],
                           int64_t num_planes, int32_t num_rows, int32_t num_columns,
                           int32_t *restrict cells, int64_t (*spans)[2],
                           int32_t *restrict parts, int32_t *restrict place) {
  int64_t at[16], num_cells = 0;
  if (num_planes > 16) return 0;
  if (!are_sites(ids, planes, num_planes, num_rows, num_columns)) return 0;
  int64_t num_sites = planes[num_planes - 1][1];
  for (int64_t plane = 0; plane < num_planes; plane++) at[plane] = planes[plane][0];
  for (int64_t left = num_sites; left > 0; num_cells++) {
    int32_t lowest = INT32_MAX;
    for (int64_t plane = 0; plane < num_planes; plane++)
      if (at[plane] < planes[plane][1] && ids[at[plane]] < lowest)
        lowest = ids[at[plane]];
    cells[num_cells] = lowest;
    for (int64_t plane = 0; plane < num_planes; plane++) {
      int64_t number = num_cells * num_planes + plane;
      parts[number] = num_sites;
      if (at[plane] < planes[plane][1] && ids[at[plane]] == lowest) {
        place[at[plane]] = number;
        parts[number] = at[plane]++;
        left--;
      }
    }
  }
  spans[0][0] = 0;
  spans[0][1] = num_cells;
  return 1;
}

/* Writes numbers of sites as those among more sites: later ones by shift, and absent
   as what stands for no site there. */
void ctjax_renumber(const int32_t *restrict numbers, int64_t count, int32_t shift,
                    int32_t absent, int32_t absent_there, int32_t *restrict out) {
  for (int64_t i = 0; i < count; i++)
    out[i] = numbers[i] == absent ? absent_there : numbers[i] + shift;
}
