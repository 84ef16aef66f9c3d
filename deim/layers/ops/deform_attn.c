/* Deformable attention on a CPU, in float32; see deform_attn in __init__.py for the definition.

   All arrays are contiguous:
     value      (batch, tokens, heads, dim)
     shapes     (levels, 2), height and width
     points     (levels,), with sum P
     locations  (batch, queries, heads, P, 2), x and y
     weights    (batch, queries, heads, P)
     out        (batch, queries, heads, dim) */

#include <math.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef struct {
  int64_t batch, tokens, heads, dim, queries, levels, total_points;
  const int64_t *shapes, *points;
} Sizes;

/* The four pixels around a position: upper left, upper right, lower left, lower right. */
typedef struct {
  int64_t row[4];   /* index of the pixel in its level; -1 outside of the map */
  float weight[4];  /* bilinear */
  float left, upper; /* weights of the left and the upper pixels */
} Corners;

/* Return whether any of the four pixels is in the map. A NaN position counts as inside, with NaN weights. */
INLINE int find_corners(float x, float y, int64_t height, int64_t width, Corners *corners) {
  x = x * (float)width - 0.5f;
  y = y * (float)height - 0.5f;
  if (x <= -1.0f || y <= -1.0f || x >= (float)width || y >= (float)height) return 0;
  int valid = x == x && y == y;
  float low_x = floorf(x), low_y = floorf(y);
  int64_t column = valid ? (int64_t)low_x : 0, line = valid ? (int64_t)low_y : 0;
  float right = x - low_x, lower = y - low_y;
  corners->left = 1.0f - right;
  corners->upper = 1.0f - lower;
  for (int corner = 0; corner < 4; corner++) {
    int64_t c = column + (corner & 1), l = line + (corner >> 1);
    corners->row[corner] = c >= 0 && c < width && l >= 0 && l < height ? l * width + c : -1;
    corners->weight[corner] = (corner & 1 ? right : 1.0f - right) * (corner >> 1 ? lower : 1.0f - lower);
  }
  return 1;
}

INLINE void add_scaled(float *target, const float *source, float factor, int64_t dim) {
#pragma omp simd
  for (int64_t d = 0; d < dim; d++) target[d] += factor * source[d];
}

INLINE float dot(const float *a, const float *b, int64_t dim) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < dim; d++) sum += a[d] * b[d];
  return sum;
}

/* Output of one query of one head: the sum over its points. */
INLINE void attend(const Sizes *s, const float *value, const float *location, const float *weight, float *out,
                   int64_t dim) {
  for (int64_t d = 0; d < dim; d++) out[d] = 0.0f;
  for (int64_t level = 0; level < s->levels; level++) {
    int64_t height = s->shapes[2 * level], width = s->shapes[2 * level + 1];
    for (int64_t point = 0; point < s->points[level]; point++, location += 2, weight++) {
      Corners corners;
      if (!find_corners(location[0], location[1], height, width, &corners)) continue;
      for (int corner = 0; corner < 4; corner++)
        if (corners.row[corner] >= 0)
          add_scaled(out, value + corners.row[corner] * s->heads * dim, *weight * corners.weight[corner], dim);
    }
    value += height * width * s->heads * dim;
  }
}

/* Gradients of one query of one head; grad_value is accumulated. */
INLINE void attend_backward(const Sizes *s, const float *grad, const float *value, const float *location,
                            const float *weight, float *grad_value, float *grad_location, float *grad_weight,
                            int64_t dim) {
  for (int64_t level = 0; level < s->levels; level++) {
    int64_t height = s->shapes[2 * level], width = s->shapes[2 * level + 1];
    for (int64_t point = 0; point < s->points[level];
         point++, location += 2, weight++, grad_location += 2, grad_weight++) {
      Corners corners;
      grad_location[0] = grad_location[1] = *grad_weight = 0.0f;
      if (!find_corners(location[0], location[1], height, width, &corners)) continue;
      float sampled[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int corner = 0; corner < 4; corner++) {
        if (corners.row[corner] < 0) continue;
        int64_t offset = corners.row[corner] * s->heads * dim;
        sampled[corner] = dot(grad, value + offset, dim);
        add_scaled(grad_value + offset, grad, *weight * corners.weight[corner], dim);
        *grad_weight += corners.weight[corner] * sampled[corner];
      }
      float along_x = corners.upper * (sampled[1] - sampled[0]) + (1.0f - corners.upper) * (sampled[3] - sampled[2]);
      float along_y = corners.left * (sampled[2] - sampled[0]) + (1.0f - corners.left) * (sampled[3] - sampled[1]);
      grad_location[0] = *weight * along_x * (float)width;
      grad_location[1] = *weight * along_y * (float)height;
    }
    value += height * width * s->heads * dim;
    grad_value += height * width * s->heads * dim;
  }
}

/* Compilers unroll the loops over channels for these common widths. */
#define FOR_EACH_WIDTH(call)        \
  switch (s.dim) {                  \
    case 16: { call(16); break; }   \
    case 32: { call(32); break; }   \
    case 64: { call(64); break; }   \
    default: { call(s.dim); break; } \
  }

EXPORT void deform_attn_forward(const float *value, const float *locations, const float *weights, float *out, Sizes s,
                                int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t query = 0; query < s.batch * s.queries; query++) {
    for (int64_t head = 0; head < s.heads; head++) {
      const float *image = value + (query / s.queries) * s.tokens * s.heads * s.dim + head * s.dim;
      int64_t index = query * s.heads + head;
#define CALL(dim) \
  attend(&s, image, locations + index * s.total_points * 2, weights + index * s.total_points, out + index * dim, dim)
      FOR_EACH_WIDTH(CALL)
#undef CALL
    }
  }
}

/* grad_value must be zero-initialized. Each (image, head) pair is written by one thread: no locks are needed, and the
   order of sums is deterministic. */
EXPORT void deform_attn_backward(const float *grad, const float *value, const float *locations, const float *weights,
                                 float *grad_value, float *grad_locations, float *grad_weights, Sizes s, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t pair = 0; pair < s.batch * s.heads; pair++) {
    int64_t image = pair / s.heads, head = pair % s.heads;
    int64_t first = image * s.tokens * s.heads * s.dim + head * s.dim;
    for (int64_t query = 0; query < s.queries; query++) {
      int64_t index = (image * s.queries + query) * s.heads + head, point = index * s.total_points;
#define CALL(dim)                                                                                       \
  attend_backward(&s, grad + index * dim, value + first, locations + point * 2, weights + point,        \
                  grad_value + first, grad_locations + point * 2, grad_weights + point, dim)
      FOR_EACH_WIDTH(CALL)
#undef CALL
    }
  }
}
