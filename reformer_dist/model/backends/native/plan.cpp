// All layers for one token more of every row: what decoding.cpp has piece by piece, in one call, since at these sizes a call
// from Python costs as much as a product.
//
// Legend: B batch, E width, N outputs, H heads, D head dimension, R hash rounds, W window, C capacity of a memory.

#include <torch/custom_class.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
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

// What changes from token to token.
struct Now {
  at::Tensor positions;              // [B] int64 of the new tokens
  OptionalTensor waves;              // that turn queries and keys there
  std::vector<at::Tensor> oldest;    // first position that a query sees, [B] int64: of each layer that attends the newest
};

// The norm of a layer and its convolution; see `next_projections`.
struct Norm {
  at::Tensor weight;
  OptionalTensor bias;
  double eps;
  OptionalTensor taps, recent;

  std::vector<at::Tensor> project(const at::Tensor& x, at::TensorList weights, at::TensorList biases) const {
    return next_projections(x, weight, bias, eps, taps, recent, weights, biases);
  }
};

// A layer of one token more: the stream [B, E] in, its contribution [B, E] out.
struct Layer {
  virtual ~Layer() = default;
  virtual at::Tensor next(const at::Tensor& x, const Now& now) const = 0;
};

// The projections' results as heads [B, H, D].
at::Tensor heads_of(const at::Tensor& projected, const at::Tensor& rows) {
  return projected.view({projected.size(0), rows.size(1), rows.size(3) / 2});
}

struct AttentionOfBuckets : Layer {
  Norm norm;
  std::vector<at::Tensor> projections;  // of queries-keys and of values, each [N, E]
  at::Tensor output;                    // [E, N]
  OptionalTensor temperature;           // [H], where queries-keys are brought to unit length
  at::Tensor rotations, rows, newest, counts;
  std::vector<int64_t> factors;
  bool brings_next, is_turned;

  at::Tensor next(const at::Tensor& x, const Now& now) const override {
    const auto projected = norm.project(x, projections, {});
    const auto qk = heads_of(projected[0], rows), v = heads_of(projected[1], rows);
    if (temperature) bring_to_temperature(qk, temperature);
    const auto buckets = next_buckets(qk, rotations, factors);
    const auto attended = next_of_buckets(qk, v, buckets, rows, newest, counts, now.positions, brings_next,
                                          is_turned ? now.waves : std::nullopt);
    return next_product(attended.view({x.size(0), -1}), output, std::nullopt);
  }
};

struct AttentionOfNewest : Layer {
  Norm norm;
  std::vector<at::Tensor> projections;  // of queries, keys and values
  at::Tensor output;
  OptionalTensor temperature;
  at::Tensor rows;
  int64_t index;  // in Now::oldest

  at::Tensor next(const at::Tensor& x, const Now& now) const override {
    const auto projected = norm.project(x, projections, {});
    const auto q = heads_of(projected[0], rows), k = heads_of(projected[1], rows), v = heads_of(projected[2], rows);
    if (temperature) bring_to_temperature(q, temperature), bring_to_temperature(k, std::nullopt);
    const auto attended = next_of_newest(q, k, v, rows, now.positions, now.oldest.at(index), now.waves);
    return next_product(attended.view({x.size(0), -1}), output, std::nullopt);
  }
};

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

struct FeedForward : Layer {
  Norm norm;
  std::vector<at::Tensor> inner, biases;  // of what is activated, and then of the gate if there is one
  at::Tensor output, output_bias;
  std::string activation;

  at::Tensor next(const at::Tensor& x, const Now&) const override {
    const auto projected = norm.project(x, inner, biases);
    const int64_t N = projected[0].size(1);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "feed_forward", [&] {
      for (int64_t b = 0; b < x.size(0); ++b) {  // each row by itself
        scalar_t* row = projected[0].mutable_data_ptr<scalar_t>() + b * N;
        activate(row, N, activation);
        if (projected.size() == 1) continue;
        const scalar_t* gate = projected[1].const_data_ptr<scalar_t>() + b * N;
        for (int64_t n = 0; n < N; ++n) row[n] *= gate[n];
      }
    });
    return next_product(projected[0], output, output_bias);
  }
};

// Layers one after the other, each adding to one of two streams what it makes of the other.
struct DecodingPlan : torch::CustomClassHolder {
  std::vector<std::unique_ptr<Layer>> layers;
  int64_t num_of_newest = 0;

  void add_attention_of_buckets(at::Tensor norm, OptionalTensor norm_bias, double eps, OptionalTensor taps,
                                OptionalTensor recent, std::vector<at::Tensor> projections, at::Tensor output,
                                OptionalTensor temperature, at::Tensor rotations, std::vector<int64_t> factors,
                                at::Tensor rows, at::Tensor newest, at::Tensor counts, bool brings_next, bool is_turned) {
    auto layer = std::make_unique<AttentionOfBuckets>();
    layer->norm = {norm, norm_bias, eps, taps, recent};
    layer->projections = projections, layer->output = output, layer->temperature = temperature;
    layer->rotations = rotations, layer->factors = factors;
    layer->rows = rows, layer->newest = newest, layer->counts = counts;
    layer->brings_next = brings_next, layer->is_turned = is_turned;
    layers.push_back(std::move(layer));
  }

  void add_attention_of_newest(at::Tensor norm, OptionalTensor norm_bias, double eps, OptionalTensor taps,
                               OptionalTensor recent, std::vector<at::Tensor> projections, at::Tensor output,
                               OptionalTensor temperature, at::Tensor rows) {
    auto layer = std::make_unique<AttentionOfNewest>();
    layer->norm = {norm, norm_bias, eps, taps, recent};
    layer->projections = projections, layer->output = output, layer->temperature = temperature, layer->rows = rows;
    layer->index = num_of_newest++;
    layers.push_back(std::move(layer));
  }

  void add_feed_forward(at::Tensor norm, OptionalTensor norm_bias, double eps, OptionalTensor taps, OptionalTensor recent,
                        std::vector<at::Tensor> inner, std::vector<at::Tensor> biases, at::Tensor output,
                        at::Tensor output_bias, std::string activation) {
    auto layer = std::make_unique<FeedForward>();
    layer->norm = {norm, norm_bias, eps, taps, recent};
    layer->inner = inner, layer->biases = biases;
    layer->output = output, layer->output_bias = output_bias, layer->activation = activation;
    layers.push_back(std::move(layer));
  }

  // Both streams [B, E] after all layers, of one that both begin with.
  std::tuple<at::Tensor, at::Tensor> next(at::Tensor x, at::Tensor positions, OptionalTensor waves,
                                          std::vector<at::Tensor> oldest) {
    const Now now{positions, waves, oldest};
    std::array<at::Tensor, 2> streams = {x, x};
    for (size_t i = 0; i < layers.size(); ++i)
      streams[i % 2] = layers[i]->next(streams[1 - i % 2], now).add_(streams[i % 2]);
    return {streams[0], streams[1]};
  }
};

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.class_<DecodingPlan>("DecodingPlan")
      .def(torch::init<>())
      .def("add_attention_of_buckets", &DecodingPlan::add_attention_of_buckets)
      .def("add_attention_of_newest", &DecodingPlan::add_attention_of_newest)
      .def("add_feed_forward", &DecodingPlan::add_feed_forward)
      .def("next", &DecodingPlan::next);
}

}  // namespace
}  // namespace reformer
