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

/* To be raised with every change of what a function takes or gives. */
int32_t ctjax_version(void) { return 1; }

/* Splits records (id uint64 at byte 0, value float at byte 8 of 16) into lists.

   planes is [num_planes][2]: first record and the one after the last. Exactly one of
   charges and classes takes the values. Returns 0 unless in each plane ids ascend
   strictly, and every id is inside the image and every value of its kind. */
int32_t ctjax_split_records(const uint8_t *records, const int64_t (*planes)[2],
                            int64_t num_planes, int64_t num_pixels, int32_t *ids,
                            float *charges, uint8_t *classes) {
  int usual = 1;
  for (int64_t plane = 0; plane < num_planes; plane++) {
    int64_t before = -1;
    for (int64_t i = planes[plane][0]; i < planes[plane][1]; i++) {
      uint64_t stored;
      float value;
      memcpy(&stored, records + 16 * i, 8);
      memcpy(&value, records + 16 * i + 8, 4);
      int64_t id = (int64_t)stored;
      usual &= id > before;
      before = id;
      ids[i] = (int32_t)id;
      if (charges) {
        usual &= isfinite(value) != 0;
        charges[i] = value;
      } else {
        uint8_t class = value == 1 ? 1 : value == 2 ? 2 : 0;
        usual &= class == value;
        classes[i] = class;
      }
    }
    usual &= before < num_pixels;
  }
  return usual;
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

/* Writes an event's pixels into zeros [num_planes][rows][columns], pooled by 2^d.

   Ids count down the columns, images along the rows: written in the file's order,
   nearly every pixel would fetch another line of memory, twice. Therefore the voxels
   are first sorted by row, which is one count and one move. The sort is stable, so
   that the voxels of a cell stay in the file's order, next to each other.

   charges and image, or classes and label, may be null. pixels has room for every
   voxel and takes the flat places written. Returns their number, or -1 before anything
   is written where ids do not ascend strictly in a plane, or leave the image. */
int64_t ctjax_fill(const int32_t *ids, const float *charges, const uint8_t *classes,
                   const int64_t (*planes)[2], int64_t num_planes, int32_t num_rows,
                   int32_t num_columns, int32_t d, float *image, uint8_t *label,
                   int32_t *pixels) {
  int32_t rows = num_rows >> d, columns = num_columns >> d;
  int64_t num_voxels = 0, num_written = -1, sum = 0;
  for (int64_t plane = 0; plane < num_planes; plane++)
    num_voxels += planes[plane][1] - planes[plane][0];

  int64_t num_bins = num_planes * rows;
  int32_t *next = calloc(num_bins, sizeof *next);
  float *charge = malloc(num_voxels * sizeof *charge + 1);
  uint8_t *class = malloc(num_voxels + 1);
  if (!next || !charge || !class) goto end;

  for (int64_t plane = 0; plane < num_planes; plane++) {
    int32_t start = 0, column = 0, before = -1, *count = next + plane * rows;
    for (int64_t i = planes[plane][0]; i < planes[plane][1]; i++) {
      if (ids[i] <= before) goto end;
      before = ids[i];
      count[row_of(before, num_rows, &start, &column) >> d]++;
    }
    if (before >= (int64_t)num_rows * num_columns) goto end;
  }
  for (int64_t bin = 0; bin < num_bins; bin++) {
    int32_t count = next[bin];
    next[bin] = sum;
    sum += count;
  }
  for (int64_t plane = 0; plane < num_planes; plane++) {
    int32_t start = 0, column = 0;
    for (int64_t i = planes[plane][0]; i < planes[plane][1]; i++) {
      int32_t row = row_of(ids[i], num_rows, &start, &column) >> d;
      int32_t bin = plane * rows + row, at = next[bin]++;
      pixels[at] = bin * columns + (column >> d);
      if (charges) charge[at] = charges[i];
      if (classes) class[at] = classes[i];
    }
  }

  num_written = 0;
  float share = 1.0f / (1 << 2 * d);
  for (int64_t i = 0; i < num_voxels;) {
    int32_t pixel = pixels[i];
    /* Unpooled, a charge of -0 stays one; pooled, it is added to the 0 of the cell. */
    float total = d ? 0.0f : -0.0f;
    uint8_t highest = 0;
    do {
      if (charges) total += charge[i];
      if (classes && class[i] > highest) highest = class[i];
      i++;
    } while (i < num_voxels && pixels[i] == pixel);
    if (charges) image[pixel] = total * share;
    if (classes) label[pixel] = highest;
    pixels[num_written++] = pixel;
  }

end:
  free(next);
  free(charge);
  free(class);
  return num_written;
}

/* Sets pixels back to zero; image or label may be null. */
void ctjax_clear(const int32_t *pixels, int64_t num_pixels, float *image,
                 uint8_t *label) {
  for (int64_t i = 0; i < num_pixels; i++) {
    if (image) image[pixels[i]] = 0;
    if (label) label[pixels[i]] = 0;
  }
}
