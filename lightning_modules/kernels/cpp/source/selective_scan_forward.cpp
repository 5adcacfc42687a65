// Selective scan, forward. Parallel over batch x groups of channel blocks.
#include "selective_scan.h"

namespace scan {
namespace {

// What one chunk of one block keeps per position, in visiting order.
struct ChunkRows {
  alignas(64) float dt[kChunk * kLanes], x[kChunk * kLanes], y[kChunk * kLanes];
  const float *B[kChunk], *C[kChunk];
  int64_t position[kChunk];
};

// h <- 2^(dt A) h + x B; y += <C, h> for kStates states over a chunk.
template <int kStates, bool kWithinBounds>
void scan_states(const float* rates, float* state, ChunkRows& rows, int64_t first, int count, Ahead::Cursor& ahead_of_task) {
  Ahead::Cursor ahead = ahead_of_task;
  Vec h[kStates], rate[kStates];
  UNROLL for (int j = 0; j < kStates; ++j) {
    h[j] = simd::load(state + j * kLanes);
    rate[j] = simd::load(rates + j * kLanes);
  }
  for (int i = 0; i < count; ++i) {
    const Vec dt = simd::load(rows.dt + i * kLanes), x = simd::load(rows.x + i * kLanes);
    const float *B = rows.B[i] + first, *C = rows.C[i] + first;
    ahead.step();
    Vec exponent[kStates], a[kStates];
    UNROLL for (int j = 0; j < kStates; ++j) exponent[j] = dt * rate[j];
    simd::exp2_each<kStates, kWithinBounds>(exponent, a);
    UNROLL for (int j = 0; j < kStates; ++j) h[j] = a[j] * h[j] + x * B[j];
    Vec even = simd::load(rows.y + i * kLanes), odd = simd::zeros();  // two sums: half the latency
    UNROLL for (int j = 0; j + 1 < kStates; j += 2) {
      even += h[j] * C[j];
      odd += h[j + 1] * C[j + 1];
    }
    if constexpr (kStates % 2) even += h[kStates - 1] * C[kStates - 1];
    simd::store(rows.y + i * kLanes, even + odd);
  }
  UNROLL for (int j = 0; j < kStates; ++j) simd::store(state + j * kLanes, h[j]);
  ahead_of_task = ahead;
}

template <class T>
class Task : Rows<T> {
 public:
  // Floats of `memory`: one state (N, kLanes) per block of the group, and the running sum (L, kLanes) of the directions.
  static int64_t memory_size(const Arguments& p, const Grouping& grouping, bool adds) {
    return grouping.blocks_per_group * (p.states + (adds ? p.length : 0)) * kLanes;
  }

  Task(const Arguments& p, const Extent& e, const Grouping& grouping, const Rates& rates, bool adds, float* memory)
      : Rows<T>(p), e_(e), grouping_(grouping), rates_(rates), adds_(adds), states_(memory),
        sums_(memory + grouping.blocks_per_group * p.states * kLanes) {}

  void run(int64_t b, int64_t group, int64_t k) {
    b_ = b, k_ = k;
    first_ = group * grouping_.blocks_per_group;
    last_ = std::min(first_ + grouping_.blocks_per_group, e_.blocks);
    for (int64_t block = first_; block < last_; ++block) {
      const int64_t channel = block * kLanes;
      gather_states(p_.initial_state ? p_.initial_state + state_row(channel) : nullptr, p_.states, lanes_at(p_, channel),
                    state(block));
    }
    for (int64_t start = 0; start < p_.length; start += kChunk) {
      const int count = static_cast<int>(std::min<int64_t>(kChunk, p_.length - start));
      if (start == 0) {
        look_ahead(0, 1);
        ahead_.cursor.step();
      }
      locate(start, count);
      look_ahead(start + kChunk, (last_ - first_) * state_groups(p_) * count);
      for (int64_t block = first_; block < last_; ++block) scan_chunk(block, start / kChunk, count);
    }
    if (!p_.final_state) return;
    for (int64_t block = first_; block < last_; ++block)
      scatter_states(state(block), p_.states, lanes_at(p_, block * kLanes), p_.final_state + state_row(block * kLanes));
  }

