// State space duality, backward. Heads come in groups, each with sums of its own for what all heads share (the gradients of
// scores, B and C), added in order at the end: the result does not depend on the number of threads.
//
// With w_ij = (C_i B_j) decay(j -> i) and v_j = dt_j x_j: grad v_j = sum over i >= j of w_ij grad y_i; the gradient of
// w_ij is <grad y_i, v_j>, from which those of the scores follow, and of the decays' logarithms, which are differences of
// running sums: what row i gains, column i loses.
#include <new>

#include "ssd.h"

namespace ssd {
namespace {

// Tasks of a call that are wanted; as many groups of a batch element as make them, while their sums are no larger than x.
constexpr int64_t kTasks = 16;

struct Groups {
  int64_t count, heads;
  explicit Groups(const Arguments& p) {
    const int64_t most = std::max<int64_t>(2, p.heads * p.width / (p.chunk + 2 * p.states));
    const int64_t wanted = std::clamp<int64_t>((kTasks + p.batch - 1) / p.batch, 1, std::min(most, p.heads));
    heads = (p.heads + wanted - 1) / wanted;
    count = (p.heads + heads - 1) / heads;
  }
};

// What the heads of a chunk share.
struct Shared {
  const float *scores, *transposed;  // (chunk, s.chunk)
  const float *B, *C;                // (chunk, s.states)
  float *grad_scores;                // (chunk, s.chunk), sums of a group
  float *grad_B, *grad_C;            // (chunk, s.states)
};

// Sizes of the work space in floats, and where its parts lie.
struct Space {
  int64_t scores, rows;  // of a chunk
  int64_t shared, sums;  // of a chunk: scores, transposed, B, C; grad_scores, grad_B, grad_C
  explicit Space(const Arguments& p, const Shape& s)
      : scores(p.chunk * s.chunk), rows(p.chunk * s.states), shared(2 * (scores + rows)), sums(scores + 2 * rows) {}
};

// <a, b> over whole vectors.
inline double dot(const float* a, const float* b, int64_t count) {
  Vec sum = simd::zeros();
  for (int64_t k = 0; k < count; k += kLanes) sum += simd::load(a + k) * simd::load(b + k);
  return simd::sum_lanes(simd::fold(sum));
}

// to += factor from
inline void add_scaled(float factor, const float* from, int64_t count, float* to) {
  for (int64_t k = 0; k < count; k += kLanes) simd::store(to + k, simd::load(to + k) + factor * simd::load(from + k));
}

inline void scale(float factor, int64_t count, float* row) {
  for (int64_t k = 0; k < count; k += kLanes) simd::store(row + k, factor * simd::load(row + k));
}

class Head {
 public:
  Head(const Arguments& p, const Shape& s, float* memory)
      : p_(p),
        s_(s),
        decays_(memory, s.chunk),
        values_(memory + kRowsOfDecays * s.chunk),
        received_(values_ + p.chunk * s.width),
        grad_values_(received_ + p.chunk * s.width),
        values_columns_(grad_values_ + p.chunk * s.width),
        received_columns_(values_columns_ + s.width * s.chunk),
        weights_(received_columns_ + s.width * s.chunk),
        rows_(weights_ + kRows * s.chunk),
        state_(rows_ + kRows * (s.states + s.width)),
        carry_(state_ + p.width * s.states),
        carry_columns_(carry_ + p.width * s.states),
        grad_log_(reinterpret_cast<double*>(carry_columns_ + p.states * s.width)) {}

  static int64_t memory(const Arguments& p, const Shape& s) {
    return kRowsOfDecays * s.chunk + 3 * p.chunk * s.width + 2 * s.width * s.chunk +
           kRows * (s.chunk + s.states + s.width) + 2 * p.width * s.states + p.states * s.width + 2 * s.chunk;
  }

