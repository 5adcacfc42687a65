// Selective scan, backward: chunks from the last to the first, each recomputed from the state the forward stored at its
// start. Parallel over batch x groups of channel blocks; every sum across tasks is taken afterwards in a fixed order, so
// the result is bitwise the same for any number of threads.
#include "selective_scan_reverse.h"

namespace scan {
namespace {

// Partial sums that several tasks contribute to, one slice per contributor.
struct Partials {
  float *A;                // (B, K, blocks, N, kLanes)
  float *D, *delta_bias;   // (B, K, blocks, kLanes)
  float *B, *C;            // (sums, B, K, L, N), one sum over blocks_per_sum blocks each
};

// Blocks whose gradients of B and C are added up right away: all that a task walks, unless that left fewer than 8 tasks.
// Every further sum is 2 (L, N) tensors to write and to read. Depends on shapes alone, so that the order of additions does.
int64_t blocks_per_sum(const Arguments& p, const Extent& e) {
  return std::clamp<int64_t>(p.batch * e.blocks / 8, 1, Grouping::kMaxBlocks);
}

template <class T>
class Task : Rows<T> {
 public:
  // Floats of `memory`: carry and grad_A, (N, kLanes) each, per block of the group, and the sums of `reverse`.
  static int64_t memory_size(const Arguments& p, const Grouping& grouping) {
    return 2 * grouping.blocks_per_group * p.states * kLanes + sums_size(p);
  }
  Task(const Arguments& p, const Extent& e, const Grouping& grouping, const Rates& rates, const Partials& partials,
       float* memory)
      : Rows<T>(p), e_(e), grouping_(grouping), rates_(rates), partials_(partials), memory_(memory),
        sum_blocks_(blocks_per_sum(p, e)) {
    sums_ = memory + 2 * grouping.blocks_per_group * vectors();
    std::fill(sums_, sums_ + sums_size(p), 0.f);
  }

  void run(int64_t b, int64_t group, int64_t k) {
    b_ = b, k_ = k;
    first_ = group * grouping_.blocks_per_group;
    last_ = std::min(first_ + grouping_.blocks_per_group, e_.blocks);
    for (int64_t block = first_; block < last_; ++block) begin(block, block - first_);
    for (int64_t chunk = e_.chunks - 1; chunk >= 0; --chunk) {
      const int count = static_cast<int>(std::min<int64_t>(kChunk, p_.length - chunk * kChunk));
      if (chunk == e_.chunks - 1) {
        look_ahead(chunk, 1);
        ahead_.cursor.step();
      }
      locate(chunk * kChunk, count);
      look_ahead(chunk - 1, (last_ - first_) * state_groups(p_) * count);
      for (int64_t block = first_; block < last_; ++block) reverse_chunk(block, block - first_, chunk, count);
    }
    for (int64_t block = first_; block < last_; ++block) finish(block, block - first_);
  }

 private:
  using Rows<T>::p_, Rows<T>::b_, Rows<T>::k_;
  using Rows<T>::u, Rows<T>::delta, Rows<T>::z, Rows<T>::contiguous, Rows<T>::state_row;
  const Extent& e_;
  const Grouping& grouping_;
  const Rates& rates_;
  const Partials& partials_;
  float* memory_;
  float* sums_;
  int64_t first_, last_;  // blocks of the group
  const int64_t sum_blocks_;
  Vec grad_D_[Grouping::kMaxBlocks], grad_bias_[Grouping::kMaxBlocks];
  ChunkRows rows_;
  Ahead ahead_;
  Trace trace_;

  int64_t vectors() const { return p_.states * kLanes; }
  // A group of 4 states, perhaps one of 2, perhaps one of 1: (positions, C or B, kLanes) each.
  static int64_t sums_size(const Arguments& p) { return (p.states / kGroup + 2) * 2 * kChunk * kLanes; }
  float* sums(int64_t first_state) const { return sums_ + (first_state + kGroup - 1) / kGroup * 2 * kChunk * kLanes; }
  float* carry(int64_t slot) const { return memory_ + 2 * slot * vectors(); }
  float* grad_A(int64_t slot) const { return carry(slot) + vectors(); }
  void begin(int64_t block, int64_t slot) {
    const int lanes = lanes_at(p_, block * kLanes);
    gather_states(p_.grad_final_state ? p_.grad_final_state + state_row(block * kLanes) : nullptr, p_.states, lanes, carry(slot));
    std::fill(grad_A(slot), grad_A(slot) + vectors(), 0.f);
    grad_D_[slot] = grad_bias_[slot] = simd::zeros();
  }

