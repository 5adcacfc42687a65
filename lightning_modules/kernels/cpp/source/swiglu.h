// SwiGLU's activation: the arguments of its C functions.
#pragma once

#include <cstdint>

namespace swiglu {

// Filled field by field by _call in swiglu.py. Elements of type T: all.
struct Arguments {
  int64_t rows, hidden, threads;
  const void* gate_up;  // (rows, 2 hidden)
  void* y;              // (rows, hidden)
  const void* grad_y;   // (rows, hidden), null in the forward
  void* grad_gate_up;   // (rows, 2 hidden)
};

}  // namespace swiglu