  void run(int64_t b, int64_t h, const Shared* chunks) {
    const int64_t state_size = p_.width * p_.states, index = b * p_.heads + h;
    bool carried = p_.grad_final_state != nullptr;
    if (carried)
      copy_rows(p_.grad_final_state + index * state_size, p_.states, p_.width, p_.states, carry_, s_.states);
    else
      std::memset(carry_, 0, p_.width * s_.states * sizeof(float));
    grad_rate_ = grad_skip_ = 0.0;
    for (int64_t c = s_.chunks - 1; c >= 0; --c) {
      const int64_t first = c * p_.chunk, count = s_.count(p_, c);
      const Shared& shared = chunks[c];
      const bool started = p_.before != nullptr;
      decays_.compute(p_, b, h, first, count);
      load(b, h, first, count);
      if (c > 0) look_ahead(index, c - 1, count);
      else look_ahead(index + 1, s_.chunks - 1, count);
      std::memset(grad_log_, 0, s_.chunk * sizeof(double));
      inside(count, shared);
      if (started) {
        const float* const before = p_.before + ((b * s_.chunks + c) * p_.heads + h) * state_size;
        copy_rows(before, p_.states, p_.width, p_.states, state_, s_.states);
        from_before(count, shared);
      }
      if (carried) from_after(count, shared, started);
      if (started) carry_back(count, shared, carried);
      carried = carried || started;
      store(b, h, first, count);
    }
    p_.grad_A[index] = static_cast<float>(grad_rate_);
    if (p_.grad_D) p_.grad_D[index] = static_cast<float>(grad_skip_);
    if (p_.grad_initial_state)
      for (int64_t q = 0; q < p_.width; ++q) {
        float* const to = p_.grad_initial_state + index * state_size + q * p_.states;
        std::memcpy(to, carry_ + q * s_.states, p_.states * sizeof(float));
      }
  }

 private:
  const Arguments& p_;
  const Shape& s_;
  Decays decays_;
  float *const values_, *const received_, *const grad_values_;  // dt x, grad y, grad dt x: (chunk, s.width)
  float *const values_columns_, *const received_columns_;       // (s.width, s.chunk), the latter as it reaches the start
  float *const weights_;                                        // (kRows, s.chunk)
  float *const rows_;                                           // (kRows, s.states or s.width)
  float *const state_, *const carry_;                           // before the chunk, gradient after it: (P, s.states)
  float *const carry_columns_;                                  // (N, s.width)
  double *const grad_log_;                                      // of the logarithm of the decay up to each position
  double grad_rate_ = 0.0, grad_skip_ = 0.0;
  Ahead ahead_x_, ahead_grad_y_;

  int64_t offset(int64_t b, int64_t position, int64_t h) const {
    return ((b * p_.length + position) * p_.heads + h) * p_.width;
  }

  // Towards the head and chunk that come next, while the `count` rows of this one are computed.
  void look_ahead(int64_t index, int64_t c, int64_t count) {
    if (index == p_.batch * p_.heads) return;
    const int64_t b = index / p_.heads, h = index % p_.heads, first = c * p_.chunk;
    const int64_t rows = s_.count(p_, c), steps = (count + kRows - 1) / kRows;
    ahead_x_ = Ahead(at(p_.x, p_.x_strides, b, first) + h * p_.width, rows, p_.x_strides.position, p_.width, steps);
    ahead_grad_y_ = Ahead(p_.grad_y + offset(b, first, h), rows, p_.heads * p_.width, p_.width, steps);
  }

  void load(int64_t b, int64_t h, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const float *const x = at(p_.x, p_.x_strides, b, first + i) + h * p_.width;
      const float *const grad_y = p_.grad_y + offset(b, first + i, h);
      for (int64_t lane = 0; lane < s_.width; lane += kLanes) {
        const int lanes = simd::lanes_at(p_.width, lane);
        simd::store(values_ + i * s_.width + lane, decays_.dt[i] * simd::load(x + lane, lanes));
        simd::store(received_ + i * s_.width + lane, simd::load(grad_y + lane, lanes));
      }
    }
    std::memset(grad_values_, 0, count * s_.width * sizeof(float));
    transpose(values_, s_.width, count, p_.width, values_columns_, s_.chunk);
  }

