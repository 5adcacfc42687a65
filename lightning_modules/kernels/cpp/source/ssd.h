// State space duality (Mamba-2): the arguments of its C functions, and what forward and backward share.
//
// Inside a chunk of q positions y_i = sum over j <= i of (C_i B_j) decay(j -> i) dt_j x_j, products of matrices; a state
// (P, N) carries what lies before. The scores C_i B_j are the same for all heads, and computed once. All products run
// through one micro-kernel, on copies padded to whole vectors.
#pragma once

#include <cstring>

#include "parallel.h"
#include "simd.h"

namespace ssd {

using parallel::Buffer;
using simd::kLanes;
using simd::Vec;

struct Strides {
  int64_t batch, position;
};

// Filled field by field by _call in ssd.py. B batch, c chunks, L positions, H heads, P width, N states. Between batch
// elements and positions the inputs may lie apart, such as parts of a wider tensor; all else is contiguous.
struct Arguments {
  int64_t batch, length, heads, width, states, chunk, threads;
  Strides x_strides, dt_strides, B_strides, C_strides;
  const float *x, *dt;         // (B, L, H, P), (B, L, H)
  const float *A, *B, *C, *D;  // (H), (B, L, N), (B, L, N), (H) or null
  const float* initial_state;  // (B, H, P, N) or null
  float *y, *final_state;      // (B, L, H, P), (B, H, P, N) or null
  float* before;               // (B, c, H, P, N) states before each chunk, or null where they are zero or not wanted
  const float *grad_y, *grad_final_state;  // the latter may be null
  float *grad_x, *grad_dt, *grad_A;        // grad_A and grad_D: (B, H), each batch element's part
  float *grad_B, *grad_C, *grad_D, *grad_initial_state;
};

constexpr int kRows = 4;  // of a product at once; with three vectors of columns the sums fill the registers
#if defined(SIMD_AVX512)
constexpr int kColumns = 4;
#else
constexpr int kColumns = 3;
#endif
constexpr int64_t kRowsOfDecays = 5;
constexpr int64_t kPad = 2 * kLanes;  // two vectors of exponentials at once

inline int64_t padded(int64_t count, int64_t unit = kLanes) { return (count + unit - 1) / unit * unit; }

// What rows see besides [first, last): nothing; of the rows from `last` on, row r those up to r; of the rows before
// `first`, row r those from r on.
enum class Triangle { kNone, kEarlier, kLater };

template <Triangle kTriangle, int kHeight, int kWidth>
KERNEL_INLINE void product_block(const float* w, int64_t w_row, const float* x, int64_t x_row, int64_t first, int64_t last,
                                 float* out, int64_t out_row) {
  Vec sums[kHeight][kWidth];
  UNROLL for (int r = 0; r < kHeight; ++r)
    UNROLL for (int c = 0; c < kWidth; ++c) sums[r][c] = simd::load(out + r * out_row + c * kLanes);
  for (int64_t k = first; k < last; ++k) {
    Vec row[kWidth];
    UNROLL for (int c = 0; c < kWidth; ++c) row[c] = simd::load(x + k * x_row + c * kLanes);
    UNROLL for (int r = 0; r < kHeight; ++r) {
      const Vec weight = simd::splat(w[r * w_row + k]);
      UNROLL for (int c = 0; c < kWidth; ++c) sums[r][c] += weight * row[c];
    }
  }
  if constexpr (kTriangle != Triangle::kNone) {
    const int64_t corner = kTriangle == Triangle::kEarlier ? last : first - kHeight;
    UNROLL for (int k = 0; k < kHeight; ++k) {
      Vec row[kWidth];
      UNROLL for (int c = 0; c < kWidth; ++c) row[c] = simd::load(x + (corner + k) * x_row + c * kLanes);
      UNROLL for (int r = 0; r < kHeight; ++r) {
        if (kTriangle == Triangle::kEarlier ? k > r : k < r) continue;
        const Vec weight = simd::splat(w[r * w_row + corner + k]);
        UNROLL for (int c = 0; c < kWidth; ++c) sums[r][c] += weight * row[c];
      }
    }
  }
  UNROLL for (int r = 0; r < kHeight; ++r)
    UNROLL for (int c = 0; c < kWidth; ++c) simd::store(out + r * out_row + c * kLanes, sums[r][c]);
}

template <Triangle kTriangle, int kHeight>
inline void product_rows(const float* w, int64_t w_row, const float* x, int64_t x_row, int64_t columns, int64_t first,
                         int64_t last, float* out, int64_t out_row) {
  for (int64_t left = columns / kLanes; left > 0;) {
    const int64_t take = left == kColumns || left > kColumns + 1 ? kColumns : left >= 2 ? 2 : 1;
    if (take == kColumns) {
      product_block<kTriangle, kHeight, kColumns>(w, w_row, x, x_row, first, last, out, out_row);
    } else if (take == 2) {
      product_block<kTriangle, kHeight, 2>(w, w_row, x, x_row, first, last, out, out_row);
    } else {
      product_block<kTriangle, kHeight, 1>(w, w_row, x, x_row, first, last, out, out_row);
    }
    x += take * kLanes, out += take * kLanes, left -= take;
  }
}

// out[r] += sum over k in [first, last) of w[r][k] x[k], for `rows` <= kRows rows; `columns` is a multiple of kLanes.
inline void product(int64_t rows, const float* w, int64_t w_row, const float* x, int64_t x_row, int64_t columns,
                    int64_t first, int64_t last, float* out, int64_t out_row) {
  constexpr Triangle kNone = Triangle::kNone;
  if (rows == kRows) return product_rows<kNone, kRows>(w, w_row, x, x_row, columns, first, last, out, out_row);
  for (int64_t r = 0; r < rows; ++r)
    product_rows<kNone, 1>(w + r * w_row, w_row, x, x_row, columns, first, last, out + r * out_row, out_row);
}

// The same for rows i = row, row + 1, ... that see k <= i only. Values of later k are not touched: they may be NaN.
inline void product_of_earlier(int64_t row, int64_t rows, const float* w, int64_t w_row, const float* x, int64_t x_row,
                               int64_t columns, float* out, int64_t out_row) {
  if (rows == kRows)
    return product_rows<Triangle::kEarlier, kRows>(w, w_row, x, x_row, columns, 0, row, out, out_row);
  for (int64_t r = 0; r < rows; ++r)
    product(1, w + r * w_row, w_row, x, x_row, columns, 0, row + r + 1, out + r * out_row, out_row);
}

// The same for rows that see k >= i only, up to `count`.
inline void product_of_later(int64_t row, int64_t rows, int64_t count, const float* w, int64_t w_row, const float* x,
                             int64_t x_row, int64_t columns, float* out, int64_t out_row) {
  if (rows == kRows)
    return product_rows<Triangle::kLater, kRows>(w, w_row, x, x_row, columns, row + rows, count, out, out_row);
  for (int64_t r = 0; r < rows; ++r)
    product(1, w + r * w_row, w_row, x, x_row, columns, row + r, count, out + r * out_row, out_row);
}

// to[column][row] = from[row][column]; columns of `to` beyond the rows are set to zero up to `to_row`.
inline void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
  for (int64_t r = 0; r < to_row; r += kLanes) {
    const int written = simd::lanes_at(to_row, r);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int read = simd::lanes_at(columns, c);
      Vec block[kLanes];
      UNROLL for (int i = 0; i < kLanes; ++i)
        block[i] = r + i < rows ? simd::load(from + (r + i) * from_row + c, read) : simd::zeros();
      simd::turn(block);
      for (int i = 0; i < read; ++i) simd::store(to + (c + i) * to_row + r, block[i], written);
    }
  }
}