  void finish(int64_t block, int64_t slot) {
    const int64_t row = (b_ * p_.directions + k_) * e_.blocks + block;
    std::copy(grad_A(slot), grad_A(slot) + vectors(), partials_.A + row * vectors());
    simd::store(partials_.D + row * kLanes, grad_D_[slot]);
    simd::store(partials_.delta_bias + row * kLanes, grad_bias_[slot]);
    if (p_.grad_initial_state)
      scatter_states(carry(slot), p_.states, lanes_at(p_, block * kLanes), p_.grad_initial_state + state_row(block * kLanes));
  }

  void reverse_chunk(int64_t block, int64_t slot, int64_t chunk, int count) {
    const bool next_block = block + 1 < last_;
    const float* next_checkpoint =
        p_.checkpoints + checkpoint_offset(p_, e_, b_, k_, std::max<int64_t>(chunk - !next_block, 0), next_block ? block + 1 : first_);
    const Vec largest_step = read(block, count);
    const float* rates = rates_.of(k_ * e_.blocks + block);
    const bool first_of_sum = block == first_ || block % sum_blocks_ == 0;
    const bool bounded = simd::within_bounds(largest_step * simd::load(rates + vectors()));
    const float* checkpoint = p_.checkpoints + checkpoint_offset(p_, e_, b_, k_, chunk, block);
    for_state_groups(p_.states, bounded, [&](auto states, auto bounds, int64_t first) __attribute__((always_inline)) {
      constexpr int kStates = decltype(states)::value;
      const int64_t at = first * kLanes;
      prefetch_states<kStates, false>(next_checkpoint + at);
      recompute<kStates, decltype(bounds)::value>(rates + at, checkpoint + at, rows_, first, count,
                                                  ahead_.cursor, trace_);
      if (first_of_sum)
        reverse<kStates, true>(rates + at, carry(slot) + at, grad_A(slot) + at, rows_, trace_, first, count, sums(first));
      else
        reverse<kStates, false>(rates + at, carry(slot) + at, grad_A(slot) + at, rows_, trace_, first, count, sums(first));
    });
    write(block * kLanes, slot, count);
    if ((block + 1) % sum_blocks_ == 0 || block + 1 == last_) finish_sums(block, count);
  }

  const T* grad_y(int64_t position, int64_t channel) const {
    return static_cast<const T*>(p_.grad_y) + p_.grad_y_strides.offset(b_, k_, position) + channel;
  }

