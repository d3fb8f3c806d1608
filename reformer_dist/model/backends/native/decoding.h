// One token more, of every row of a batch; what each function takes and gives is written in decoding.cpp.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

namespace reformer {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor next_product(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias);

std::vector<at::Tensor> next_projections(const at::Tensor& x, const at::Tensor& norm, const OptionalTensor& norm_bias,
                                         double eps, const OptionalTensor& taps, const OptionalTensor& recent,
                                         at::TensorList weights, at::TensorList biases);

at::Tensor next_of_newest(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::Tensor rows,
                          const at::Tensor& positions, const at::Tensor& oldest, const OptionalTensor& waves);

at::Tensor next_buckets(const at::Tensor& qk, const at::Tensor& rotations, at::IntArrayRef factors);

at::Tensor next_of_buckets(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& buckets, at::Tensor rows,
                           at::Tensor newest, at::Tensor counts, const at::Tensor& positions, bool brings_next,
                           const OptionalTensor& waves);

}  // namespace reformer
