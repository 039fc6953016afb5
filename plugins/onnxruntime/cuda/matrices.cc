#include "matrices.h"

namespace moe_ort {

using moe::Format;
using moe::RowFormat;

namespace {

constexpr Choice<Format> kFormats[] = {
    {"f32", Format::f32},   {"bf16", Format::bf16}, {"f16", Format::f16},
    {"int8", Format::int8}, {"int4", Format::int4},
};
constexpr Choice<RowFormat> kRowFormats[] = {{"f32", RowFormat::f32}, {"bf16", RowFormat::bf16}};

bool is_integer(Format format) { return format == Format::int8 || format == Format::int4; }

ONNXTensorElementDataType type_of(Format format) {
  switch (format) {
    case Format::bf16: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case Format::f16: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Format::int8: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case Format::int4: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4;
    case Format::f32: break;
  }
  return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

}  // namespace

Storage read_storage(const Node& node) {
  const Storage storage{node.choice("weight_format", kFormats), node.size("block_size", 0, 0),
                        node.choice("row_format", kRowFormats)};
  const std::string layout = node.text("weight_layout", "rows");
  if (layout != "rows") {
    node.refuse_attribute("weight_layout", "is '" + layout + "', expected 'rows': only CPU kernels " +
                                               "read panels");
  }
  if (storage.block_size && !is_integer(storage.format)) {
    node.refuse_attribute("block_size", "is " + std::to_string(storage.block_size) +
                                            ", expected 0 for weights that are floats");
  }
  return storage;
}

void refuse_zeros(const Node& node, const MatrixPorts& ports) {
  if (!node.has_input(ports.zeros)) return;
  refuse({node.label(), ports.zeros_name}, "is given: the GPU has no kernels for zero points");
}

moe::cuda::Matrices read_matrices(const Call& call, const std::string& node, const Storage& storage,
                                  const MatrixPorts& ports) {
  const Tensor values = call.input(ports.values), scales = call.input(ports.scales);
  const Place where{node, ports.values_name}, scales_where{node, ports.scales_name};
  expect(where, values, type_of(storage.format), {"E", "rows", "columns"});
  if (values.elements() == 0) refuse(where, "is " + describe(values) + ": it has no numbers");
  const size_t columns = values.dim(2), block = storage.block_size ? storage.block_size : columns;
  if (storage.format == Format::int4 && columns % 2) {
    refuse(where, "is " + describe(values) +
                      ": rows of int4 are whole bytes, so the number of columns is even");
  }
  if (is_integer(storage.format)) {
    expect(scales_where, scales, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
           {{"E", values.dim(0)}, {"rows", values.dim(1)},
            {"blocks", (columns - 1) / block + 1}});
  } else if (scales.present) {
    refuse(scales_where, "is given, and weights that are floats have no scales");
  }
  return {storage.format,     values.dim(0), values.dim(1), columns,
          storage.block_size, values.data,   scales.data};
}

}  // namespace moe_ort
