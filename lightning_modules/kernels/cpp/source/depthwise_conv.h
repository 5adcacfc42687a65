// Depthwise convolution: the arguments of its C functions.
#pragma once

#include <cstdint>

namespace conv {

// Filled field by field by _call in depthwise_conv.py. Elements of type T: x, y, grad_y, grad_x.
struct Arguments {
  int64_t batch, length, channels, taps, pad_left, silu, threads;
  int64_t x_batch_stride, x_position_stride, grad_y_batch_stride, grad_y_position_stride;
  const void* x;
  const float *weight, *bias;  // (C, k), (C) or null
  void* y;                     // (B, L, C) contiguous
  const void* grad_y;
  void* grad_x;                // (B, L, C) contiguous
  float *grad_weight, *grad_bias;  // (C, k), (C) or null
};

}  // namespace conv
