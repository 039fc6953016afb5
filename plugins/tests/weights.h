// Stored weights in every format, made from a seed.
#ifndef MOE_EXPORT_PLUGINS_TESTS_WEIGHTS_H_
#define MOE_EXPORT_PLUGINS_TESTS_WEIGHTS_H_

#include <string>
#include <vector>

#include "memory.h"
#include "moe_kernels.h"
#include "random.h"

namespace moe::tests {

// How a matrix is stored, and what rows are rounded to before they meet it.
struct Storage {
  Format format;
  RowFormat rows;
  size_t block_size;  // 0: one scale for all of a row
  bool zeros;
  bool wide;  // scales that need all of a float32

  std::string words() const;
};

// Every storage there is.
std::vector<Storage> all_storages();
// One of each kind, as moe-export's own quantiser makes them.
std::vector<Storage> usual_storages();

struct Shape {
  size_t experts, rows, columns;
  bool gated, interleaved;
};

// A weight as docs/ops.md stores it, in panels, and as numbers.
class Weight {
 public:
  Weight(const Storage& storage, const Shape& shape, Random* random);

  RowsWeight rows() const;
  const Panels& panels() const { return panels_; }
  // Row `row` of expert `expert` in the order of the source, exactly: [columns].
  const double* numbers(size_t expert, size_t row) const {
    return &numbers_[(expert * shape_.rows + row) * shape_.columns];
  }
  const Shape& shape() const { return shape_; }
  size_t blocks() const;
  // Makes an expert's numbers NaN (floats), or its scales.
  void poison(size_t expert);
  const Block<uint8_t>& blob() const { return blob_; }

 private:
  void make_floats(Random* random);
  void make_integers(Random* random);
  int integer_at(const Block<uint8_t>& from, size_t index) const;
  void compute();
  void pack();

  Storage storage_;
  Shape shape_;
  Block<uint8_t> values_, zeros_, blob_;
  Block<float> scales_;
  std::vector<double> numbers_;
  Panels panels_{};
};

// What 16 bits mean, without the kernels' own code.
double number_of_half(uint16_t bits);
double number_of_bfloat16(uint16_t bits);

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_WEIGHTS_H_
