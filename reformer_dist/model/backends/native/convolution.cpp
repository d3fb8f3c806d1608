// The short convolution along the tokens, and its gradient: each in one pass over the stream.
//
// Legend: B batch, S tokens, E width, K taps.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

namespace reformer {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kRowsTogether = 256;  // whose part of a weight's gradient is summed by itself, whatever the threads

// The stream's shape, and which tokens a tap brings together.
struct Shape {
  int64_t B, S, E, K, after;
  const int64_t* documents_BS;  // null: all of one

  // How far behind a token the one lies that tap k reads.
  int64_t ahead(int64_t k) const { return k + after - (K - 1); }

  // Whether token `to` reads token `from` of a row.
  bool meets(int64_t b, int64_t to, int64_t from) const {
    if (to < 0 || to >= S || from < 0 || from >= S) return false;
    if (documents_BS == nullptr) return true;
    const int64_t document = documents_BS[b * S + to];
    return document >= 0 && document == documents_BS[b * S + from];
  }
};

Shape make_shape(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& documents, int64_t after) {
  TORCH_CHECK(x.is_contiguous() && (!documents || documents->is_contiguous()), "stream and documents must be contiguous");
  return {x.size(0), x.size(1), x.size(2), weight.size(2), after, documents ? documents->const_data_ptr<int64_t>() : nullptr};
}

template <typename T>
void add_product(const T* x, const T* y, int64_t size, T* to) {
  for (int64_t e = 0; e < size; ++e) to[e] += x[e] * y[e];
}

// out[s] = x[s] + sum over the taps of weight[k] x[s + direction ahead(k)]; the gradient reads in the other direction.
template <typename T>
void add_neighbours(const Shape& shape, const T* x, const T* weight_KE, int64_t direction, T* out) {
  const int64_t S = shape.S, E = shape.E;
  at::parallel_for(0, shape.B * S, kRowsTogether, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / S, s = row % S;
      std::copy_n(x + row * E, E, out + row * E);
      for (int64_t k = 0; k < shape.K; ++k) {
        const int64_t other = s + direction * shape.ahead(k);
        if (direction > 0 ? shape.meets(b, s, other) : shape.meets(b, other, s))
          add_product(x + (b * S + other) * E, weight_KE + k * E, E, out + row * E);
      }
    }
  });
}

template <typename T>
void sum_weights(const Shape& shape, const T* grad, const T* x, T* parts_GKE) {
  const int64_t rows = shape.B * shape.S, groups = (rows + kRowsTogether - 1) / kRowsTogether;
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group)
      for (int64_t row = group * kRowsTogether; row < std::min(rows, (group + 1) * kRowsTogether); ++row) {
        const int64_t b = row / shape.S, s = row % shape.S;
        for (int64_t k = 0; k < shape.K; ++k) {
          const int64_t other = s + shape.ahead(k);
          if (shape.meets(b, s, other))
            add_product(grad + row * shape.E, x + (b * shape.S + other) * shape.E, shape.E,
                        parts_GKE + (group * shape.K + k) * shape.E);
        }
      }
  });
}

// The stream and, added to it, its nearest tokens.
//   x          [B, S, E] float32 or float64
//   weight     [E, 1, K]; the last column weighs the token furthest ahead
//   documents  [B, S] int64, which must agree, -1 for padding, which stays as it is; none: one document
//   after      how many of the K tokens lie behind a token
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& documents, int64_t after) {
  auto out = at::empty_like(x);
  const auto weight_KE = weight.squeeze(1).t().contiguous();
  const auto shape = make_shape(x, weight, documents, after);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convolve", [&] {
    add_neighbours(shape, x.const_data_ptr<scalar_t>(), weight_KE.const_data_ptr<scalar_t>(), 1,
                   out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

// Gradients of x and weight.
std::tuple<at::Tensor, at::Tensor> convolve_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                                     const OptionalTensor& documents, int64_t after) {
  TORCH_CHECK(grad.is_contiguous(), "the gradient must be contiguous");
  auto dx = at::empty_like(x);
  const auto weight_KE = weight.squeeze(1).t().contiguous();
  const auto shape = make_shape(x, weight, documents, after);
  const int64_t groups = (shape.B * shape.S + kRowsTogether - 1) / kRowsTogether;
  auto parts_GKE = at::zeros({groups, shape.K, shape.E}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convolve_backward", [&] {
    const auto* gradient = grad.const_data_ptr<scalar_t>();
    add_neighbours(shape, gradient, weight_KE.const_data_ptr<scalar_t>(), -1, dx.mutable_data_ptr<scalar_t>());
    sum_weights(shape, gradient, x.const_data_ptr<scalar_t>(), parts_GKE.mutable_data_ptr<scalar_t>());
  });
  return {dx, parts_GKE.sum(0).t().unsqueeze(1).contiguous()};
}

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.def("convolve(Tensor x, Tensor weight, Tensor? documents, int after) -> Tensor", &convolve);
  library.def(
      "convolve_backward(Tensor grad, Tensor x, Tensor weight, Tensor? documents, int after) -> (Tensor, Tensor)",
      &convolve_backward);
}

}  // namespace
}  // namespace reformer