// to[row] = from[row] with zeros up to `to_row`.
inline void copy_rows(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * to_row, from + r * from_row, columns * sizeof(float));
    std::memset(to + r * to_row + columns, 0, (to_row - columns) * sizeof(float));
  }
}

inline const float* at(const float* tensor, const Strides& strides, int64_t b, int64_t position) {
  return tensor + b * strides.batch + position * strides.position;
}

// How the lengths of a call are cut and padded.
struct Shape {
  int64_t chunk, chunks, width, states;  // padded to vectors, but for chunks
  explicit Shape(const Arguments& p)
      : chunk(padded(p.chunk, kPad)),
        chunks((p.length + p.chunk - 1) / p.chunk),
        width(padded(p.width)),
        states(padded(p.states)) {}
  int64_t count(const Arguments& p, int64_t c) const { return std::min(p.chunk, p.length - c * p.chunk); }
};

// Rows of a tensor that the next chunk reads, fetched a few at a time while this one is computed: of one head they lie too
// far apart for the processor to foresee.
class Ahead {
 public:
  Ahead() : next_(nullptr), left_(0), stride_(0), width_(0), steps_(0) {}
  // `count` rows from `first` on, in `steps` steps.
  Ahead(const float* first, int64_t count, int64_t stride, int64_t width, int64_t steps)
      : next_(first), left_(count), stride_(stride), width_(width), steps_(steps) {}
  void step() {
    if (left_ <= 0) return;
    for (int64_t rows = (left_ + steps_ - 1) / steps_; rows > 0; --rows, --left_, next_ += stride_)
      for (int64_t k = 0; k < width_; k += 16) __builtin_prefetch(next_ + k, 0, 2);
    --steps_;
  }