  void inside(int64_t count, const Shared& shared) {
    for (int64_t j = 0; j < count; j += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, count - j);
      for (int64_t r = 0; r < rows; ++r)
        decays_.apply<false>(j + r, j + r, count, shared.transposed + (j + r) * s_.chunk, weights_ + r * s_.chunk);
      ahead_x_.step();
      float* const to = grad_values_ + j * s_.width;
      product_of_later(j, rows, count, weights_, s_.chunk, received_, s_.width, s_.width, to, s_.width);
    }
    for (int64_t i = 0; i < count; i += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, count - i), columns = padded(i + rows);
      ahead_grad_y_.step();
      for (int64_t r = 0; r < rows; ++r) std::memset(weights_ + r * s_.chunk, 0, columns * sizeof(float));
      const float* const received = received_ + i * s_.width;
      product(rows, received, s_.width, values_columns_, s_.chunk, columns, 0, p_.width, weights_, s_.chunk);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = i + r;
        float* const weights = weights_ + r * s_.chunk;
        std::memset(weights + row + 1, 0, (std::min(padded(row + 1, kPad), s_.chunk) - row - 1) * sizeof(float));
        decays_.apply<true>(row, 0, row + 1, weights, weights);
        const float* const scores = shared.scores + row * s_.chunk;
        float* const grad_scores = shared.grad_scores + row * s_.chunk;
        for (int64_t j = 0; j <= row; j += kLanes) {
          const Vec weight = simd::load(weights + j, simd::lanes_at(row + 1, j));  // later ones may be NaN
          simd::store(grad_scores + j, simd::load(grad_scores + j) + weight);
          simd::store(weights + j, weight * simd::load(scores + j));
        }
        grad_log_[row] += move_to_row(weights, row + 1);
      }
    }
  }

  // What the columns lose, and the row gains: the same numbers, which must cancel in sums over rows and columns.
  KERNEL_MEMBER double move_to_row(const float* pairs, int64_t count) {
    simd::DoubleVec gained{};
    for (int64_t j = 0; j < count; j += simd::kDoubleLanes) {
      const simd::DoubleVec moved = simd::load_doubles(pairs + j);
      gained += moved;
      simd::store(grad_log_ + j, simd::load(grad_log_ + j) - moved);
    }
    return simd::sum_lanes(gained);
  }

  // y_i held decay(start -> i) state C_i.
  void from_before(int64_t count, const Shared& shared) {
    for (int64_t i = 0; i < count; i += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, count - i);
      std::memset(rows_, 0, kRows * s_.states * sizeof(float));
      product(rows, received_ + i * s_.width, s_.width, state_, s_.states, s_.states, 0, p_.width, rows_, s_.states);
      for (int64_t r = 0; r < rows; ++r) {
        const float decay = decays_.since_start[i + r];
        add_scaled(decay, rows_ + r * s_.states, s_.states, shared.grad_C + (i + r) * s_.states);
        grad_log_[i + r] += decay * dot(rows_ + r * s_.states, shared.C + (i + r) * s_.states, s_.states);
      }
    }
  }

  // The state after the chunk held decay(j -> end) v_j B_j, and decay(start -> end) of the one before it.
  void from_after(int64_t count, const Shared& shared, bool started) {
    transpose(carry_, s_.states, p_.width, p_.states, carry_columns_, s_.width);
    double faded = 0.0;
    for (int64_t j = 0; j < count; j += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, count - j);
      std::memset(rows_, 0, kRows * s_.width * sizeof(float));
      product(rows, shared.B + j * s_.states, s_.states, carry_columns_, s_.width, s_.width, 0, p_.states, rows_, s_.width);
      for (int64_t r = 0; r < rows; ++r) {
        const float decay = decays_.until_end[j + r];
        add_scaled(decay, rows_ + r * s_.width, s_.width, grad_values_ + (j + r) * s_.width);
        const double lost = decay * dot(rows_ + r * s_.width, values_ + (j + r) * s_.width, s_.width);
        grad_log_[j + r] -= lost;
        faded += lost;
      }
      std::memset(rows_, 0, kRows * s_.states * sizeof(float));
      product(rows, values_ + j * s_.width, s_.width, carry_, s_.states, s_.states, 0, p_.width, rows_, s_.states);
      for (int64_t r = 0; r < rows; ++r)
        add_scaled(decays_.until_end[j + r], rows_ + r * s_.states, s_.states, shared.grad_B + (j + r) * s_.states);
    }
    if (started)
      for (int64_t q = 0; q < p_.width; ++q)
        faded += decays_.whole * dot(carry_ + q * s_.states, state_ + q * s_.states, s_.states);
    grad_log_[count - 1] += faded;
  }

  // The gradient of the state before the chunk.
  void carry_back(int64_t count, const Shared& shared, bool carried) {
    transpose(received_, s_.width, count, p_.width, received_columns_, s_.chunk);
    for (int64_t q = 0; q < p_.width; q += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, p_.width - q);
      for (int64_t r = 0; r < rows; ++r) {
        if (carried) scale(decays_.whole, s_.states, carry_ + (q + r) * s_.states);  // else zero
        float* const column = received_columns_ + (q + r) * s_.chunk;
        for (int64_t i = 0; i < s_.chunk; i += kLanes)
          simd::store(column + i, simd::load(column + i) * simd::load(decays_.since_start + i));
      }
      product(rows, received_columns_ + q * s_.chunk, s_.chunk, shared.C, s_.states, s_.states, 0, count,
              carry_ + q * s_.states, s_.states);
    }
  }

  // Gradients of x and dt, and what this chunk adds to those of A and D.
  void store(int64_t b, int64_t h, int64_t first, int64_t count) {
    const float skip = p_.D ? p_.D[h] : 0.f;
    double later = 0.0;  // the decay up to i holds all steps up to i
    simd::DoubleVec of_skip{};
    for (int64_t i = count - 1; i >= 0; --i) {
      const float* const inputs = at(p_.x, p_.x_strides, b, first + i) + h * p_.width;
      float* const to = p_.grad_x + offset(b, first + i, h);
      Vec through_values = simd::zeros(), through_skip = simd::zeros();
      for (int64_t lane = 0; lane < p_.width; lane += kLanes) {
        const int lanes = simd::lanes_at(p_.width, lane);
        const Vec x = simd::load(inputs + lane, lanes), grad_y = simd::load(received_ + i * s_.width + lane);
        const Vec grad = simd::load(grad_values_ + i * s_.width + lane);
        through_values += grad * x;
        through_skip += grad_y * x;
        const Vec grad_x = decays_.dt[i] * grad;
        simd::store(to + lane, p_.D ? grad_x + skip * grad_y : grad_x, lanes);
      }
      later += grad_log_[i];
      grad_rate_ += later * decays_.dt[i];
      of_skip += simd::fold(through_skip);
      p_.grad_dt[(b * p_.length + first + i) * p_.heads + h] =
          static_cast<float>(later * p_.A[h] + simd::sum_lanes(simd::fold(through_values)));
    }
    grad_skip_ += simd::sum_lanes(of_skip);
  }
};

