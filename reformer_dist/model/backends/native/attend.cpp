// The operators: attention over ordered lists, combined over rounds, and its gradient.
//
// Tokens are cut into ranges of tiles. Ranges of one phase touch different tokens, so that threads share the ranges of a
// phase, or whole slices where there are enough; either way each sum is made in the same order.
//
// Legend: B batch, T tokens, H heads, D head dimension, R rounds, N = B * H slices.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <optional>

#include "backward.h"
#include "forward.h"

namespace reformer {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kTilesTogether = 128;  // of a range
constexpr int kNumPhases = 3;

struct Range {
  int64_t first, last;
};

// The ranges of a round by phase: even ones, odd ones, and those that reach into another round and so may meet any token.
template <typename T>
std::array<std::vector<Range>, kNumPhases> ranges(const Problem<T>& problem) {
  std::array<std::vector<Range>, kNumPhases> phases;
  const int64_t tiles = problem.tiles_of_round();
  const int64_t length = std::max(kTilesTogether, 2 * Ring<T>::capacity(problem));
  for (int64_t first = 0, index = 0; first < tiles; first += length, ++index) {
    const int64_t last = std::min(first + length, tiles);
    const bool inside = problem.panels(0, first).first >= 0 && problem.panels(0, last - 1).second < tiles;
    phases[inside ? index % 2 : 2].push_back({first, last});
  }
  return phases;
}

// Run `work(pass, slice, round, range)` over everything; each thread makes its own pass.
template <typename T, typename Make, typename Work>
void for_each_range(const Problem<T>& problem, Make&& make, Work&& work) {
  const auto phases = ranges(problem);
  const int64_t slices = problem.num_slices();
  if (slices >= at::get_num_threads()) {
    at::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
      auto pass = make();
      for (int64_t slice = begin; slice < end; ++slice)
        for (int64_t round = 0; round < problem.R; ++round)
          for (const auto& phase : phases)
            for (const auto& range : phase) work(pass, slice, round, range);
    });
    return;
  }
  for (int64_t round = 0; round < problem.R; ++round)
    for (int phase = 0; phase < kNumPhases; ++phase) {
      const auto count = static_cast<int64_t>(phases[phase].size());
      const int64_t together = phase == 2 ? count : 1;  // a slice's last phase belongs to one thread
      const int64_t tasks = count == 0 ? 0 : slices * (count / together);
      at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
        auto pass = make();
        for (int64_t task = begin * together; task < end * together; ++task)
          work(pass, task / count, round, phases[phase][task % count]);
      });
    }
}

