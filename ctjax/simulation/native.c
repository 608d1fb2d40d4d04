/* The inner loops of showers.py, drift.py, noise.py and readout.py; called by native.py.

   Every sum and product is of the type and in the order of the loops in numpy, so that
   both give the same bits; what is not a sum or product (exp, log, random numbers) is
   left to numpy. Nothing here knows of Python. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "sums of float must be rounded to float"
#endif

/* Of the sources; setup.py defines it, native_library.py compares it. */
const char *ctjax_source_hash(void) { return CTJAX_SOURCE_HASH; }

/* Samples summed side by side, in one vector. */
#define LANES 4
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

/* As in constants.py. */
enum { BACKGROUND, COSMIC, NEUTRINO };

/* Cuts segments into points and drifts them, as drift.make_points does.

   whole is [12][num_segments], in the order of drift.PER_SEGMENT, and kicks [3][points];
   limits are drift length, half height, half depth, and the first tick beyond the
   window; x is counted from the cathode.
   There are as many points as the sum of pieces. */
void ctjax_drift(int64_t num_segments, int64_t num_points, const float *restrict whole,
                 const int64_t *restrict pieces, const uint8_t *restrict of_neutrino,
                 const float *restrict kicks, const double *restrict limits,
                 float per_tick, int32_t *restrict tick, uint8_t *restrict volume,
                 double *restrict y, double *restrict z, float *restrict charge,
                 float *restrict energy, uint8_t *restrict is_neutrino) {
  double drift_length = limits[0], half_height = limits[1], half_depth = limits[2];
  double ticks = limits[3];
  int64_t point = 0;
  for (int64_t i = 0; i < num_segments; i++) {
    float value[12];
    for (int32_t k = 0; k < 12; k++) value[k] = whole[k * num_segments + i];
    for (int64_t number = 0; number < pieces[i]; number++, point++) {
      double along = (number + 0.5) * value[6];
      double here[3];
      for (int32_t k = 0; k < 3; k++) here[k] = value[k] + along * value[3 + k];
      double at = value[7] - fabs(here[0]) * per_tick;
      int32_t inside = (fabs(here[0]) < drift_length) & (fabs(here[1]) < half_height) &
                       (fabs(here[2] - half_depth) < half_depth) & (at > 0) &
                       (at < ticks);
      float kick = value[8] * kicks[point];
      float kick_y = value[9] * kicks[num_points + point];
      float kick_z = value[9] * kicks[2 * num_points + point];
      at += kick;
      at = at < 0 ? 0 : at;
      tick[point] = (int32_t)(at > ticks - 1 ? ticks - 1 : at);
      volume[point] = here[0] >= 0;
      y[point] = here[1] + kick_y;
      z[point] = here[2] + kick_z;
      charge[point] = inside ? value[10] : 0;
      energy[point] = inside ? value[11] : 0;
      is_neutrino[point] = of_neutrino[i];
    }
  }
}

/* Constants of one plane and its image; native.py has the same fields. */
struct plane {
  int64_t height, width, volumes, per_row, reach;
  int64_t first_column, last_column;
  double cosine, sine, half_depth, pitch;
  double grid;
  float gain, noise_counts, threshold, label_threshold;
  /* [2 * reach + 1] */
  const float *kernel;
};

/* What a point leaves in its column: where and how much. */
struct deposit {
  int32_t sample, row;
  float charge, energy;
};

static inline void set_bit(uint64_t *bits, int64_t row) {
  bits[row >> 6] |= UINT64_C(1) << (row & 63);
}

/* Makes places of counts: counts[i] becomes the sum of those before. */
static void add_up(int32_t *counts, int64_t number) {
  int32_t sum = 0;
  for (int64_t i = 0; i < number; i++) {
    int32_t count = counts[i];
    counts[i] = sum;
    sum += count;
  }
}