  // Points the prefetches at the rows of a chunk, if there is one; they take `steps` steps.
  void look_ahead(int64_t chunk, int64_t steps) {
    int64_t positions[kChunk];
    const int count = chunk < 0 ? 0 : static_cast<int>(std::min<int64_t>(p_.length - chunk * kChunk, kChunk));
    for (int i = 0; i < count; ++i) positions[i] = visited(p_, k_, chunk * kChunk + i);
    const int64_t channel = first_ * kLanes, width = std::min(last_ * kLanes, p_.channels) - channel;
    ahead_.point_to(positions, count);
    ahead_.add(u(0, channel), width, p_.u_strides.position);
    ahead_.add(delta(0, channel), width, p_.delta_strides.position);
    ahead_.add(grad_y(0, channel), width, p_.grad_y_strides.position);
    ahead_.add(p_.grad_u + contiguous(!p_.shared_input, 0, channel), width, p_.channels);
    ahead_.add(static_cast<const T*>(p_.grad_delta) + contiguous(true, 0, channel), width, p_.channels);
    if (p_.z) {
      ahead_.add(z(0, channel), width, p_.z_strides.position);
      ahead_.add(static_cast<const T*>(p_.ungated) + contiguous(p_.stack, 0, channel), width, p_.channels);
      ahead_.add(p_.grad_z + contiguous(false, 0, channel), width, p_.channels);
    }
    ahead_.spread(steps);
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

  // Writes the sum that `block` is the last one of.
  void finish_sums(int64_t block, int count) {
    const int64_t sum = ((block / sum_blocks_ * p_.batch + b_) * p_.directions + k_) * p_.length * p_.states;
    for (int i = 0; i < count; ++i) {
      const int64_t at = sum + rows_.position[i] * p_.states;
      rows_.grad_B[i] = partials_.B + at;
      rows_.grad_C[i] = partials_.C + at;
    }
    for_state_groups<false>(p_.states, [&](auto states, auto, int64_t first) __attribute__((always_inline)) {
      scan::finish_sums<decltype(states)::value>(sums(first), rows_, first, count);
    });
  }

  // Returns the largest |time step| per channel.
  Vec read(int64_t block, int count) {
    const int64_t channel = block * kLanes;
    const int lanes = lanes_at(p_, channel);
    const Vec bias = p_.delta_bias ? simd::load(p_.delta_bias + k_ * p_.channels + channel, lanes) : simd::zeros();
    // Copies: the compiler must assume that stores to the rows change what p_ points to.
    const T *const u_rows = u(0, channel), *const delta_rows = delta(0, channel), *const grad_rows = grad_y(0, channel);
    const int64_t u_stride = p_.u_strides.position, delta_stride = p_.delta_strides.position;
    const int64_t grad_stride = p_.grad_y_strides.position;
    const bool softplus = p_.softplus, gated = p_.z;
    Vec largest = simd::zeros();
    for_rows(count, [&](auto rows, int first) __attribute__((always_inline)) {
      constexpr int kRows = decltype(rows)::value;
      Vec x[kRows], dt[kRows], e[kRows];
      UNROLL for (int j = 0; j < kRows; ++j)
        x[j] = simd::load(delta_rows + rows_.position[first + j] * delta_stride, lanes) + bias;
      if (softplus) simd::softplus_each<kRows>(x, dt, e);
      UNROLL for (int j = 0; j < kRows; ++j) {
        const int at = (first + j) * kLanes;
        const int64_t position = rows_.position[first + j];
        const Vec step = softplus ? dt[j] : x[j], input = simd::load(u_rows + position * u_stride, lanes);
        Vec grad = simd::load(grad_rows + position * grad_stride, lanes);
        if (gated) grad = through_gate(channel, lanes, position, grad);
        largest = simd::larger_magnitude(largest, step);
        simd::store(rows_.dt + at, step);
        simd::store(rows_.u + at, input);
        simd::store(rows_.x + at, step * input);
        simd::store(rows_.softplus_slope + at, softplus ? simd::softplus_slope(x[j], e[j]) : simd::splat(1.f));
        simd::store(rows_.grad_y + at, grad);
        simd::store(rows_.grad_x + at, simd::zeros());
        simd::store(rows_.grad_exponent + at, simd::zeros());
      }
    });
    return largest;
  }

  // y = ungated silu(z): the gradient of `ungated`; writes the gradient of z, once where the directions were added.
  Vec through_gate(int64_t channel, int lanes, int64_t position, Vec grad) {
    const Vec gate = simd::load(z(position, channel), lanes), s = simd::sigmoid(gate);
    if (p_.stack || k_ == 0) {
      const T* ungated = static_cast<const T*>(p_.ungated) + contiguous(p_.stack, position, channel);
      float* to = p_.grad_z + contiguous(false, position, channel);
      Vec grad_z = grad * simd::load(ungated, lanes) * s * (1.f + gate * (1.f - s));
      if (k_ > 0) grad_z += simd::load(to, lanes);
      simd::store(to, grad_z, lanes);
    }
    return grad * gate * s;
  }

  void write(int64_t channel, int64_t slot, int count) {
    const int lanes = lanes_at(p_, channel);
    const Vec skip = p_.D ? simd::load(p_.D + k_ * p_.channels + channel, lanes) : simd::zeros();
    float* const grad_u_rows = p_.grad_u + contiguous(!p_.shared_input, 0, channel);
    T* const grad_delta_rows = static_cast<T*>(p_.grad_delta) + contiguous(true, 0, channel);
    const int64_t channels = p_.channels;
    const bool adds = p_.shared_input && k_ > 0;
    Vec grad_D = grad_D_[slot], grad_bias = grad_bias_[slot];
    for (int i = 0; i < count; ++i) {
      const int64_t to = rows_.position[i] * channels;
      const Vec grad_x = simd::load(rows_.grad_x + i * kLanes), u = simd::load(rows_.u + i * kLanes);
      const Vec grad_y = simd::load(rows_.grad_y + i * kLanes);
      Vec grad_u = simd::load(rows_.dt + i * kLanes) * grad_x + skip * grad_y;
      if (adds) grad_u += simd::load(grad_u_rows + to, lanes);
      simd::store(grad_u_rows + to, grad_u, lanes);
      const Vec grad_dt = simd::load(rows_.grad_exponent + i * kLanes) * simd::kLn2 + u * grad_x;
      const Vec grad_delta = grad_dt * simd::load(rows_.softplus_slope + i * kLanes);
      simd::store(grad_delta_rows + to, grad_delta, lanes);
      grad_D += grad_y * u;
      grad_bias += grad_delta;
    }
    grad_D_[slot] = grad_D;
    grad_bias_[slot] = grad_bias;
  }
};

// grad_A, grad_D, grad_delta_bias: sums over the batch, in order.
void reduce_batch(const Arguments& p, const Extent& e, const Partials& partials) {
  const int64_t slices = p.directions * e.blocks, vectors = p.states * kLanes;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads))
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t k = slice / e.blocks, channel = slice % e.blocks * kLanes, row = k * p.channels + channel;
    const int lanes = lanes_at(p, channel);
    float* total = partials.A + slice * vectors;
    Vec grad_D = simd::load(partials.D + slice * kLanes), grad_bias = simd::load(partials.delta_bias + slice * kLanes);
    for (int64_t b = 1; b < p.batch; ++b) {
      const int64_t from = b * slices + slice;
      for (int64_t i = 0; i < vectors; i += kLanes)
        simd::store(total + i, simd::load(total + i) + simd::load(partials.A + from * vectors + i));
      grad_D += simd::load(partials.D + from * kLanes);
      grad_bias += simd::load(partials.delta_bias + from * kLanes);
    }
    scatter_states(total, p.states, lanes, p.grad_A + row * p.states);
    if (p.grad_D) simd::store(p.grad_D + row, grad_D, lanes);
    if (p.grad_delta_bias) simd::store(p.grad_delta_bias + row, grad_bias, lanes);
  }
}

