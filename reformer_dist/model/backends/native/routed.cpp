// Attention of rows that came from other workers, in the order that they came, and how results are added up at home.
//
// A received row is a token of one slice (a head of a sequence) in one hash round, with its vectors side by side. An order
// says which row stands at each place of a slice's list; the queries are some of the places, the others are halo.
//
// Legend: M rows, N slices, S places of a slice's list, D head dimension.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <optional>

#include "backward.h"
#include "forward.h"

namespace reformer {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kTilesTogether = 128;  // of a task
constexpr int64_t kRowsTogether = 512;

// What both passes take beside the rows; see `attend_rows` below.
struct Lists {
  const at::Tensor& order;
  const at::Tensor& segments;
  const OptionalTensor& hashes;
  at::IntArrayRef rule;
  at::ArrayRef<double> dropout;
};

// The list of the first slice; the lists of the others follow it in `order`. To the passes each is a sequence of its own,
// whose tokens are rows.
template <typename T>
Problem<T> make_problem(const at::Tensor& vectors, const Lists& lists) {
  TORCH_CHECK(vectors.stride(1) == 1 && lists.order.is_contiguous() && lists.segments.is_contiguous(),
              "rows and lists must be contiguous");
  TORCH_CHECK(lists.rule.size() == 5 && lists.dropout.size() == 2, "rule has 5 entries, dropout 2");
  const T* data = vectors.const_data_ptr<T>();
  const int64_t stride = vectors.stride(0), D = vectors.size(1) / 2;
  Problem<T> problem;
  problem.q = problem.k = {data, 0, stride, 0};
  problem.v = {data + D, 0, stride, 0};
  problem.B = problem.H = 1;
  problem.length = lists.order.size(1);
  problem.D = D, problem.width = (D + kTile - 1) / kTile * kTile;
  problem.shared = true;
  problem.orders_NRT = lists.order.const_data_ptr<int32_t>();
  problem.documents_BT = lists.segments.const_data_ptr<int64_t>();
  problem.rule.nearest = lists.rule[0], problem.rule.furthest = lists.rule[1];
  problem.rule.compare = lists.rule[2] != 0 ? Compare::kOther : Compare::kAny;
  if (lists.hashes)
    problem.dropout = {lists.hashes->const_data_ptr<int64_t>(), 0, static_cast<uint64_t>(lists.dropout[0]), lists.dropout[1]};
  return problem;
}

// Run `work(problem, first tile, last tile + 1)` over the queries of all slices. Tasks of one phase touch different rows.
template <typename T, typename Work>
void for_each_range(const Problem<T>& problem, const Lists& lists, Work&& work) {
  const int64_t slices = lists.order.size(0), queries = lists.rule[3], count = lists.rule[4];
  const int64_t first = queries / kTile, last = (queries + count + kTile - 1) / kTile;
  const int64_t together = std::max(kTilesTogether, 2 * Ring<T>::capacity(problem));
  const int64_t ranges = (last - first + together - 1) / together;
  for (int64_t phase = 0; phase < 2; ++phase) {
    const int64_t of_slice = (ranges + 1 - phase) / 2;
    at::parallel_for(0, slices * of_slice, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t start = first + (task % of_slice * 2 + phase) * together;
        auto list = problem;
        list.orders_NRT += task / of_slice * problem.length;
        work(list, start, std::min(start + together, last));
      }
    });
  }
}

template <typename T>
void forward(const at::Tensor& vectors, const at::Tensor& own, const Lists& lists, at::Tensor& packed) {
  const int64_t D = vectors.size(1) / 2, rows = vectors.size(0);
  const auto problem = make_problem<T>(vectors, lists);
  auto out = at::empty({rows, D}, vectors.options());
  auto lse = at::full({rows}, -std::numeric_limits<double>::infinity(), vectors.options());
  const Forward<T> results{{out.mutable_data_ptr<T>(), 0, D, 0}, lse.mutable_data_ptr<T>(), nullptr};
  for_each_range(problem, lists, [&](const Problem<T>& list, int64_t first, int64_t last) {
    ForwardPass<T>(list, results).run(0, 0, first, last);
  });
  const int32_t* own_rows = own.const_data_ptr<int32_t>();
  T* to = packed.mutable_data_ptr<T>();
  at::parallel_for(0, own.size(0), kRowsTogether, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T statistic = results.lse_NT[own_rows[i]];
      if (std::isinf(statistic))
        std::fill_n(to + i * (D + 1), D, T{0});
      else
        std::memcpy(to + i * (D + 1), results.out.of(0, 0, own_rows[i]), D * sizeof(T));
      to[i * (D + 1) + D] = statistic;
    }
  });
}

