// Whole layers for one token more of every row: what decoding.cpp has piece by piece, in one call each, since at these sizes
// a call from Python costs as much as a product.
//
// Legend: B batch, E width, N outputs, H heads, D head dimension, R hash rounds, W window, C capacity of a memory.

#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "decoding.h"
#include "vectors.h"

namespace reformer {
namespace {

// Vectors [B, H, D] at unit length times each head's temperature [H], or times sqrt(D) without; as `at_temperature`.
void bring_to_temperature(at::Tensor x, const OptionalTensor& temperature) {
  const int64_t H = x.size(1), D = x.size(2);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "bring_to_temperature", [&] {
    scalar_t* rows = x.mutable_data_ptr<scalar_t>();
    for (int64_t row = 0; row < x.size(0) * H; ++row, rows += D) {
      scalar_t square = 0;
      for (int64_t d = 0; d < D; ++d) square += rows[d] * rows[d];
      const scalar_t length = std::max(std::sqrt(square), static_cast<scalar_t>(1e-12));
      const scalar_t wanted = temperature ? temperature->const_data_ptr<scalar_t>()[row % H] : std::sqrt(static_cast<scalar_t>(D));
      for (int64_t d = 0; d < D; ++d) rows[d] *= wanted / length;
    }
  });
}

// The layer's contribution [B, E] by LSH attention.
//   x                       [B, E] the stream
//   norm .. recent          as `next_projections`
//   projections             of queries-keys and of values, each [N, E]; output [E, N]
//   is_normal, temperature  whether queries-keys are brought to unit length and each head's temperature [H]
//   the others              as `next_buckets` and `next_of_buckets`
at::Tensor next_layer_of_buckets(const at::Tensor& x, const at::Tensor& norm, const OptionalTensor& norm_bias, double eps,
                                 const OptionalTensor& taps, const OptionalTensor& recent, at::TensorList projections,
                                 const at::Tensor& output, const OptionalTensor& temperature, const at::Tensor& rotations,
                                 at::IntArrayRef factors, at::Tensor rows, at::Tensor newest, at::Tensor counts,
                                 const at::Tensor& positions, bool brings_next, const OptionalTensor& waves) {
  const auto projected = next_projections(x, norm, norm_bias, eps, taps, recent, projections, {});
  const std::vector<int64_t> heads = {x.size(0), rows.size(1), rows.size(3) / 2};
  const auto qk = projected[0].view(heads), v = projected[1].view(heads);
  if (temperature) bring_to_temperature(qk, temperature);
  const auto buckets = next_buckets(qk, rotations, factors);
  const auto attended = next_of_buckets(qk, v, buckets, rows, newest, counts, positions, brings_next, waves);
  return next_product(attended.view({x.size(0), -1}), output, std::nullopt);
}

// The layer's contribution [B, E] by attention to the newest tokens; `projections` are of queries, keys and values, the others
// as above and as `next_of_newest`.
at::Tensor next_layer_of_newest(const at::Tensor& x, const at::Tensor& norm, const OptionalTensor& norm_bias, double eps,
                                const OptionalTensor& taps, const OptionalTensor& recent, at::TensorList projections,
                                const at::Tensor& output, const OptionalTensor& temperature, at::Tensor rows,
                                const at::Tensor& positions, const at::Tensor& oldest, const OptionalTensor& waves) {
  const auto projected = next_projections(x, norm, norm_bias, eps, taps, recent, projections, {});
  const std::vector<int64_t> heads = {x.size(0), rows.size(1), rows.size(3) / 2};
  const auto q = projected[0].view(heads), k = projected[1].view(heads), v = projected[2].view(heads);
  if (temperature) bring_to_temperature(q, temperature), bring_to_temperature(k, std::nullopt);
  const auto attended = next_of_newest(q, k, v, rows, positions, oldest, waves);
  return next_product(attended.view({x.size(0), -1}), output, std::nullopt);
}

template <typename T, typename Function>
void apply(T* x, int64_t size, Function&& function) {
  constexpr int L = Lanes<T>::count;
  int64_t i = 0;
  for (; i + L <= size; i += L) store<T>(x + i, function(load<T>(x + i)));
  if (i == size) return;
  T rest[L] = {};
  std::copy(x + i, x + size, rest);
  store<T>(rest, function(load<T>(rest)));
  std::copy_n(rest, size - i, x + i);
}

template <typename T>
void activate(T* x, int64_t size, const std::string& activation) {
  using V = Vector<T>;
  if (activation == "relu") return apply(x, size, [](V a) { return larger(a, V{}); });
  if (activation == "relu2") return apply(x, size, [](V a) { return larger(a, V{}) * larger(a, V{}); });
  if (activation == "silu") return apply(x, size, [](V a) { return a / (exponential(-a) + T{1}); });
  TORCH_CHECK(false, "activation ", activation, " has no compiled code");
}

// The contribution [B, E] of a feed-forward layer; `gate` [N, E] multiplies what is activated. Each row by itself.
at::Tensor next_feed_forward(const at::Tensor& x, const at::Tensor& norm, const OptionalTensor& norm_bias, double eps,
                             const OptionalTensor& taps, const OptionalTensor& recent, at::TensorList weights,
                             at::TensorList biases, const at::Tensor& output, const at::Tensor& output_bias,
                             const std::string& activation) {
  const auto projected = next_projections(x, norm, norm_bias, eps, taps, recent, weights, biases);
  const auto& inner = projected[0];
  const int64_t N = inner.size(1);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "next_feed_forward", [&] {
    for (int64_t b = 0; b < x.size(0); ++b) {
      scalar_t* row = inner.mutable_data_ptr<scalar_t>() + b * N;
      activate(row, N, activation);
      if (projected.size() == 1) continue;
      const scalar_t* gate = projected[1].const_data_ptr<scalar_t>() + b * N;
      for (int64_t n = 0; n < N; ++n) row[n] *= gate[n];
    }
  });
  return next_product(inner, output, output_bias);
}

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.def(
      "next_layer_of_buckets(Tensor x, Tensor norm, Tensor? norm_bias, float eps, Tensor? taps, Tensor(a!)? recent, Tensor[] "
      "projections, Tensor output, Tensor? temperature, Tensor rotations, int[] factors, Tensor(b!) rows, Tensor(c!) newest, "
      "Tensor(d!) counts, Tensor positions, bool brings_next, Tensor? waves) -> Tensor",
      &next_layer_of_buckets);
  library.def(
      "next_layer_of_newest(Tensor x, Tensor norm, Tensor? norm_bias, float eps, Tensor? taps, Tensor(a!)? recent, Tensor[] "
      "projections, Tensor output, Tensor? temperature, Tensor(b!) rows, Tensor positions, Tensor oldest, Tensor? waves) -> "
      "Tensor",
      &next_layer_of_newest);
  library.def(
      "next_feed_forward(Tensor x, Tensor norm, Tensor? norm_bias, float eps, Tensor? taps, Tensor(a!)? recent, Tensor[] "
      "weights, Tensor[] biases, Tensor output, Tensor output_bias, str activation) -> Tensor",
      &next_feed_forward);
}

}  // namespace
}  // namespace reformer