/* The largest of the samples in a row, after the kernel; taps in their order. */
static inline float largest(const float *restrict samples, const float *restrict kernel,
                            int64_t per_row, int64_t taps) {
  float most = -INFINITY;
  for (int64_t first = 0; first < per_row; first += LANES) {
    lanes sum = {0}, window;
    for (int64_t tap = 0; tap < taps; tap++) {
      memcpy(&window, samples + first + tap, sizeof window);
      sum += kernel[tap] * window;
    }
    for (int64_t k = 0; k < LANES && first + k < per_row; k++)
      most = sum[k] > most ? sum[k] : most;
  }
  return most;
}

/* Pixels within reach of points, in ascending order: the largest pulse in each, and its
   class by its true energy, as Readout.make_signal does in numpy.

   Points are first sorted by column, in their order, so that what is summed up stays in
   the caches: the samples of a whole plane do not. volume is 1 for what lies in the
   upper half of a plane that shows two volumes, otherwise 0. pixels, pulses and labels
   have room for three times as many as there are points. Returns how many pixels there
   are, -1 where there is no memory. */
int64_t ctjax_signal(const struct plane *plane, int64_t num_points,
                     const int32_t *restrict tick, const uint8_t *restrict volume,
                     const double *restrict y, const double *restrict z,
                     const float *restrict charge, const float *restrict energy,
                     const uint8_t *restrict is_neutrino, int64_t *restrict pixels,
                     float *restrict pulses, float *restrict labels) {
  int32_t height = plane->height, per_row = plane->per_row, reach = plane->reach;
  int32_t rows = height / plane->volumes, words = height / 64 + 1;
  int32_t stride = rows * per_row + 2 * reach;
  int64_t number = -1, width = plane->width;
  struct deposit *deposits = malloc(num_points * sizeof *deposits + 1);
  int32_t *columns = malloc(num_points * sizeof *columns + 1);
  int32_t *next = calloc(width, sizeof *next);
  /* Of all volumes, and the energy of cosmic rays and of neutrinos. */
  float *samples = calloc(plane->volumes * stride + LANES, sizeof *samples);
  float *energies = calloc(2 * height, sizeof *energies);
  uint64_t *bits = calloc(words, sizeof *bits);
  if (!deposits || !columns || !next || !samples || !energies || !bits) goto end;

  for (int64_t i = 0; i < num_points; i++) {
    double across = plane->cosine * (z[i] - plane->half_depth) - plane->sine * y[i];
    double place = across / plane->pitch;
    int64_t column = (int64_t)place;
    column += width / 2 - (place < column);
    column = column < plane->first_column ? plane->first_column : column;
    column = column > plane->last_column ? plane->last_column : column;
    columns[i] = column;
    next[column]++;
  }
  add_up(next, width);
  for (int64_t i = 0; i < num_points; i++) {
    int32_t row = tick[i] / per_row;
    deposits[next[columns[i]]++] = (struct deposit){
        volume[i] * stride + reach + tick[i],
        (volume[i] ? height - 1 - row : row) + (is_neutrino[i] ? height : 0),
        charge[i], energy[i]};
  }

  number = 0;
  for (int64_t column = 0, i = 0; column < width; column++) {
    if (i == next[column]) continue;
    for (; i < next[column]; i++) {
      struct deposit here = deposits[i];
      samples[here.sample] += here.charge;
      energies[here.row] += here.energy;
      set_bit(bits, here.row < height ? here.row : here.row - height);
    }
    int32_t last = -1;
    for (int32_t word = 0; word < words; word++)
      for (uint64_t left = bits[word]; left; left &= left - 1) {
        int32_t touched = 64 * word + __builtin_ctzll(left);
        int32_t from = touched - (touched % rows > 0);
        int32_t to = touched + (touched % rows < rows - 1);
        for (int32_t row = from > last ? from : last + 1; row <= to; row++) {
          int32_t first =
              row < rows ? row * per_row : stride + (height - 1 - row) * per_row;
          pulses[number] =
              largest(samples + first, plane->kernel, per_row, 2 * reach + 1);
          float label = energies[row] >= plane->label_threshold ? COSMIC : BACKGROUND;
          labels[number] =
              energies[height + row] >= plane->label_threshold ? NEUTRINO : label;
          pixels[number++] = column * height + (last = row);
        }
      }
    for (int32_t word = 0; word < words; word++)
      for (; bits[word]; bits[word] &= bits[word] - 1) {
        int32_t row = 64 * word + __builtin_ctzll(bits[word]);
        int32_t first = row < rows ? row * per_row : stride + (height - 1 - row) * per_row;
        memset(samples + first + reach, 0, per_row * sizeof *samples);
        energies[row] = energies[height + row] = 0;
      }
  }

end:
  free(deposits);
  free(columns);
  free(next);
  free(samples);
  free(energies);
  free(bits);
  return number;
}

