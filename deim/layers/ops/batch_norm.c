/* Fused training-mode batch normalization and activation, on a CPU, in float32.

   Maps are channels-last: one row of channels per pixel.
     out = activation(slope * x + intercept)
   with slope and intercept per channel. The activation is SiLU, or clamping to two bounds.
   Rows are split into parts (one per thread), and parts into blocks that fit into the cache. Sums within a block are
   float32; the sums of blocks are added in double, in a fixed order. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

enum { BLOCK_ELEMENTS = 8192, BLOCK_ROWS = 256 }; /* upper limits: longer float32 sums are less accurate */

typedef struct {
  int64_t rows, channels, parts;
  float lower, upper; /* bounds of the output; infinite for no bound */
  int32_t silu;       /* instead of bounds */
} Layout;

INLINE int64_t begin_of(const Layout *s, int64_t part) { return s->rows * part / s->parts; }

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t rows_of_block(int64_t channels) {
  return channels < BLOCK_ELEMENTS ? smaller(BLOCK_ROWS, BLOCK_ELEMENTS / channels) : 1;
}

/* Clamp; the comparisons propagate NaN. */
INLINE float hold(float z, float lower, float upper) { return z < lower ? lower : z > upper ? upper : z; }

/* exp that compilers can vectorize, unlike the library function: 2^n e^r with |r| <= ln 2 / 2, accurate to about one
   unit in the last place. */
INLINE float exponential(float x) {
  x = hold(x, -87.0f, 88.0f);
  float n = floorf(x * 1.44269504f + 0.5f);
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts: the first has few digits */
  float series = 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = series * r * r + r + 1.0f;
  int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return series * power;
}

INLINE float sigmoid(float z) { return 1.0f / (1.0f + exponential(-z)); }

INLINE float activate(float z, const Layout *s, int silu) {
  return silu ? z * sigmoid(z) : hold(z, s->lower, s->upper);
}

/* Gradient of the activation's input, given the gradient of its output. */
INLINE float through_activation(float gradient, float z, const Layout *s, int silu) {
  if (!silu) return z > s->lower && z < s->upper ? gradient : 0.0f;
  float share = sigmoid(z);
  return gradient * share * (1.0f + z * (1.0f - share));
}

/* Merge the means and the sums of squared deviations of two sets of rows (Chan, Golub and LeVeque, 1983). */
INLINE void merge(double *mean, double *squares, double count, double other_mean, double other_squares, double other) {
  double distance = other_mean - *mean, share = other / (count + other);
  *mean += distance * share;
  *squares += other_squares + distance * distance * count * share;
}

/* Mean and sum of squared deviations of the rows of a part. block is a buffer for 2 * channels values. */
INLINE void statistics(const float *x, int64_t rows, int64_t channels, double *mean, double *squares, float *block) {
  float *center = block, *spread = block + channels;
  memset(mean, 0, channels * sizeof *mean);
  memset(squares, 0, channels * sizeof *squares);
  for (int64_t first = 0; first < rows; first += rows_of_block(channels)) {
    int64_t count = smaller(rows_of_block(channels), rows - first);
    const float *from = x + first * channels;
    memset(block, 0, 2 * channels * sizeof *block);
    for (int64_t row = 0; row < count; row++)
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) center[c] += from[row * channels + c];
    for (int64_t c = 0; c < channels; c++) center[c] /= (float)count;
    for (int64_t row = 0; row < count; row++)
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        float distance = from[row * channels + c] - center[c];
        spread[c] += distance * distance;
      }
    for (int64_t c = 0; c < channels; c++) merge(mean + c, squares + c, first, center[c], spread[c], count);
  }
}

INLINE void apply(const Layout *s, const float *x, const float *slope, const float *intercept, float *out, int64_t rows,
                  int64_t channels, int silu) {
  for (int64_t row = 0; row < rows; row++)
#pragma omp simd
    for (int64_t c = 0; c < channels; c++)
      out[row * channels + c] = activate(slope[c] * x[row * channels + c] + intercept[c], s, silu);
}

/* Per-channel sums over the rows of a part: the gradients of the activation's input, these times the deviation from the
   mean, and the gradients of clamped values. SiLU's gradients are also written to inner, because recomputing them is
   expensive. block is a buffer for 3 * channels values. */
INLINE void gradient_sums(const Layout *s, const float *gradient, const float *x, const float *slope,
                          const float *intercept, const float *mean, float *inner, int64_t rows, int64_t channels,
                          int silu, double *sums, float *block) {
  float *all = block, *weighted = block + channels, *kept = block + 2 * channels;
  memset(sums, 0, 3 * channels * sizeof *sums);
  for (int64_t first = 0; first < rows; first += rows_of_block(channels)) {
    int64_t count = smaller(rows_of_block(channels), rows - first);
    memset(block, 0, 3 * channels * sizeof *block);
    for (int64_t row = first; row < first + count; row++)
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        int64_t i = row * channels + c;
        float passed = through_activation(gradient[i], slope[c] * x[i] + intercept[c], s, silu);
        all[c] += passed;
        weighted[c] += passed * (x[i] - mean[c]);
        if (silu)
          inner[i] = passed;
        else
          kept[c] += gradient[i] - passed;
      }
    for (int64_t c = 0; c < 3 * channels; c++) sums[c] += block[c];
  }
}

