// Runs every entry point of the C++ kernels on heap buffers of exactly the size they need, for the sanitizers to watch.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "depthwise_conv.h"
#include "mamba2_decode.h"
#include "parallel.h"
#include "residual.h"
#include "rms_norm.h"
#include "selective_scan.h"
#include "ssd.h"
#include "state_update.h"
#include "swiglu.h"
#include "transformer_decode.h"

extern "C" int selective_scan_forward_float32(const scan::Arguments*);
extern "C" int selective_scan_forward_bfloat16(const scan::Arguments*);
extern "C" int selective_scan_backward_float32(const scan::Arguments*);
extern "C" int selective_scan_backward_bfloat16(const scan::Arguments*);
extern "C" int depthwise_conv_forward_float32(const conv::Arguments*);
extern "C" int depthwise_conv_forward_bfloat16(const conv::Arguments*);
extern "C" int depthwise_conv_backward_float32(const conv::Arguments*);
extern "C" int depthwise_conv_backward_bfloat16(const conv::Arguments*);

extern "C" void selective_state_update_float32(const step::Arguments*);
extern "C" void selective_state_update_bfloat16(const step::Arguments*);
extern "C" void depthwise_conv_update_float32(const step::ConvArguments*);
extern "C" void depthwise_conv_update_bfloat16(const step::ConvArguments*);

extern "C" int ssd_forward_float32(const ssd::Arguments*);
extern "C" int ssd_backward_float32(const ssd::Arguments*);

extern "C" int rms_norm_forward_float32(const rms::Arguments*);
extern "C" int rms_norm_forward_bfloat16(const rms::Arguments*);
extern "C" int rms_norm_backward_float32(const rms::Arguments*);
extern "C" int rms_norm_backward_bfloat16(const rms::Arguments*);
extern "C" void residual_float32(const residual::Arguments*);
extern "C" void residual_bfloat16(const residual::Arguments*);
extern "C" void swiglu_float32(const swiglu::Arguments*);
extern "C" void swiglu_bfloat16(const swiglu::Arguments*);

extern "C" void mamba2_decode_float32(const mamba2::Arguments*);
extern "C" void mamba2_decode_bfloat16(const mamba2::Arguments*);
extern "C" void transformer_decode_float32(const transformer::Arguments*);
extern "C" void transformer_decode_bfloat16(const transformer::Arguments*);

