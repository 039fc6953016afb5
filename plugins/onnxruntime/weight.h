// The weight inputs of a node, in either layout, as the panels that kernels read.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_WEIGHT_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_WEIGHT_H_

#include <memory>
#include <string>

#include "call.h"
#include "moe_kernels.h"
#include "node.h"
#include "scratch.h"

namespace moe_ort {

// What the attributes weight_format, block_size, row_format and weight_layout say of all weights
// of a node.
struct Storage {
  moe::Format format;
  size_t block_size;
  moe::RowFormat row_format;
  bool in_panels;
};

// Throws a Fault where they contradict each other.
Storage read_storage(const Node& node);

// One matrix of each expert: where it comes in, and how its rows are meant.
struct Matrix {
  size_t values, scales, zeros;  // indices of the inputs
  const char* values_name;
  const char* scales_name;
  const char* zeros_name;
  bool gated = false;
  bool interleaved = false;  // in rows; panels are stored one way
  bool one_expert = false;   // [rows, columns] instead of [E, rows, columns]
};

// Weights that are constants of the graph are read, and in layout "rows" packed, once; those that
// are not, at every run: correct, and as slow as copying all of them.
class Weight {
 public:
  Weight(const Node& node, const Storage& storage, const Matrix& matrix);

  // Null where the weights may change between runs.
  const moe::Panels* constant() const { return is_constant_ ? &panels_ : nullptr; }

  // Panels for one run, and what holds them in memory for that time.
  struct Loan {
    moe::Panels panels;
    Scratch::Lease held;
  };
  Loan borrow(Call& call, Scratch& scratch) const;

 private:
  moe::RowsWeight rows_weight(const Tensor& values, const Tensor& scales,
                              const Tensor& zeros) const;
  moe::Panels read(const void* blob, size_t bytes) const;
  void expect_blob(const Tensor& values) const;
  void read_constant(const Node& node);
  Place place(const char* input) const { return {node_, input}; }

  std::string node_;
  Storage storage_;
  Matrix matrix_;
  bool is_constant_ = false;
  moe::Panels panels_{};  // if constant
  Buffer own_;            // holds them, unless the graph's own memory does
};

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_WEIGHT_H_