/* grad_x = slope * inner - tilt * x - offset; for SiLU, grad_x already contains inner. */
INLINE void gradient_of_input(const Layout *s, const float *gradient, const float *x, const float *slope,
                              const float *intercept, const float *tilt, const float *offset, float *grad_x,
                              int64_t rows, int64_t channels, int silu) {
  for (int64_t row = 0; row < rows; row++)
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      int64_t i = row * channels + c;
      float inner = silu ? grad_x[i] : through_activation(gradient[i], slope[c] * x[i] + intercept[c], s, 0);
      grad_x[i] = slope[c] * inner - tilt[c] * x[i] - offset[c];
    }
}

/* Compilers optimize the loops over few channels better if the number is constant; these maps are the largest. */
#define FOR_EACH_WIDTH(call)               \
  switch (s.channels) {                    \
    case 8: { call(8); break; }            \
    case 16: { call(16); break; }          \
    case 32: { call(32); break; }          \
    case 64: { call(64); break; }          \
    default: { call(s.channels); break; }  \
  }

#define FOR_EACH_ACTIVATION(call, channels) \
  if (s.silu) call(channels, 1) else call(channels, 0)

/* mean, variance and line (slopes, then intercepts) are also outputs. sums is a buffer for 4 * channels per part. */
EXPORT void batch_norm_forward(const float *x, const float *weight, const float *bias, float *mean, float *variance,
                               float *line, float *out, double *sums, float eps, Layout s, int threads) {
  float *slope = line, *intercept = line + s.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < s.parts; part++) {
    int64_t begin = begin_of(&s, part), rows = begin_of(&s, part + 1) - begin;
    double *own = sums + part * 4 * s.channels;
#define CALL(channels)                                                                   \
  statistics(x + begin * channels, rows, channels, own, own + channels, (float *)(own + 2 * channels))
    FOR_EACH_WIDTH(CALL)
#undef CALL
  }
  for (int64_t c = 0; c < s.channels; c++) {
    double center = 0.0, squares = 0.0;
    for (int64_t part = 0; part < s.parts; part++) {
      const double *own = sums + part * 4 * s.channels + c;
      int64_t begin = begin_of(&s, part), rows = begin_of(&s, part + 1) - begin;
      if (rows) merge(&center, &squares, begin, own[0], own[s.channels], rows);
    }
    mean[c] = (float)center;
    variance[c] = (float)(squares / s.rows);
    slope[c] = weight[c] * (float)(1.0 / sqrt(squares / s.rows + eps));
    intercept[c] = bias[c] - mean[c] * slope[c];
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < s.parts; part++) {
    int64_t begin = begin_of(&s, part), rows = begin_of(&s, part + 1) - begin, from = begin * s.channels;
#define ACTIVATED(channels, silu) apply(&s, x + from, slope, intercept, out + from, rows, channels, silu);
#define CALL(channels) FOR_EACH_ACTIVATION(ACTIVATED, channels)
    FOR_EACH_WIDTH(CALL)
#undef CALL
#undef ACTIVATED
  }
}

/* grad_kept is the gradient of the bound per channel. sums is a buffer for 5 * channels per part. */
EXPORT void batch_norm_backward(const float *gradient, const float *x, const float *mean, const float *variance,
                                const float *line, float *grad_x, float *grad_weight, float *grad_bias,
                                float *grad_kept, double *sums, float eps, Layout s, int threads) {
  const float *slope = line, *intercept = line + s.channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < s.parts; part++) {
    int64_t begin = begin_of(&s, part), rows = begin_of(&s, part + 1) - begin, from = begin * s.channels;
    double *own = sums + part * 5 * s.channels;
#define ACTIVATED(channels, silu)                                                                            \
  gradient_sums(&s, gradient + from, x + from, slope, intercept, mean, grad_x + from, rows, channels, silu, own, \
                (float *)(own + 3 * channels));
#define CALL(channels) FOR_EACH_ACTIVATION(ACTIVATED, channels)
    FOR_EACH_WIDTH(CALL)
#undef CALL
#undef ACTIVATED
  }
  float *tilt = (float *)(sums + 3 * s.channels), *offset = tilt + s.channels; /* reuses the first part's block */
  for (int64_t c = 0; c < s.channels; c++) {
    double all = 0.0, weighted = 0.0, kept = 0.0;
    for (int64_t part = 0; part < s.parts; part++) {
      const double *own = sums + part * 5 * s.channels + c;
      all += own[0], weighted += own[s.channels], kept += own[2 * s.channels];
    }
    double inverse = 1.0 / sqrt((double)variance[c] + eps);
    grad_weight[c] = (float)(weighted * inverse);
    grad_bias[c] = (float)all;
    grad_kept[c] = (float)kept;
    double steep = slope[c] * weighted * inverse * inverse / s.rows;
    tilt[c] = (float)steep;
    offset[c] = (float)(slope[c] * all / s.rows - steep * mean[c]);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t part = 0; part < s.parts; part++) {
    int64_t begin = begin_of(&s, part), rows = begin_of(&s, part + 1) - begin, from = begin * s.channels;
#define ACTIVATED(channels, silu)                                                                               \
  gradient_of_input(&s, gradient + from, x + from, slope, intercept, tilt, offset, grad_x + from, rows, channels, silu);
#define CALL(channels) FOR_EACH_ACTIVATION(ACTIVATED, channels)
    FOR_EACH_WIDTH(CALL)
#undef CALL
#undef ACTIVATED
  }
}