namespace {

float value(size_t index) { return static_cast<float>(index * 2654435761u % 1000) / 500.f - 1.f; }

// `count` elements, each `bytes` wide, of small values.
struct Tensor {
  std::vector<char> memory;
  Tensor(int64_t count, int bytes) : memory(count * bytes) {
    for (int64_t i = 0; i < count; ++i) {
      const float x = value(i);
      std::memcpy(memory.data() + i * bytes, reinterpret_cast<const char*>(&x) + (4 - bytes), bytes);
    }
  }
  template <class T = float>
  T* data() { return reinterpret_cast<T*>(memory.data()); }
};

bool scan_case(int64_t B, int64_t K, int64_t L, int64_t C, int64_t N, bool stack, bool shared, bool extras, int bytes) {
  scan::Arguments p{};
  p.batch = B, p.directions = K, p.length = L, p.channels = C, p.states = N, p.threads = 2;
  p.softplus = 1, p.stack = stack, p.shared_input = shared;
  const scan::Extent e(p);
  const scan::Strides per_direction{K * L * C, L * C, C}, flat{L * C, 0, C}, states{K * L * N, L * N, N};
  p.u_strides = shared ? flat : per_direction;
  p.delta_strides = per_direction, p.B_strides = p.C_strides = states, p.z_strides = flat;
  p.grad_y_strides = stack ? per_direction : flat;
  const int64_t rows = B * K * L * C, inputs = shared ? B * L * C : rows, outputs = stack ? rows : B * L * C;
  Tensor u(inputs, bytes), delta(rows, bytes), A(K * C * N, 4), Bm(B * K * L * N, 4), Cm(B * K * L * N, 4), D(K * C, 4);
  Tensor z(B * L * C, bytes), bias(K * C, 4), state(B * K * C * N, 4), y(outputs, bytes), ungated(outputs, bytes);
  Tensor checkpoints(B * K * e.chunks * e.blocks * N * simd::kLanes, 4), last(B * K * C * N, 4);
  Tensor grad_y(outputs, bytes), grad_last(B * K * C * N, 4), grad_u(inputs, 4), grad_delta(rows, bytes);
  Tensor grad_A(K * C * N, 4), grad_B(B * K * L * N, 4), grad_C(B * K * L * N, 4), grad_D(K * C, 4), grad_z(B * L * C, 4);
  Tensor grad_bias(K * C, 4), grad_state(B * K * C * N, 4);
  std::vector<int32_t> order(K * L);
  for (int64_t i = 0; i < K * L; ++i) order[i] = static_cast<int32_t>(L - 1 - i % L);
  std::vector<uint8_t> reverse(K, 1);
  p.u = u.data(), p.delta = delta.data(), p.A = A.data(), p.B = Bm.data(), p.C = Cm.data();
  p.order = extras ? order.data() : nullptr, p.reverse = reverse.data();
  p.y = y.data(), p.checkpoints = checkpoints.data();
  p.grad_y = grad_y.data(), p.grad_u = grad_u.data(), p.grad_delta = grad_delta.data(), p.grad_A = grad_A.data();
  p.grad_B = grad_B.data(), p.grad_C = grad_C.data();
  if (extras) {
    p.D = D.data(), p.z = z.data(), p.delta_bias = bias.data(), p.initial_state = state.data();
    p.ungated = ungated.data(), p.final_state = last.data(), p.grad_final_state = grad_last.data();
    p.grad_D = grad_D.data(), p.grad_z = grad_z.data(), p.grad_delta_bias = grad_bias.data();
    p.grad_initial_state = grad_state.data();
  }
  if (bytes == 4) return !selective_scan_forward_float32(&p) && !selective_scan_backward_float32(&p);
  return !selective_scan_forward_bfloat16(&p) && !selective_scan_backward_bfloat16(&p);
}

bool conv_case(int64_t B, int64_t L, int64_t C, int64_t taps, int64_t pad_left, bool extras, int bytes) {
  Tensor x(B * L * C, bytes), weight(C * taps, 4), bias(C, 4), y(B * L * C, bytes), grad_y(B * L * C, bytes);
  Tensor grad_x(B * L * C, bytes), grad_weight(C * taps, 4), grad_bias(C, 4);
  conv::Arguments p{};
  p.batch = B, p.length = L, p.channels = C, p.taps = taps, p.pad_left = pad_left, p.silu = extras, p.threads = 2;
  p.x_batch_stride = p.grad_y_batch_stride = L * C, p.x_position_stride = p.grad_y_position_stride = C;
  p.x = x.data(), p.weight = weight.data(), p.y = y.data(), p.grad_y = grad_y.data(), p.grad_x = grad_x.data();
  p.grad_weight = grad_weight.data();
  if (extras) p.bias = bias.data(), p.grad_bias = grad_bias.data();
  if (bytes == 4) return !depthwise_conv_forward_float32(&p) && !depthwise_conv_backward_float32(&p);
  return !depthwise_conv_forward_bfloat16(&p) && !depthwise_conv_backward_bfloat16(&p);
}

void step_case(int64_t B, int64_t C, int64_t N, int64_t taps, int bytes) {
  Tensor state(B * C * N, 4), u(B * C, bytes), delta(B * C, bytes), A(C * N, 4), Bm(B * N, 4), Cm(B * N, 4), D(C, 4);
  Tensor z(B * C, bytes), bias(C, 4), y(B * C, bytes), window(B * (taps - 1) * C, bytes), weight(C * taps, 4), sums(B * C, 4);
  step::Arguments p{B, C, N, 2, 1};
  p.state = state.data(), p.u = u.data(), p.delta = delta.data(), p.A = A.data(), p.B = Bm.data(), p.C = Cm.data();
  p.D = D.data(), p.z = z.data(), p.delta_bias = bias.data(), p.y = y.data();
  (bytes == 4 ? selective_state_update_float32 : selective_state_update_bfloat16)(&p);
  step::ConvArguments q{B, C, taps, 1, window.data(), u.data(), weight.data(), bias.data(), sums.data<float>()};
  (bytes == 4 ? depthwise_conv_update_float32 : depthwise_conv_update_bfloat16)(&q);
}

void mamba2_decode_case(int64_t B, int64_t M, int64_t H, int64_t P, int64_t N, int64_t taps, int64_t V, int bytes) {
  const int64_t D = H * P, W = D + 2 * N, R = D + W + H;
  Tensor in_proj(R * M, bytes), out_proj(M * D, bytes), weight(taps * W, 4), conv_bias(W, 4), dt_bias(H, 4), A(H, 4);
  Tensor skip(H, 4), norm(D, 4), shift(B * M, 4), scale(B * M, 4), gate(B * M, 4);
  Tensor window(B * (taps - 1) * W, bytes), state(B * H * P * N, 4);
  Tensor last_norm(M, 4), final_shift(B * M, 4), final_scale(B * M, 4), head(V * M, bytes);
  Tensor residual(B * M, 4), logits(B * V, 4), scratch(B * (R + W + D) + 2 * (B + 1) * std::max(M, D), 4);
  const mamba2::Layer layer{in_proj.data(), out_proj.data(), weight.data(), conv_bias.data(), dt_bias.data(),
                            A.data(), skip.data(), norm.data(), shift.data(), scale.data(),
                            gate.data(), window.data(), state.data()};
  const mamba2::Layer layers[] = {layer, layer};
  const mamba2::Arguments p{B, M, D, H, N, taps, V, 2, 2, 1e-5f, layers, last_norm.data(), final_shift.data(),
                            final_scale.data(), head.data(), residual.data(), scratch.data(), logits.data()};
  (bytes == 4 ? mamba2_decode_float32 : mamba2_decode_bfloat16)(&p);
}

void transformer_decode_case(int64_t B, int64_t H, int64_t E, int64_t F, int64_t S, int64_t V, int bytes) {
  const int64_t M = H * E;
  Tensor qkv(3 * M * M, bytes), out_proj(M * M, bytes), gate_up(2 * F * M, bytes), down(M * F, bytes);
  Tensor norm(M, 4), mlp_norm(M, 4), keys(B * S * M, bytes), values(B * S * M, bytes);
  Tensor last_norm(M, 4), head(V * M, bytes), rotation(E, 4), residual(B * M, 4), logits(B * V, 4);
  Tensor scratch(B * (std::max(3 * M, 2 * F) + std::max(M, F)) + 2 * (B * M + (S + 15) / 16 * 16), 4);
  const std::vector<uint8_t> visible(B * S, 1);
  const transformer::Layer layer{qkv.data(), out_proj.data(), gate_up.data(), down.data(),
                                 norm.data(), mlp_norm.data(), keys.data(), values.data()};
  const transformer::Layer layers[] = {layer, layer};
  for (int64_t position = 0; position < S; ++position) {
    const transformer::Arguments p{B, M, H, F, S, V, 2, 2, position, 1e-5f, layers, last_norm.data(), head.data(),
                                   visible.data(), rotation.data(), residual.data(), scratch.data(), logits.data()};
    (bytes == 4 ? transformer_decode_float32 : transformer_decode_bfloat16)(&p);
  }
}

bool ssd_case(int64_t B, int64_t L, int64_t H, int64_t P, int64_t N, int64_t chunk, bool extras) {
  const int64_t chunks = (L + chunk - 1) / chunk, states = B * H * P * N;
  Tensor x(B * L * H * P, 4), dt(B * L * H, 4), A(H, 4), Bm(B * L * N, 4), Cm(B * L * N, 4), D(H, 4), initial(states, 4);
  Tensor y(B * L * H * P, 4), last(states, 4), before(chunks * states, 4), grad_y(B * L * H * P, 4), grad_last(states, 4);
  Tensor grad_x(B * L * H * P, 4), grad_dt(B * L * H, 4), grad_A(B * H, 4), grad_B(B * L * N, 4), grad_C(B * L * N, 4);
  Tensor grad_D(B * H, 4), grad_initial(states, 4);
  ssd::Arguments p{B, L, H, P, N, chunk, 2, {L * H * P, H * P}, {L * H, H}, {L * N, N}, {L * N, N}};
  p.x = x.data(), p.dt = dt.data(), p.A = A.data(), p.B = Bm.data(), p.C = Cm.data();
  p.y = y.data();
  if (extras) p.D = D.data(), p.initial_state = initial.data(), p.final_state = last.data();
  if (extras || chunks > 1) p.before = before.data();
  if (ssd_forward_float32(&p) != 0) return false;
  p.grad_y = grad_y.data(), p.grad_x = grad_x.data(), p.grad_dt = grad_dt.data(), p.grad_A = grad_A.data();
  p.grad_B = grad_B.data(), p.grad_C = grad_C.data();
  if (extras) {
    p.grad_D = grad_D.data(), p.grad_initial_state = grad_initial.data(), p.grad_final_state = grad_last.data();
  }
  return ssd_backward_float32(&p) == 0;
}

bool norm_case(int64_t B, int64_t L, int64_t C, bool extras, int bytes) {
  const int64_t sums = parallel::Chunks(B, L).count * C;
  Tensor x(B * L * C, bytes), gate(B * L * C, bytes), factor(B * C, 4), shift(B * C, 4), y(B * L * C, bytes);
  Tensor rstd(B * L, 4), grad_y(B * L * C, bytes), grad_x(B * L * C, bytes), grad_gate(B * L * C, bytes);
  Tensor grad_factor(sums, 4), grad_shift(sums, 4);
  rms::Arguments p{};
  p.batch = B, p.length = L, p.channels = C, p.threads = 2, p.eps = 1e-5;
  p.x_batch_stride = p.gate_batch_stride = p.grad_y_batch_stride = L * C;
  p.x_position_stride = p.gate_position_stride = p.grad_y_position_stride = C;
  p.x = x.data(), p.y = y.data(), p.rstd = rstd.data(), p.grad_y = grad_y.data(), p.grad_x = grad_x.data();
  if (extras) {
    p.gate = gate.data(), p.factor = factor.data(), p.factor_stride = C, p.shift = shift.data();
    p.grad_gate = grad_gate.data(), p.grad_factor = grad_factor.data(), p.grad_shift = grad_shift.data();
  }
  return bytes == 4 ? !rms_norm_forward_float32(&p) && !rms_norm_backward_float32(&p)
                    : !rms_norm_forward_bfloat16(&p) && !rms_norm_backward_bfloat16(&p);
}

// `wide`: bytes of an element of x and y.
void residual_case(int64_t B, int64_t L, int64_t C, bool extras, int bytes, int wide) {
  Tensor x(B * L * C, wide), h(B * L * C, bytes), gate(B * C, 4), y(B * L * C, wide), grad_y(B * L * C, wide);
  Tensor grad_h(B * L * C, bytes), grad_gate(parallel::Chunks(B, L).count * C, 4);
  residual::Arguments p{};
  p.batch = B, p.length = L, p.channels = C, p.threads = 2, p.wide = wide != bytes, p.seed = -5;
  p.kept = extras ? 1 << 23 : 1 << 24;
  p.x_batch_stride = p.h_batch_stride = p.grad_y_batch_stride = L * C;
  p.x_position_stride = p.h_position_stride = p.grad_y_position_stride = C;
  p.h = h.data(), p.y = y.data();
  if (extras) p.x = x.data(), p.gate = gate.data(), p.gate_stride = C;
  bytes == 4 ? residual_float32(&p) : residual_bfloat16(&p);
  p.grad_y = grad_y.data(), p.grad_h = grad_h.data();
  if (extras) p.grad_gate = grad_gate.data();
  bytes == 4 ? residual_float32(&p) : residual_bfloat16(&p);
}

void swiglu_case(int64_t rows, int64_t hidden, int bytes) {
  Tensor gate_up(rows * 2 * hidden, bytes), y(rows * hidden, bytes), grad(rows * 2 * hidden, bytes);
  swiglu::Arguments p{};
  p.rows = rows, p.hidden = hidden, p.threads = 2, p.gate_up = gate_up.data(), p.y = y.data();
  bytes == 4 ? swiglu_float32(&p) : swiglu_bfloat16(&p);
  p.grad_y = y.data(), p.grad_gate_up = grad.data();
  bytes == 4 ? swiglu_float32(&p) : swiglu_bfloat16(&p);
}

}  // namespace

