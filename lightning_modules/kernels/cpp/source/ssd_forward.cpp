// State space duality, forward. Parallel over batch x heads, after the scores over batch x chunks.
#include "ssd.h"

namespace ssd {
namespace {

class Head {
 public:
  Head(const Arguments& p, const Shape& s, float* memory)
      : p_(p),
        s_(s),
        decays_(memory, s.chunk),
        values_(memory + kRowsOfDecays * s.chunk),
        weights_(values_ + p.chunk * s.width),
        out_(weights_ + kRows * s.chunk),
        state_(out_ + kRows * s.width),
        outputs_(state_ + p.states * s.width) {}

  static int64_t memory(const Arguments& p, const Shape& s) {
    return kRowsOfDecays * s.chunk + p.chunk * s.width + kRows * (s.chunk + s.width) + p.states * s.width +
           kRows * s.states;
  }

  // scores, B_columns: of all chunks of this batch element.
  void run(int64_t b, int64_t h, const float* scores, const float* B_columns) {
    const int64_t state_size = p_.width * p_.states, index = b * p_.heads + h;
    bool started = p_.initial_state != nullptr;
    if (started)
      transpose(p_.initial_state + index * state_size, p_.states, p_.width, p_.states, state_, s_.width);
    else
      std::memset(state_, 0, p_.states * s_.width * sizeof(float));
    for (int64_t c = 0; c < s_.chunks; ++c) {
      const int64_t first = c * p_.chunk, count = s_.count(p_, c);
      if (p_.before) put_state(p_.before + ((b * s_.chunks + c) * p_.heads + h) * state_size);
      decays_.compute(p_, b, h, first, count);
      load_values(b, h, first, count);
      if (c + 1 < s_.chunks) look_ahead(index, c + 1, count);
      else look_ahead(index + 1, 0, count);
      outputs(b, h, first, count, scores + c * p_.chunk * s_.chunk, started);
      if (c + 1 < s_.chunks || p_.final_state) advance(count, B_columns + c * p_.states * s_.chunk, started);
      started = true;
    }
    if (p_.final_state) put_state(p_.final_state + index * state_size);
  }

 private:
  const Arguments& p_;
  const Shape& s_;
  Decays decays_;
  float *const values_;   // dt x, (chunk, s.width)
  float *const weights_;  // (kRows, s.chunk)
  float *const out_;      // (kRows, s.width)
  float *const state_;    // (N, s.width)
  float *const outputs_;  // decayed C, (kRows, s.states)
  Ahead ahead_;

  const float* x(int64_t b, int64_t position, int64_t h) const {
    return at(p_.x, p_.x_strides, b, position) + h * p_.width;
  }

  // Towards the head and chunk that come next, while the `count` rows of this one are computed.
  void look_ahead(int64_t index, int64_t c, int64_t count) {
    if (index == p_.batch * p_.heads) return;
    const float* const rows = x(index / p_.heads, c * p_.chunk, index % p_.heads);
    ahead_ = Ahead(rows, s_.count(p_, c), p_.x_strides.position, p_.width, (count + kRows - 1) / kRows);
  }

  void load_values(int64_t b, int64_t h, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const float* const from = x(b, first + i, h);
      for (int64_t lane = 0; lane < p_.width; lane += kLanes)
        simd::store(values_ + i * s_.width + lane, decays_.dt[i] * simd::load(from + lane, simd::lanes_at(p_.width, lane)));
    }
  }

  void outputs(int64_t b, int64_t h, int64_t first, int64_t count, const float* scores, bool started) {
    const float skip = p_.D ? p_.D[h] : 0.f;
    for (int64_t i = 0; i < count; i += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, count - i);
      ahead_.step();
      std::memset(out_, 0, kRows * s_.width * sizeof(float));
      if (started) {
        for (int64_t r = 0; r < rows; ++r) {
          const float* const C = at(p_.C, p_.C_strides, b, first + i + r);
          for (int64_t n = 0; n < p_.states; ++n) outputs_[r * s_.states + n] = C[n] * decays_.since_start[i + r];
        }
        product(rows, outputs_, s_.states, state_, s_.width, s_.width, 0, p_.states, out_, s_.width);
      }
      for (int64_t r = 0; r < rows; ++r)
        decays_.apply<true>(i + r, 0, i + r + 1, scores + (i + r) * s_.chunk, weights_ + r * s_.chunk);
      product_of_earlier(i, rows, weights_, s_.chunk, values_, s_.width, s_.width, out_, s_.width);
      for (int64_t r = 0; r < rows; ++r) {
        const float* const from = x(b, first + i + r, h);
        float* const to = p_.y + ((b * p_.length + first + i + r) * p_.heads + h) * p_.width;
        for (int64_t lane = 0; lane < p_.width; lane += kLanes) {
          const int lanes = simd::lanes_at(p_.width, lane);
          const Vec y = simd::load(out_ + r * s_.width + lane);
          simd::store(to + lane, p_.D ? y + skip * simd::load(from + lane, lanes) : y, lanes);
        }
      }
    }
  }

  // state_n <- whole state_n + sum over j of B_j[n] decay(j -> end) dt_j x_j
  void advance(int64_t count, const float* B_columns, bool started) {
    for (int64_t n = 0; n < p_.states; n += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, p_.states - n);
      for (int64_t r = 0; r < rows; ++r) {
        const float* const column = B_columns + (n + r) * s_.chunk;
        for (int64_t j = 0; j < s_.chunk; j += kLanes)
          simd::store(weights_ + r * s_.chunk + j, simd::load(column + j) * simd::load(decays_.until_end + j));
        if (!started) continue;  // zero, even where the decay is infinite
        float* const row = state_ + (n + r) * s_.width;
        for (int64_t lane = 0; lane < s_.width; lane += kLanes)
          simd::store(row + lane, decays_.whole * simd::load(row + lane));
      }
      product(rows, weights_, s_.chunk, values_, s_.width, s_.width, 0, count, state_ + n * s_.width, s_.width);
    }
  }

  // (P, N) as the caller has it.
  void put_state(float* to) const { transpose(state_, s_.width, p_.states, p_.width, to, p_.states); }
};

int run(const Arguments& p) {
  const Shape s(p);
  const int64_t scores_size = p.chunk * s.chunk, columns_size = p.states * s.chunk;
  const int64_t head_size = padded(Head::memory(p, s), 16);
  const Buffer scores = parallel::allocate(p.batch * s.chunks * scores_size);
  const Buffer columns = parallel::allocate(p.batch * s.chunks * columns_size);
  const Buffer memory = parallel::allocate(p.threads * head_size);
  if (!scores || !columns || !memory) return parallel::kOutOfMemory;
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  {
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p.batch * s.chunks; ++i)
      compute_scores(p, s, i / s.chunks, i % s.chunks, scores.get() + i * scores_size, columns.get() + i * columns_size);
    Head head(p, s, memory.get() + parallel::thread_index() * head_size);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p.batch * p.heads; ++i) {
      const int64_t b = i / p.heads;
      head.run(b, i % p.heads, scores.get() + b * s.chunks * scores_size, columns.get() + b * s.chunks * columns_size);
    }
  }
  return parallel::kDone;
}

}  // namespace
}  // namespace ssd

extern "C" int ssd_forward_float32(const ssd::Arguments* p) { return ssd::run(*p); }