 private:
  using Rows<T>::p_, Rows<T>::b_, Rows<T>::k_;
  using Rows<T>::u, Rows<T>::delta, Rows<T>::z, Rows<T>::contiguous, Rows<T>::state_row;
  const Extent& e_;
  const Grouping& grouping_;
  const Rates& rates_;
  const bool adds_;  // y is the sum of several directions, visited one after the other
  float *states_, *sums_;
  int64_t first_, last_;  // blocks of the group
  ChunkRows rows_;
  Ahead ahead_;

  float* state(int64_t block) const { return states_ + (block - first_) * p_.states * kLanes; }

  void scan_chunk(int64_t block, int64_t chunk, int count) {
    const float* rates = rates_.of(k_ * e_.blocks + block);
    const float* next_checkpoint = nullptr;
    if (p_.checkpoints) {
      std::copy(state(block), state(block) + p_.states * kLanes,
                p_.checkpoints + checkpoint_offset(p_, e_, b_, k_, chunk, block));
      const bool next_block = block + 1 < last_;
      next_checkpoint = p_.checkpoints + checkpoint_offset(p_, e_, b_, k_, std::min(chunk + !next_block, e_.chunks - 1),
                                                           next_block ? block + 1 : first_);
    }
    const Vec largest_step = read(block, count);
    const bool bounded = simd::within_bounds(largest_step * simd::load(rates + p_.states * kLanes));
    for_state_groups(p_.states, bounded, [&](auto states, auto bounds, int64_t first) __attribute__((always_inline)) {
      constexpr int kStates = decltype(states)::value;
      const int64_t at = first * kLanes;
      if (p_.checkpoints) prefetch_states<kStates, true>(next_checkpoint + at);
      scan_states<kStates, decltype(bounds)::value>(rates + at, state(block) + at, rows_, first, count,
                                                    ahead_.cursor);
    });
    const bool last_direction = k_ == p_.directions - 1;
    if (adds_) add_directions(block, count, last_direction);
    if (!adds_ || last_direction) write(block * kLanes, count);
  }

  // Points the prefetches at the rows of the chunk that begins at step `start`, if there is one; they take `steps` steps.
  void look_ahead(int64_t start, int64_t steps) {
    int64_t positions[kChunk];
    const int count = static_cast<int>(std::clamp<int64_t>(p_.length - start, 0, kChunk));
    for (int i = 0; i < count; ++i) positions[i] = visited(p_, k_, start + i);
    const int64_t channel = first_ * kLanes, width = std::min(last_ * kLanes, p_.channels) - channel;
    ahead_.point_to(positions, count);
    ahead_.add(u(0, channel), width, p_.u_strides.position);
    ahead_.add(delta(0, channel), width, p_.delta_strides.position);
    ahead_.add(static_cast<const T*>(p_.y) + contiguous(p_.stack, 0, channel), width, p_.channels);
    if (p_.z) ahead_.add(z(0, channel), width, p_.z_strides.position);
    ahead_.spread(steps);
  }

  // Per position: time step, scaled input, skip connection. Returns the largest |time step| per channel.
  Vec read(int64_t block, int count) {
    const int64_t channel = block * kLanes, parameter = k_ * p_.channels + channel;
    const int lanes = lanes_at(p_, channel);
    const Vec bias = p_.delta_bias ? simd::load(p_.delta_bias + parameter, lanes) : simd::zeros();
    const Vec skip = p_.D ? simd::load(p_.D + parameter, lanes) : simd::zeros();
    // Copies: the compiler must assume that stores to the rows change what p_ points to.
    const T *const u_rows = u(0, channel), *const delta_rows = delta(0, channel);
    const int64_t u_stride = p_.u_strides.position, delta_stride = p_.delta_strides.position;
    const bool softplus = p_.softplus;
    Vec largest = simd::zeros();
    for_rows(count, [&](auto rows, int first) __attribute__((always_inline)) {
      constexpr int kRows = decltype(rows)::value;
      Vec dt[kRows], e[kRows];
      UNROLL for (int j = 0; j < kRows; ++j)
        dt[j] = simd::load(delta_rows + rows_.position[first + j] * delta_stride, lanes) + bias;
      if (softplus) simd::softplus_each<kRows>(dt, dt, e);
      UNROLL for (int j = 0; j < kRows; ++j) {
        const int at = (first + j) * kLanes;
        const Vec input = simd::load(u_rows + rows_.position[first + j] * u_stride, lanes);
        largest = simd::larger_magnitude(largest, dt[j]);
        simd::store(rows_.dt + at, dt[j]);
        simd::store(rows_.x + at, dt[j] * input);
        simd::store(rows_.y + at, skip * input);
      }
    });
    return largest;
  }