// grad_B, grad_C: adds up the sums over blocks, in order; where there is one, it is already in place.
void reduce_sums(const Arguments& p, int64_t sums, const Partials& partials) {
  const int64_t rows = p.batch * p.directions * p.length, size = rows * p.states;
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(p.threads))
  for (int64_t r = 0; r < rows; ++r) {
    float *const grad_B = p.grad_B + r * p.states, *const grad_C = p.grad_C + r * p.states;
    const float *const B = partials.B + r * p.states, *const C = partials.C + r * p.states;
    std::copy(B, B + p.states, grad_B);
    std::copy(C, C + p.states, grad_C);
    for (int64_t sum = 1; sum < sums; ++sum) {
#pragma omp simd
      for (int64_t n = 0; n < p.states; ++n) {
        grad_B[n] += B[sum * size + n];
        grad_C[n] += C[sum * size + n];
      }
    }
  }
}

template <class T>
int backward(const Arguments& p) {
  const Extent e(p);
  const int64_t sum_blocks = blocks_per_sum(p, e), block_sums = (e.blocks + sum_blocks - 1) / sum_blocks;
  const Grouping grouping(p.batch, e.blocks, p.threads, sum_blocks);
  const int64_t vectors = p.states * kLanes, slices = p.directions * e.blocks;
  const int64_t shared_rows = p.batch * p.directions * p.length * p.states;
  const int64_t per_thread = Task<T>::memory_size(p, grouping);
  const Rates rates(p, e);
  const Buffer scratch = parallel::allocate(p.threads * per_thread);
  const Buffer sums = parallel::allocate(p.batch * slices * (vectors + 2 * kLanes));
  const Buffer shared_sums = parallel::allocate(block_sums > 1 ? 2 * block_sums * shared_rows : 0);
  if (!rates.packed || !scratch || !sums || !shared_sums) return parallel::kOutOfMemory;
  Partials partials;
  partials.A = sums.get();
  partials.D = partials.A + p.batch * slices * vectors;
  partials.delta_bias = partials.D + p.batch * slices * kLanes;
  partials.B = block_sums > 1 ? shared_sums.get() : p.grad_B;
  partials.C = block_sums > 1 ? partials.B + block_sums * shared_rows : p.grad_C;
  pack_decay_rates(p, e, rates);
#pragma omp parallel num_threads(static_cast<int>(p.threads))
  {
    Task<T> task(p, e, grouping, rates, partials, scratch.get() + parallel::thread_index() * per_thread);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < p.batch * grouping.groups; ++i)
      for (int64_t k = 0; k < p.directions; ++k) task.run(i / grouping.groups, i % grouping.groups, k);
  }
  reduce_batch(p, e, partials);
  if (block_sums > 1) reduce_sums(p, block_sums, partials);
  return parallel::kDone;
}

}  // namespace
}  // namespace scan

extern "C" int selective_scan_backward_float32(const scan::Arguments* p) { return scan::backward<float>(*p); }
extern "C" int selective_scan_backward_bfloat16(const scan::Arguments* p) { return scan::backward<simd::BFloat16>(*p); }
extern "C" int selective_scan_chunk() { return scan::kChunk; }