/* Thresholds, rounds and merges signal and noise, as Readout.store does in numpy.

   pixels ascend. ids, charges and labels have room for all of signal and noise. Returns
   how many pixels there are, -1 where there is no memory. */
int64_t ctjax_store(const struct plane *plane, int64_t num_pixels,
                    const int64_t *restrict pixels, const float *restrict pulses,
                    const float *restrict white, const float *restrict classes,
                    int64_t num_noise, const int64_t *restrict noise_ids,
                    const double *restrict noise_counts, uint64_t *restrict ids,
                    float *restrict charges, float *restrict labels) {
  int64_t number = -1, height = plane->height, width = plane->width;
  int32_t words = height / 64 + 1;
  struct noise {
    int32_t row;
    float charge;
  } *noise = malloc(num_noise * sizeof *noise + 1);
  int32_t *next = calloc(width, sizeof *next);
  float *charge = malloc(height * sizeof *charge);
  float *label = malloc(height * sizeof *label);
  uint64_t *bits = calloc(words, sizeof *bits);
  if (!noise || !next || !charge || !label || !bits) goto end;

  for (int64_t i = 0; i < num_noise; i++) next[noise_ids[i] / height]++;
  add_up(next, width);
  /* Rounded up, so that what passed the threshold stays above it. */
  for (int64_t i = 0; i < num_noise; i++) {
    int64_t column = noise_ids[i] / height;
    noise[next[column]++] =
        (struct noise){noise_ids[i] - column * height,
                       ceil(noise_counts[i] / plane->grid) * plane->grid};
  }

  number = 0;
  for (int64_t column = 0, i = 0, begin = 0; column < width; column++) {
    int64_t start = column * height, stop = start + height;
    /* Of noise in one pixel the first counts, and signal before it: what counts is
       written last. */
    for (int64_t k = next[column] - 1; k >= begin; k--) {
      set_bit(bits, noise[k].row);
      charge[noise[k].row] = noise[k].charge;
      label[noise[k].row] = BACKGROUND;
    }
    begin = next[column];
    for (; i < num_pixels && pixels[i] < stop; i++) {
      float count = pulses[i] * plane->gain, kick = plane->noise_counts * white[i];
      count += count > 1 ? kick : 0;
      if (count > plane->threshold) {
        int64_t row = pixels[i] - start;
        set_bit(bits, row);
        charge[row] = ceil(count / plane->grid) * plane->grid;
        label[row] = classes[i];
      }
    }
    for (int32_t word = 0; word < words; word++)
      for (; bits[word]; bits[word] &= bits[word] - 1) {
        int32_t row = 64 * word + __builtin_ctzll(bits[word]);
        ids[number] = start + row;
        charges[number] = charge[row];
        labels[number++] = label[row];
      }
  }

end:
  free(noise);
  free(next);
  free(charge);
  free(label);
  free(bits);
  return number;
}

/* Rows of an array of particles; see Particles in segments.py. */
enum { POSITION = 0, DIRECTION = 3, ENERGY = 6, PARTICLE_ROWS = 9 };

/* Half width, half height and depth of the active volume, and the margin around it. */
struct box {
  double half_width, half_height, depth, margin;
};

