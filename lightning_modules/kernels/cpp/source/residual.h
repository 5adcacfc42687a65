// x + gate dropout(h): the arguments of its C functions.
#pragma once

#include <cstdint>

namespace residual {

// Filled field by field by _residual of rows.py. Elements of type T: h, grad_h; x, y and grad_y too unless `wide`.
struct Arguments {
  int64_t batch, length, channels, threads;
  int64_t wide;  // x, y and grad_y are float32 whatever T is
  int64_t seed;
  int64_t kept;  // of 2^24 numbers those that keep an element; 2^24: no dropout
  int64_t x_batch_stride, x_position_stride, h_batch_stride, h_position_stride;
  int64_t grad_y_batch_stride, grad_y_position_stride;
  const void* x;  // or null
  const void* h;
  const float* gate;  // (B, C) or null
  int64_t gate_stride;
  void* y;  // (B, L, C) contiguous
  const void* grad_y;
  void* grad_h;      // (B, L, C) contiguous
  float* grad_gate;  // sums over the positions of a chunk, (B, chunks, C), or null
};

}  // namespace residual