 private:
  const float* next_;
  int64_t left_, stride_, width_, steps_;
};

// Decays of a head inside a chunk. Logarithms to base 2, summed in double and kept as two floats: their differences cancel.
class Decays {
 public:
  // `size`: shape.chunk; `memory`: kRowsOfDecays times as many floats.
  Decays(float* memory, int64_t size)
      : dt(memory),
        since_start(dt + size),
        until_end(since_start + size),
        high_(until_end + size),
        low_(high_ + size),
        size_(size) {}

  void compute(const Arguments& p, int64_t b, int64_t h, int64_t first, int64_t count) {
    const float* const steps = at(p.dt, p.dt_strides, b, first) + h;
    const double rate = static_cast<double>(p.A[h]) * 1.4426950408889634;
    double sum = 0.0;
    for (int64_t i = 0; i < size_; ++i) {
      dt[i] = i < count ? steps[i * p.dt_strides.position] : 0.f;
      sum += dt[i] * rate;
      high_[i] = static_cast<float>(sum);
      low_[i] = static_cast<float>(sum - high_[i]);
    }
    const Vec last_high = simd::splat(high_[count - 1]), last_low = simd::splat(low_[count - 1]);
    for (int64_t i = 0; i < size_; i += kLanes) {
      const Vec high = simd::load(high_ + i), low = simd::load(low_ + i);
      const Vec exponent[2] = {high + low, (last_high - high) + (last_low - low)};
      Vec decay[2];
      simd::exp2_each<2>(exponent, decay);
      simd::store(since_start + i, decay[0]);
      simd::store(until_end + i, decay[1]);
    }
    whole = since_start[count - 1];
  }

  // weights[k] = values[k] decay between `row` and k, for k in [first, last) and the rest of the vectors they lie in, where
  // anything may come out. kRowIsLater: decay(k -> row), else decay(row -> k).
  template <bool kRowIsLater>
  void apply(int64_t row, int64_t first, int64_t last, const float* values, float* weights) const {
    const Vec high = simd::splat(high_[row]), low = simd::splat(low_[row]);
    for (int64_t k = first / kPad * kPad; k < last; k += kPad) {
      Vec exponent[2], decay[2];
      UNROLL for (int j = 0; j < 2; ++j) {
        const Vec other_high = simd::load(high_ + k + j * kLanes), other_low = simd::load(low_ + k + j * kLanes);
        exponent[j] = kRowIsLater ? (high - other_high) + (low - other_low) : (other_high - high) + (other_low - low);
      }
      simd::exp2_each<2>(exponent, decay);
      UNROLL for (int j = 0; j < 2; ++j)
        simd::store(weights + k + j * kLanes, decay[j] * simd::load(values + k + j * kLanes));
    }
  }

  float *const dt, *const since_start, *const until_end;
  float whole = 1.f;

 private:
  float *const high_, *const low_;
  const int64_t size_;
};

// scores[i][j] = C_i B_j of one chunk for j <= i, zero elsewhere, (chunk, shape.chunk), and B transposed, (N, shape.chunk).
inline void compute_scores(const Arguments& p, const Shape& s, int64_t b, int64_t c, float* scores, float* B_columns) {
  const int64_t count = s.count(p, c);
  const float *const B = at(p.B, p.B_strides, b, c * p.chunk), *const C = at(p.C, p.C_strides, b, c * p.chunk);
  transpose(B, p.B_strides.position, count, p.states, B_columns, s.chunk);
  std::memset(scores, 0, p.chunk * s.chunk * sizeof(float));
  for (int64_t i = 0; i < count; i += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, count - i);
    product(rows, C + i * p.C_strides.position, p.C_strides.position, B_columns, s.chunk, padded(i + rows), 0, p.states,
            scores + i * s.chunk, s.chunk);
    for (int64_t r = 0; r < rows; ++r)  // what the last vector holds of later positions
      std::memset(scores + (i + r) * s.chunk + i + r + 1, 0, (s.chunk - i - r - 1) * sizeof(float));
  }
}

}  // namespace ssd