static inline int32_t is_inside(const struct box *box, const double at[3]) {
  return (fabs(at[0]) < box->half_width + box->margin) &
         (fabs(at[1]) < box->half_height + box->margin) & (at[2] > -box->margin) &
         (at[2] < box->depth + box->margin);
}

static inline double larger(double a, double b) { return a > b ? a : b; }

static inline double length(const double v[3]) {
  return sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
}

/* Particle i of [PARTICLE_ROWS][stride]. */
static inline void get(const double *data, int64_t stride, int64_t i, double *particle) {
  for (int32_t row = 0; row < PARTICLE_ROWS; row++) particle[row] = data[row * stride + i];
}

static inline void put(double *data, int64_t stride, int64_t i, const double *particle) {
  for (int32_t row = 0; row < PARTICLE_ROWS; row++) data[row * stride + i] = particle[row];
}

/* Turns a direction as segments.turn does. */
static inline void turn(double direction[3], double cosine, double cosine_azimuth,
                        double sine_azimuth) {
  double x = direction[0], y = direction[1], z = direction[2];
  double sign = z >= 0 ? 1.0 : -1.0, scale = -1.0 / (sign + z), mixed = x * y * scale;
  double first[3] = {1.0 + sign * x * x * scale, sign * mixed, -sign * x};
  double second[3] = {mixed, sign + y * y * scale, -y};
  double sine = sqrt(larger(1.0 - cosine * cosine, 0.0));
  for (int32_t k = 0; k < 3; k++)
    direction[k] = cosine * direction[k] +
                   sine * (cosine_azimuth * first[k] + sine_azimuth * second[k]);
  double size = length(direction);
  for (int32_t k = 0; k < 3; k++) direction[k] /= size;
}

/* Ends one straight piece of each electron, as showers.end_step does.

   data is [PARTICLE_ROWS][number]; random and trigonometry (of the polar angle, then
   cosine and sine of the azimuth) come from numpy. ends is [5][number]: where the piece
   ends, energy and energy per cm left on it. radiated and left are like data and take as
   many as counts says. */
void ctjax_end_step(const struct box *box, double cut, int64_t number,
                    const double *restrict data, const double *restrict step,
                    const double *restrict flight, const double *restrict energy,
                    const double *restrict photon, const double *restrict random,
                    const double *restrict cosine, const double *restrict cosine_azimuth,
                    const double *restrict sine_azimuth, double *restrict ends,
                    double *restrict radiated, double *restrict left,
                    int64_t *restrict counts) {
  int64_t emitted = 0, going = 0;
  for (int64_t i = 0; i < number; i++) {
    double electron[PARTICLE_ROWS], after = energy[i];
    get(data, number, i, electron);
    for (int32_t k = 0; k < 3; k++) {
      electron[k] += electron[DIRECTION + k] * step[i];
      ends[k * number + i] = electron[k];
    }
    double lost = electron[ENERGY] - after;
    ends[3 * number + i] = lost;
    ends[4 * number + i] = lost / larger(step[i], 1e-6);
    double share = photon[i] / larger(after, cut);
    if ((step[i] >= flight[i]) & (after > cut) &
        (random[i] < 1 - share + 0.75 * (share * share))) {
      electron[ENERGY] = photon[i];
      put(radiated, number, emitted++, electron);
      after -= photon[i];
    }
    if ((after > 0.02) & is_inside(box, electron)) {
      electron[ENERGY] = after;
      turn(electron + DIRECTION, cosine[i], cosine_azimuth[i], sine_azimuth[i]);
      put(left, number, going++, electron);
    }
  }
  counts[0] = emitted;
  counts[1] = going;
}

/* Flies photons on and drops those that leave, with a number of each, as showers.fly
   does. Returns how many stay. */
int64_t ctjax_fly(const struct box *box, int64_t number, const double *restrict data,
                  const double *restrict flight, const double *restrict of_each,
                  double *restrict flown, double *restrict of_flown) {
  int64_t staying = 0;
  for (int64_t i = 0; i < number; i++) {
    double photon[PARTICLE_ROWS];
    get(data, number, i, photon);
    for (int32_t k = 0; k < 3; k++) photon[k] += photon[DIRECTION + k] * flight[i];
    if (!is_inside(box, photon)) continue;
    of_flown[staying] = of_each[i];
    put(flown, number, staying++, photon);
  }
  return staying;
}