template <typename T>
Rows<const T> rows(const at::Tensor& x) {
  TORCH_CHECK(x.stride(3) == 1 || x.size(3) == 1, "rows must be contiguous");
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

template <typename T>
Rows<T> mutable_rows(at::Tensor& x) {
  return {x.mutable_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

// Everything but the tensors of rows; see `attend` below for the meaning of `rule` and `dropout`.
struct Lists {
  OptionalTensor orders, buckets, documents, hashes;
  at::IntArrayRef rule;
  at::ArrayRef<double> dropout;
  bool shared;
  double scale;
};

template <typename T>
Problem<T> make_problem(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Lists& lists) {
  TORCH_CHECK(lists.rule.size() == 10 && lists.dropout.size() == 3, "rule has 10 entries, dropout 3");
  for (const auto* x : {&lists.orders, &lists.buckets, &lists.documents, &lists.hashes})
    TORCH_CHECK(!x->has_value() || (*x)->is_contiguous(), "lists must be contiguous");
  Problem<T> problem;
  problem.q = rows<T>(q), problem.k = rows<T>(k), problem.v = rows<T>(v);
  problem.B = q.size(0), problem.length = q.size(1), problem.H = q.size(2), problem.D = q.size(3);
  problem.width = (problem.D + kTile - 1) / kTile * kTile;
  problem.shared = lists.shared, problem.scale = static_cast<T>(lists.scale);
  if (lists.orders) {
    problem.orders_NRT = lists.orders->const_data_ptr<int32_t>();
    problem.R = lists.orders->size(2);
  }
  if (lists.buckets) {
    problem.buckets_NRT = lists.buckets->const_data_ptr();
    problem.narrow = lists.buckets->scalar_type() == at::kShort;
  }
  if (lists.documents) problem.documents_BT = lists.documents->const_data_ptr<int64_t>();
  const auto& rule = lists.rule;
  problem.rule = {rule[0], rule[1],      rule[2],      rule[3], rule[4], rule[5], static_cast<Compare>(rule[6]),
                  rule[7] != 0, rule[8] != 0, rule[9] != 0};
  if (lists.hashes) {
    problem.dropout = {lists.hashes->const_data_ptr<int64_t>(), static_cast<int64_t>(lists.dropout[0]),
                       static_cast<uint64_t>(lists.dropout[1]), lists.dropout[2]};
  }
  return problem;
}

// Weight of a token's own value by scores of -1e5, as Hugging Face sums them over the rounds: 1, but for their rounding.
template <typename T>
T masked_self_weight(const Problem<T>& problem, const uint8_t* num_self_NRT, int64_t slice, int64_t token) {
  const auto count = [&](int64_t round) {
    return static_cast<T>(std::max<int>(num_self_NRT[(slice * problem.R + round) * problem.length + token], 1));
  };
  const auto self_lse = [&](int64_t round) { return std::log(count(round)) - static_cast<T>(1e5); };
  T highest = self_lse(0), total = 0, weight = 0;
  for (int64_t round = 1; round < problem.R; ++round) highest = std::max(highest, self_lse(round));
  for (int64_t round = 0; round < problem.R; ++round) total += std::exp(self_lse(round) - highest);
  const T lse = highest + std::log(total);
  for (int64_t round = 0; round < problem.R; ++round)
    weight += count(round) * std::exp(static_cast<T>(-1e5) - self_lse(round)) * std::exp(self_lse(round) - lse);
  return weight;
}

// Weight of a lonely token on its own value, with dropout; 0 where the rule gives it nothing.
template <typename T>
T own_weight(const Problem<T>& problem, const uint8_t* num_self_NRT, int64_t slice, int64_t token) {
  if (!problem.rule.own_value) return T{0};
  const T weight = num_self_NRT == nullptr ? 1 : masked_self_weight(problem, num_self_NRT, slice, token);
  const auto& dropout = problem.dropout;
  if (dropout.hashes_BT == nullptr) return weight;
  const auto hash = Labels<T>::token_hash(problem, slice, token);
  return keeps(hash, hash, dropout.threshold) ? weight * static_cast<T>(dropout.scale) : T{0};
}

template <typename T>
void forward(const Problem<T>& problem, at::Tensor& out, at::Tensor& lse, at::Tensor& own) {
  at::Tensor num_self;
  if (problem.rule.count_self)
    num_self = at::zeros({problem.num_slices(), problem.R, problem.length}, out.options().dtype(at::kByte));
  uint8_t* counts = num_self.defined() ? num_self.mutable_data_ptr<uint8_t>() : nullptr;
  const Forward<T> results{mutable_rows<T>(out), lse.mutable_data_ptr<T>(), counts};
  for_each_range(
      problem, [&] { return ForwardPass<T>(problem, results); },
      [](auto& pass, int64_t slice, int64_t round, Range range) { pass.run(slice, round, range.first, range.last); });
  T* own_NT = own.mutable_data_ptr<T>();
  at::parallel_for(0, problem.num_slices(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice)
      for (int64_t token = 0; token < problem.length; ++token) {
        T& total = results.lse_NT[slice * problem.length + token];
        if (!std::isinf(total) || total > 0) continue;
        total = std::numeric_limits<T>::infinity();
        const T weight = own_NT[slice * problem.length + token] = own_weight(problem, counts, slice, token);
        const int64_t b = slice / problem.H, h = slice % problem.H;
        scale_row(problem.v.of(b, h, token), weight, problem.D, results.out.of(b, h, token));
      }
  });
}

// delta = gradient . output; dv starts with what a lonely token's own value gets.
template <typename T>
void prepare(const Problem<T>& problem, const Rows<const T>& grad, const Rows<const T>& out, const T* own_NT, T* delta_NT,
             const Rows<T>& dv) {
  at::parallel_for(0, problem.B * problem.length, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t h = 0; h < problem.H; ++h) {
        const int64_t b = row / problem.length, token = row % problem.length, at = (b * problem.H + h) * problem.length + token;
        const T* gradient = grad.of(b, h, token);
        const T* output = out.of(b, h, token);
        const int64_t whole = problem.D / Lanes<T>::count * Lanes<T>::count;
        T delta = dot(gradient, output, whole);
        for (int64_t d = whole; d < problem.D; ++d) delta += gradient[d] * output[d];
        delta_NT[at] = delta;
        if (own_NT[at] == 0)
          std::fill_n(dv.of(b, h, token), problem.D, T{0});
        else
          scale_row(gradient, own_NT[at], problem.D, dv.of(b, h, token));
      }
  });
}