  // Storage positions of a chunk's steps, and the rows of B and C there, which the blocks of the group share.
  void locate(int64_t start, int count) {
    const float *const B = p_.B + p_.B_strides.offset(b_, k_, 0), *const C = p_.C + p_.C_strides.offset(b_, k_, 0);
    for (int i = 0; i < count; ++i) {
      const int64_t position = visited(p_, k_, start + i);
      rows_.position[i] = position;
      rows_.B[i] = B + position * p_.B_strides.position;
      rows_.C[i] = C + position * p_.C_strides.position;
    }
  }

  // Adds this direction to the running sum; the last one takes the total over into its own rows.
  void add_directions(int64_t block, int count, bool last_direction) {
    float* sum = sums_ + (block - first_) * p_.length * kLanes;
    for (int i = 0; i < count; ++i) {
      float* total = sum + rows_.position[i] * kLanes;
      Vec y = simd::load(rows_.y + i * kLanes);
      if (k_ > 0) y += simd::load(total);
      simd::store(last_direction ? rows_.y + i * kLanes : total, y);
    }
  }

  void write(int64_t channel, int count) {
    const int lanes = lanes_at(p_, channel);
    const int64_t first = contiguous(p_.stack, 0, channel), channels = p_.channels;
    T* const y_rows = static_cast<T*>(p_.y) + first;
    T* const ungated_rows = p_.ungated ? static_cast<T*>(p_.ungated) + first : nullptr;
    const T* const z_rows = p_.z ? z(0, channel) : nullptr;
    const int64_t z_stride = p_.z_strides.position;
    for_rows(count, [&](auto rows, int first) __attribute__((always_inline)) {
      constexpr int kRows = decltype(rows)::value;
      Vec y[kRows], gate[kRows], s[kRows];
      UNROLL for (int j = 0; j < kRows; ++j) y[j] = simd::load(rows_.y + (first + j) * kLanes);
      if (ungated_rows)
        UNROLL for (int j = 0; j < kRows; ++j)
          simd::store(ungated_rows + rows_.position[first + j] * channels, y[j], lanes);
      if (z_rows) {
        UNROLL for (int j = 0; j < kRows; ++j)
          gate[j] = simd::load(z_rows + rows_.position[first + j] * z_stride, lanes);
        simd::sigmoid_each<kRows>(gate, s);
        UNROLL for (int j = 0; j < kRows; ++j) y[j] *= gate[j] * s[j];
      }
      UNROLL for (int j = 0; j < kRows; ++j) simd::store(y_rows + rows_.position[first + j] * channels, y[j], lanes);
    });
  }
};

template <class T>
int forward(const Arguments& p) {
  if (!is_permutation(p)) return parallel::kBadOrder;
  const Extent e(p);
  const Grouping grouping(p.batch, e.blocks, p.threads);
  const bool adds = !p.stack && p.directions > 1;
  const int64_t per_thread = Task<T>::memory_size(p, grouping, adds);
  const Rates rates(p, e);
  const Buffer scratch = parallel::allocate(p.threads * per_thread);
  if (!rates.packed || !scratch) return parallel::kOutOfMemory;
  pack_decay_rates(p, e, rates);
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  {
    Task<T> task(p, e, grouping, rates, adds, scratch.get() + parallel::thread_index() * per_thread);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p.batch * grouping.groups; ++i)
      for (int64_t k = 0; k < p.directions; ++k) task.run(i / grouping.groups, i % grouping.groups, k);
  }
  return parallel::kDone;
}

}  // namespace
}  // namespace scan

extern "C" int selective_scan_forward_float32(const scan::Arguments* p) { return scan::forward<float>(*p); }
extern "C" int selective_scan_forward_bfloat16(const scan::Arguments* p) { return scan::forward<simd::BFloat16>(*p); }