/* Makes pairs of photons, or scatters them, as showers.convert does.

   share is of each pair, random and azimuth of each scattered photon. electrons takes
   the first of all pairs, the second of all pairs, then the recoils. Returns how many
   scattered photons have more energy than the cut. */
int64_t ctjax_convert(double electron_mev, double cut, int64_t number, int64_t pairs,
                      const double *restrict data, const uint8_t *restrict is_pair,
                      const double *restrict share, const double *restrict random,
                      const double *restrict cosine_azimuth,
                      const double *restrict sine_azimuth, double *restrict electrons,
                      double *restrict scattered) {
  int64_t pair = 0, scatter = 0, going = 0, stride = number + pairs;
  for (int64_t i = 0; i < number; i++) {
    double photon[PARTICLE_ROWS];
    get(data, number, i, photon);
    double energy = photon[ENERGY];
    if (is_pair[i]) {
      double available = larger(energy - 2 * electron_mev, 0.0);
      photon[ENERGY] = share[pair] * available;
      put(electrons, stride, pair, photon);
      photon[ENERGY] = (1 - share[pair]) * available;
      put(electrons, stride, pairs + pair++, photon);
      continue;
    }
    double ratio = energy / electron_mev;
    double recoil = energy * (2 * ratio / (1 + 2 * ratio)) * random[scatter];
    double left = larger(energy - recoil, 1e-3);
    double cosine = 1 - electron_mev * (1 / left - 1 / energy);
    cosine = cosine < -1 ? -1 : cosine > 1 ? 1 : cosine;
    double electron[PARTICLE_ROWS];
    memcpy(electron, photon, sizeof electron);
    turn(photon + DIRECTION, cosine, cosine_azimuth[scatter], sine_azimuth[scatter]);
    photon[ENERGY] = left;
    double *momentum = electron + DIRECTION;
    for (int32_t k = 0; k < 3; k++)
      momentum[k] = energy * momentum[k] - left * photon[DIRECTION + k];
    double size = length(momentum) + 1e-12;
    for (int32_t k = 0; k < 3; k++) momentum[k] /= size;
    electron[ENERGY] = recoil;
    put(electrons, stride, 2 * pairs + scatter++, electron);
    if (left > cut) put(scattered, number, going++, photon);
  }
  return going;
}

/* Places the runs of bursts, as noise.spread does.

   runs, start and column are of each burst; gap and kind of each run, which has kind + 1
   pixels; random of each pixel. columns, rows and excesses take all pixels. Returns how
   many of them lie within the rows. */
int64_t ctjax_spread(double gap_rows, int64_t num_rows, int64_t bursts,
                     const double *restrict mean_excess, const int64_t *restrict runs,
                     const double *restrict gap, const int64_t *restrict start,
                     const int64_t *restrict column, const int64_t *restrict kind,
                     const double *restrict random, int64_t *restrict columns,
                     int64_t *restrict rows, double *restrict excesses) {
  int64_t run = 0, pixel = 0, kept = 0;
  /* One sum over all bursts, as that is how numpy rounds it. */
  double sum = 0;
  for (int64_t burst = 0; burst < bursts; burst++) {
    double begin = sum;
    for (int64_t stop = run + runs[burst], first = run; run < stop; run++) {
      if (run > first) sum += 1.0 + gap_rows * gap[run];
      int64_t row = start[burst] + (int64_t)(sum - begin);
      for (int64_t end = row + kind[run]; row <= end; row++, pixel++) {
        if (row >= num_rows) continue;
        columns[kept] = column[burst];
        rows[kept] = row;
        excesses[kept++] = mean_excess[kind[run]] * random[pixel];
      }
    }
  }
  return kept;
}