template <typename T>
void backward(const Problem<T>& problem, const at::Tensor& grad, const at::Tensor& out, const at::Tensor& lse,
              const at::Tensor& own, at::Tensor& dq, at::Tensor& dk, at::Tensor& dv) {
  auto delta = at::empty_like(lse);
  const Backward<T> results{rows<T>(grad),        lse.const_data_ptr<T>(), delta.const_data_ptr<T>(),
                            mutable_rows<T>(dq), mutable_rows<T>(dk),     mutable_rows<T>(dv)};
  prepare(problem, results.grad, rows<T>(out), own.const_data_ptr<T>(), delta.mutable_data_ptr<T>(), results.dv);
  for_each_range(
      problem, [&] { return BackwardPass<T>(problem, results); },
      [](auto& pass, int64_t slice, int64_t round, Range range) { pass.run(slice, round, range.first, range.last); });
}

// Attention over lists.
//   q, k, v    [B, T, H, D] float32 or float64, rows contiguous; with `shared` k is q, and keys are q at unit length;
//              else scores are scale q . k
//   orders     [B, H, R, T] int32, tokens of each round in order; none: the given order
//   buckets    [B, H, R, T] int16 or int32, which must agree; none: they need not
//   documents  [B, T] int64, which must agree, -1 for padding; none: one document
//   hashes     [B, T] int64 of tokens for dropout; none: no dropout
//   rule       chunk, before, after, empty, nearest, furthest, compare, circular, count_self, own_value
//   dropout    first head, threshold of 65536, scale
// Returns out [B, T, H, D]; the combined log-sum-exp [N, T], inf where a token saw nothing; and its weight on its own value
// there [N, T].
std::tuple<at::Tensor, at::Tensor, at::Tensor> attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                      bool shared, double scale, const OptionalTensor& orders,
                                                      const OptionalTensor& buckets, const OptionalTensor& documents,
                                                      const OptionalTensor& hashes, at::IntArrayRef rule,
                                                      at::ArrayRef<double> dropout) {
  auto out = at::empty(v.sizes(), v.options());
  auto lse = at::full({q.size(0) * q.size(2), q.size(1)}, -std::numeric_limits<double>::infinity(), v.options());
  auto own = at::zeros_like(lse);
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "attend", [&] {
    forward(make_problem<scalar_t>(q, k, v, {orders, buckets, documents, hashes, rule, dropout, shared, scale}), out, lse, own);
  });
  return {out, lse, own};
}

// Gradients of q, k and v; with `shared` that of q holds both, and that of k is empty.
std::tuple<at::Tensor, at::Tensor, at::Tensor> attend_backward(
    const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
    const at::Tensor& lse, const at::Tensor& own, bool shared, double scale, const OptionalTensor& orders,
    const OptionalTensor& buckets, const OptionalTensor& documents, const OptionalTensor& hashes, at::IntArrayRef rule,
    at::ArrayRef<double> dropout) {
  auto dq = at::zeros(q.sizes(), q.options()), dv = at::empty(v.sizes(), v.options());
  auto dk = shared ? dq : at::zeros(k.sizes(), k.options());
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "attend_backward", [&] {
    backward(make_problem<scalar_t>(q, k, v, {orders, buckets, documents, hashes, rule, dropout, shared, scale}), grad, out,
             lse, own, dq, dk, dv);
  });
  return {dq, shared ? at::empty({0}, q.options()) : dk, dv};
}

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.def(
      "attend(Tensor q, Tensor k, Tensor v, bool shared, float scale, Tensor? orders, Tensor? buckets, Tensor? documents, "
      "Tensor? hashes, int[] rule, float[] dropout) -> (Tensor, Tensor, Tensor)",
      &attend);
  library.def(
      "attend_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor own, bool shared, float "
      "scale, Tensor? orders, Tensor? buckets, Tensor? documents, Tensor? hashes, int[] rule, float[] dropout) -> (Tensor, "
      "Tensor, Tensor)",
      &attend_backward);
}

}  // namespace
}  // namespace reformer