// Gradients of B and C of one chunk: sums over groups, and what reaches them through the scores.
void finish_chunk(const Arguments& p, const Shape& s, const Space& space, int64_t b, int64_t c, const float* shared,
                  float* sums, int64_t groups, int64_t group_stride, float* transposed) {
  const int64_t first = b * p.length + c * p.chunk, count = s.count(p, c);
  for (int64_t g = 1; g < groups; ++g)
    for (int64_t k = 0; k < space.sums; k += kLanes)
      simd::store(sums + k, simd::load(sums + k) + simd::load(sums + g * group_stride + k));
  const float *const B = shared + 2 * space.scores, *const C = B + space.rows;
  float *const grad_scores = sums, *const grad_B = sums + space.scores, *const grad_C = grad_B + space.rows;
  transpose(grad_scores, s.chunk, count, count, transposed, s.chunk);
  for (int64_t i = 0; i < count; i += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, count - i);
    const float *const row = grad_scores + i * s.chunk, *const column = transposed + i * s.chunk;
    product_of_earlier(i, rows, row, s.chunk, B, s.states, s.states, grad_C + i * s.states, s.states);
    product_of_later(i, rows, count, column, s.chunk, C, s.states, s.states, grad_B + i * s.states, s.states);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(p.grad_B + (first + i + r) * p.states, grad_B + (i + r) * s.states, p.states * sizeof(float));
      std::memcpy(p.grad_C + (first + i + r) * p.states, grad_C + (i + r) * s.states, p.states * sizeof(float));
    }
  }
}