int main() {
  int passed = 0;
  for (int64_t length : {1, 9, 34})
    for (int64_t chunk : {int64_t{5}, length})
      for (int64_t width : {1, 7, 16})
        for (int64_t states : {3, 17})
          for (bool extras : {false, true}) {
            if (!ssd_case(2, length, 3, width, states, std::min(chunk, length), extras)) return 1;
            ++passed;
          }
  for (int bytes : {4, 2})
    for (int64_t batch : {1, 2, 5, 9}) {
      for (int64_t states : {1, 13, 16}) mamba2_decode_case(batch, 21, 3, 7, states, 3, 37, bytes), ++passed;
      for (int64_t channels : {4, 12, 32, 84}) transformer_decode_case(batch, 3, channels, 37, 19, 33, bytes), ++passed;
    }
  for (int bytes : {4, 2})
    for (bool extras : {false, true}) {
      for (int64_t channels : {1, 19, 33})
        for (int64_t states : {1, 16, 21}) step_case(2, channels, states, extras ? 4 : 1, bytes), ++passed;
      for (int64_t channels : {1, 16, 37})
        for (int64_t length : {1, 33, 70})
          for (int64_t states : {1, 3, 7, 16})
            for (bool flag : {false, true}) {
              if (!scan_case(2, 2, length, channels, states, flag, !flag, extras, bytes)) return 1;
              ++passed;
            }
      for (int64_t channels : {1, 16, 37})
        for (int64_t length : {1, 33, 64}) {
          if (!norm_case(2, length, channels, extras, bytes)) return 1;
          for (int wide : {4, bytes}) residual_case(2, length, channels, extras, bytes, wide);
          swiglu_case(length, channels, bytes), ++passed;
        }
      for (int64_t taps = 1; taps <= 9; ++taps)
        for (int64_t length : {1, 4, 40})
          for (int64_t left : {int64_t{0}, taps / 2, taps - 1}) {
            if (!conv_case(2, length, 19, taps, left, extras, bytes)) return 1;
            ++passed;
          }
    }
  std::printf("%d cases passed\n", passed);
}
