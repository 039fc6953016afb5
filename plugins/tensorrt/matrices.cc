#include "matrices.h"

namespace moe_trt {

using moe::Format;
using moe::RowFormat;

namespace {

constexpr Choice<Format> kFormats[] = {
    {"f32", Format::f32},   {"bf16", Format::bf16}, {"f16", Format::f16},
    {"int8", Format::int8}, {"int4", Format::int4},
};
constexpr Choice<RowFormat> kRowFormats[] = {
    {"f32", RowFormat::f32},
    {"bf16", RowFormat::bf16},
    {"int8", RowFormat::int8},
    {"int16", RowFormat::int16},
};

bool is_integer(Format format) { return format == Format::int8 || format == Format::int4; }

}  // namespace

std::vector<Attribute> storage_attributes() {
  return {Attribute::of("weight_format", "f32"), Attribute::of("block_size", 0),
          Attribute::of("row_format", "f32"), Attribute::of("weight_layout", "rows")};
}

Storage read_storage(const Node& node) {
  const Storage storage{node.choice("weight_format", kFormats), node.size("block_size", 0),
                        node.choice("row_format", kRowFormats)};
  if (node.text("weight_layout") != "rows") {
    node.refuse_attribute("weight_layout", "is '" + node.text("weight_layout") +
                                               "', expected 'rows': only CPU kernels read panels");
  }
  if (storage.row_format != RowFormat::f32 && storage.row_format != RowFormat::bf16) {
    node.refuse_attribute("row_format", "is '" + node.text("row_format") +
                                            "', expected f32 or bf16: the GPU rounds rows to no other");
  }
  if (storage.block_size && !is_integer(storage.format)) {
    node.refuse_attribute("block_size", "is " + std::to_string(storage.block_size) +
                                            ", expected 0 for weights that are floats");
  }
  return storage;
}

DataType type_of(Format format) {
  switch (format) {
    case Format::bf16: return DataType::kBF16;
    case Format::f16: return DataType::kHALF;
    case Format::int8: return DataType::kINT8;
    case Format::int4: return DataType::kINT4;
    default: return DataType::kFLOAT;
  }
}

moe::cuda::Matrices read_matrices(const std::string& node, const Tensors& inputs,
                                  const Storage& storage, const MatrixPorts& ports) {
  const Tensor &values = inputs[ports.values], &scales = inputs[ports.scales];
  const Place where{node, ports.values_name}, scales_where{node, ports.scales_name};
  expect(where, values, {"E", "rows", "columns"});
  for (int axis = 0; axis < values.dims.nbDims; ++axis) {
    if (values.dims.d[axis] < 1) {
      refuse(where, "is " + describe(values) + ": weights have a fixed shape without zeros");
    }
  }
  const size_t columns = values.dim(2), block = storage.block_size;
  if (storage.format == Format::int4 && columns % 2) {
    refuse(where, "is " + describe(values) +
                      ": rows of int4 are whole bytes, so the number of columns is even");
  }
  if (is_integer(storage.format)) {
    const size_t blocks = block ? (columns + block - 1) / block : 1;
    expect(scales_where, scales,
           {{"E", values.dims.d[0]}, {"rows", values.dims.d[1]},
            {"blocks", static_cast<int64_t>(blocks)}});
  } else if (scales.present) {
    refuse(scales_where, "is given, and weights that are floats have no scales");
  }
  return {storage.format, values.dim(0), values.dim(1), columns,
          block,          values.data,   scales.present ? scales.data : nullptr};
}

void refuse_zeros(const Node& node, bool present, const char* name) {
  if (!present) return;
  throw Fault(node.label() + ": input '" + name +
              "' is given: the GPU has no kernels for zero points");
}

size_t assignments_of(const Place& place, const Tensor& topk) {
  if (!topk.knows(0) || !topk.knows(1)) return 0;
  const int64_t most = INT32_MAX, tokens = topk.dims.d[0], top_k = topk.dims.d[1];
  if (top_k < 1 || tokens > most / top_k) {
    refuse(place, "is " + describe(topk) + ", expected [T, K] of 1 to 2147483647 assignments");
  }
  return static_cast<size_t>(tokens * top_k);
}

}  // namespace moe_trt