int run(const Arguments& p) {
  const Shape s(p);
  const Groups groups(p);
  const Space space(p, s);
  const int64_t chunks = p.batch * s.chunks, group_stride = s.chunks * space.sums;
  const int64_t own_size = padded(std::max({Head::memory(p, s), space.scores, p.states * s.chunk}), 16);
  const Buffer shared = parallel::allocate(chunks * space.shared);
  const Buffer sums = parallel::allocate(chunks * groups.count * space.sums);
  const Buffer memory = parallel::allocate(p.threads * own_size);
  const std::unique_ptr<Shared[]> parts(new (std::nothrow) Shared[chunks * groups.count]);
  if (!shared || !sums || !memory || !parts) return parallel::kOutOfMemory;
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  {
    float* const own = memory.get() + parallel::thread_index() * own_size;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t b = i / s.chunks, c = i % s.chunks, first = c * p.chunk, count = s.count(p, c);
      float* const scores = shared.get() + i * space.shared;
      float *const transposed = scores + space.scores, *const B = transposed + space.scores, *const C = B + space.rows;
      compute_scores(p, s, b, c, scores, own);
      transpose(scores, s.chunk, count, count, transposed, s.chunk);
      copy_rows(at(p.B, p.B_strides, b, first), p.B_strides.position, count, p.states, B, s.states);
      copy_rows(at(p.C, p.C_strides, b, first), p.C_strides.position, count, p.states, C, s.states);
      for (int64_t g = 0; g < groups.count; ++g) {
        float* const to = sums.get() + (b * groups.count + g) * group_stride + c * space.sums;
        float* const grad_B = to + space.scores;
        parts[(b * groups.count + g) * s.chunks + c] = {scores, transposed, B, C, to, grad_B, grad_B + space.rows};
      }
    }
    Head head(p, s, own);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p.batch * groups.count; ++i) {
      const int64_t b = i / groups.count, first = i % groups.count * groups.heads;
      std::memset(sums.get() + i * group_stride, 0, group_stride * sizeof(float));
      for (int64_t h = first; h < std::min(first + groups.heads, p.heads); ++h) head.run(b, h, parts.get() + i * s.chunks);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t b = i / s.chunks, c = i % s.chunks;
      finish_chunk(p, s, space, b, c, shared.get() + i * space.shared,
                   sums.get() + b * groups.count * group_stride + c * space.sums, groups.count, group_stride, own);
    }
  }
  return parallel::kDone;
}

}  // namespace
}  // namespace ssd

extern "C" int ssd_backward_float32(const ssd::Arguments* p) { return ssd::run(*p); }