template <typename T>
void backward(const at::Tensor& vectors, const at::Tensor& outputs, const at::Tensor& own, const Lists& lists,
              at::Tensor& gradients) {
  const int64_t D = vectors.size(1) / 2, rows = vectors.size(0), stride = outputs.stride(0);
  const auto problem = make_problem<T>(vectors, lists);
  auto delta = at::zeros({rows}, vectors.options());
  auto lse = at::full({rows}, std::numeric_limits<double>::infinity(), vectors.options());
  const T* data = outputs.const_data_ptr<T>();
  const int32_t* own_rows = own.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < own.size(0); ++i) {  // halo rows stay infinite: they are keys alone
    const T* statistics = data + own_rows[i] * stride + D;
    delta.mutable_data_ptr<T>()[own_rows[i]] = statistics[0];
    lse.mutable_data_ptr<T>()[own_rows[i]] = statistics[1];
  }
  T* dq = gradients.mutable_data_ptr<T>();
  const Rows<T> dqk{dq, 0, 2 * D, 0};
  const Backward<T> results{{data, 0, stride, 0}, lse.const_data_ptr<T>(), delta.const_data_ptr<T>(), dqk, dqk,
                            {dq + D, 0, 2 * D, 0}};
  for_each_range(problem, lists, [&](const Problem<T>& list, int64_t first, int64_t last) {
    BackwardPass<T>(list, results).run(0, 0, first, last);
  });
}

// Attention among received rows with shared queries-keys.
//   vectors    [M, 2 D] queries-keys and values, float32 or float64; rows may lie apart
//   own        [M'] int32, the rows that are this worker's queries
//   order      [N, S] int32, the row at each place, -1 for none
//   segments   [M] int64, which must agree, -1 for padding
//   hashes     [M] int64 of rows for dropout; none: no dropout
//   rule       nearest, furthest, whether keys other than the query stand on both sides, place of the first query, queries
//   dropout    threshold of 65536, scale
// Returns [M', D + 1]: outputs and log-sum-exps, -inf where a query saw nothing.
at::Tensor attend_rows(const at::Tensor& vectors, const at::Tensor& own, const at::Tensor& order, const at::Tensor& segments,
                       const OptionalTensor& hashes, at::IntArrayRef rule, at::ArrayRef<double> dropout) {
  auto packed = at::empty({own.size(0), vectors.size(1) / 2 + 1}, vectors.options());
  AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), "attend_rows", [&] {
    forward<scalar_t>(vectors, own, {order, segments, hashes, rule, dropout}, packed);
  });
  return packed;
}

// Gradients [M, 2 D] of the rows' queries-keys and values. `outputs` is [M, D + 2]: the gradient of the output, its product
// with the output, and the log-sum-exp, both of all rounds together; its rows may lie apart too.
at::Tensor attend_rows_backward(const at::Tensor& vectors, const at::Tensor& outputs, const at::Tensor& own,
                                const at::Tensor& order, const at::Tensor& segments, const OptionalTensor& hashes,
                                at::IntArrayRef rule, at::ArrayRef<double> dropout) {
  TORCH_CHECK(outputs.stride(1) == 1 && outputs.size(0) == vectors.size(0) && outputs.size(1) == vectors.size(1) / 2 + 2 &&
                  outputs.scalar_type() == vectors.scalar_type(),
              "outputs must be [M, D + 2] of the vectors' dtype");
  auto gradients = at::zeros({vectors.size(0), vectors.size(1)}, vectors.options());
  AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), "attend_rows_backward", [&] {
    backward<scalar_t>(vectors, outputs, own, {order, segments, hashes, rule, dropout}, gradients);
  });
  return gradients;
}

