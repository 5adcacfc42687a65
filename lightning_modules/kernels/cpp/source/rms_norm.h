// Root-mean-square norm: the arguments of its C functions.
#pragma once

#include <cstdint>

namespace rms {

// Filled field by field by _call in rms_norm.py. Elements of type T: x, gate, y, grad_y, grad_x, grad_gate.
struct Arguments {
  int64_t batch, length, channels, threads;
  double eps;
  int64_t x_batch_stride, x_position_stride, gate_batch_stride, gate_position_stride;
  int64_t grad_y_batch_stride, grad_y_position_stride;
  const void *x, *gate;  // gate may be null
  const float* factor;   // (B, C) or, with a factor_stride of 0, (C); null: 1
  int64_t factor_stride;
  const float* shift;  // (B, C) or null
  void* y;             // (B, L, C) contiguous
  float* rstd;         // (B, L): 1 / root mean square
  const void* grad_y;
  void *grad_x, *grad_gate;  // (B, L, C) contiguous; the second null without a gate
  // Sums over the positions of a chunk, (B, chunks, C), or null: of grad_y times the normalised input, and of grad_y.
  float *grad_factor, *grad_shift;
};

}  // namespace rms