// Rows of several matrices side by side: parts [., X_p] and rows [M] int32 -> [M, sum of X_p].
at::Tensor take_rows(const at::TensorList parts, const at::Tensor& rows) {
  int64_t width = 0;
  for (const auto& part : parts) {
    TORCH_CHECK(part.is_contiguous() && part.scalar_type() == parts[0].scalar_type(), "parts must be contiguous, of one dtype");
    width += part.size(1);
  }
  auto taken = at::empty({rows.size(0), width}, parts[0].options());
  const int32_t* at_rows = rows.const_data_ptr<int32_t>();
  AT_DISPATCH_FLOATING_TYPES(taken.scalar_type(), "take_rows", [&] {
    auto* to = taken.mutable_data_ptr<scalar_t>();
    int64_t column = 0;
    for (const auto& part : parts) {
      const auto* from = part.const_data_ptr<scalar_t>();
      const int64_t size = part.size(1);
      at::parallel_for(0, rows.size(0), kRowsTogether, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          std::memcpy(to + i * width + column, from + at_rows[i] * size, size * sizeof(scalar_t));
      });
      column += size;
    }
  });
  return taken;
}

template <typename T>
void combine(at::Tensor& out, at::Tensor& lse, const at::Tensor& rows, const at::Tensor& packed) {
  const int64_t D = out.size(1);
  T *outs = out.mutable_data_ptr<T>(), *totals = lse.mutable_data_ptr<T>();
  const T* from = packed.const_data_ptr<T>();
  const int32_t* at_rows = rows.const_data_ptr<int32_t>();
  at::parallel_for(0, rows.size(0), kRowsTogether, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* x = from + i * (D + 1);
      T& total = totals[at_rows[i]];
      T* to = outs + at_rows[i] * D;
      if (std::isinf(x[D])) continue;
      if (std::isinf(total)) {
        std::memcpy(to, x, D * sizeof(T));
        total = x[D];
        continue;
      }
      const T both = std::max(total, x[D]) + std::log1p(std::exp(-std::abs(total - x[D])));
      mix_rows(x, std::exp(x[D] - both), std::exp(total - both), D, to);
      total = both;
    }
  });
}

// Bring one round's outputs and log-sum-exps [M', D + 1] into those of all rounds so far, out [M, D] and lse [M], which start
// as 0 and -inf. `rows` [M'] int32 names each row at most once.
void combine_rows(at::Tensor& out, at::Tensor& lse, const at::Tensor& rows, const at::Tensor& packed) {
  TORCH_CHECK(out.is_contiguous() && packed.is_contiguous() && packed.size(1) == out.size(1) + 1, "rows must fit");
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "combine_rows", [&] { combine<scalar_t>(out, lse, rows, packed); });
}

// total[rows[i]] += x[i], stretch by stretch of `counts` entries, in each of which a row stands once.
void add_rows(at::Tensor& total, const at::Tensor& rows, const at::Tensor& x, at::IntArrayRef counts) {
  TORCH_CHECK(total.is_contiguous() && x.is_contiguous() && total.size(1) == x.size(1), "rows must fit");
  const int64_t width = x.size(1);
  const int32_t* at_rows = rows.const_data_ptr<int32_t>();
  AT_DISPATCH_FLOATING_TYPES(total.scalar_type(), "add_rows", [&] {
    auto* to = total.mutable_data_ptr<scalar_t>();
    const auto* from = x.const_data_ptr<scalar_t>();
    int64_t start = 0;
    for (const auto count : counts) {
      at::parallel_for(start, start + count, kRowsTogether, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) mix_rows<scalar_t>(from + i * width, 1, 1, width, to + at_rows[i] * width);
      });
      start += count;
    }
  });
}

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.def(
      "attend_rows(Tensor vectors, Tensor own, Tensor order, Tensor segments, Tensor? hashes, int[] rule, float[] dropout) "
      "-> Tensor",
      &attend_rows);
  library.def(
      "attend_rows_backward(Tensor vectors, Tensor outputs, Tensor own, Tensor order, Tensor segments, Tensor? hashes, "
      "int[] rule, float[] dropout) -> Tensor",
      &attend_rows_backward);
  library.def("take_rows(Tensor[] parts, Tensor rows) -> Tensor", &take_rows);
  library.def("combine_rows(Tensor(a!) out, Tensor(b!) lse, Tensor rows, Tensor packed) -> ()", &combine_rows);
  library.def("add_rows(Tensor(a!) total, Tensor rows, Tensor x, int[] counts) -> ()", &add_rows);
}

}  // namespace
}  // namespace reformer
