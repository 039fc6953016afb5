#include "weight.h"

#include <cstring>
#include <utility>

namespace moe_ort {

namespace {

using moe::Format;

// Kernels load whole cache lines.
constexpr uintptr_t kPanelAlignment = 64;
// Blocks must not straddle the 32 columns that int8 and int4 panels are padded to.
constexpr size_t kBlockUnit = 32;

constexpr Choice<Format> kFormats[] = {
    {"f32", Format::f32},   {"bf16", Format::bf16}, {"f16", Format::f16},
    {"int8", Format::int8}, {"int4", Format::int4},
};
constexpr Choice<moe::RowFormat> kRowFormats[] = {
    {"f32", moe::RowFormat::f32},
    {"bf16", moe::RowFormat::bf16},
    {"int8", moe::RowFormat::int8},
    {"int16", moe::RowFormat::int16},
};
constexpr Choice<bool> kLayouts[] = {{"rows", false}, {"panels", true}};

bool has_scales(Format format) { return format == Format::int8 || format == Format::int4; }

ONNXTensorElementDataType element_type(Format format) {
  switch (format) {
    case Format::bf16: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    case Format::f16: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case Format::int8: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case Format::int4: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4;
    case Format::f32: break;
  }
  return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

template <class Meaning, size_t kCount>
const char* text_of(Meaning meaning, const Choice<Meaning> (&choices)[kCount]) {
  for (const auto& choice : choices) {
    if (choice.meaning == meaning) return choice.text;
  }
  return "unknown";
}

const char* text_of(Format format) { return text_of(format, kFormats); }

const char* text_of(moe::RowFormat format) { return text_of(format, kRowFormats); }

bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kPanelAlignment == 0;
}

}  // namespace

Storage read_storage(const Node& node) {
  Storage storage;
  storage.format = node.choice("weight_format", kFormats);
  storage.row_format = node.choice("row_format", kRowFormats);
  storage.in_panels = node.choice("weight_layout", kLayouts);
  storage.block_size = node.size("block_size", 0, 0);
  const bool blocks = has_scales(storage.format);
  if (blocks ? storage.block_size % kBlockUnit != 0 : storage.block_size != 0) {
    node.refuse_attribute("block_size", "is " + std::to_string(storage.block_size) +
                                            (blocks ? ", expected 0 or a multiple of 32"
                                                    : ", expected 0: floats have no scales"));
  }
  const bool floats =
      storage.row_format == moe::RowFormat::f32 || storage.row_format == moe::RowFormat::bf16;
  if (!floats && !blocks) {
    node.refuse_attribute("row_format", std::string("is '") + text_of(storage.row_format) +
                                            "', expected f32 or bf16 with weight_format '" +
                                            text_of(storage.format) + "'");
  }
  return storage;
}

Weight::Weight(const Node& node, const Storage& storage, const Matrix& matrix)
    : node_(node.label()), storage_(storage), matrix_(matrix) {
  if (!node.has_input(matrix.values)) refuse(place(matrix.values_name), "is missing");
  for (const auto& [index, name] : {std::pair(matrix.scales, matrix.scales_name),
                                    std::pair(matrix.zeros, matrix.zeros_name)}) {
    if (!node.has_input(index)) continue;
    if (storage.in_panels) refuse(place(name), "is given, but panels hold their own");
    if (!has_scales(storage.format)) {
      refuse(place(name), std::string("is given, but weight_format '") + text_of(storage.format) +
                              "' has none");
    }
  }
  read_constant(node);
}

void Weight::read_constant(const Node& node) {
  const Tensor values = node.constant(matrix_.values);
  if (!values.present) return;
  if (storage_.in_panels) {
    expect_blob(values);
    const void* blob = values.data;
    if (!is_aligned(blob)) {
      own_ = Buffer(values.elements());
      std::memcpy(own_.data(), blob, values.elements());
      blob = own_.data();
    } else {
      moe::advise_huge_pages(blob, values.elements());
    }
    panels_ = read(blob, values.elements());
    is_constant_ = true;
    return;
  }
  const Tensor scales = node.constant(matrix_.scales), zeros = node.constant(matrix_.zeros);
  if (node.has_input(matrix_.scales) != scales.present) return;
  if (node.has_input(matrix_.zeros) != zeros.present) return;
  const moe::RowsWeight rows = rows_weight(values, scales, zeros);
  const size_t bytes = moe::panels_bytes(rows);
  own_ = Buffer(bytes);
  moe::pack_panels(rows, static_cast<uint8_t*>(own_.data()), moe::serial());
  panels_ = read(own_.data(), bytes);
  is_constant_ = true;
}

void Weight::expect_blob(const Tensor& values) const {
  expect(place(matrix_.values_name), values, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
         {"bytes of panels"});
}

moe::Panels Weight::read(const void* blob, size_t bytes) const {
  moe::Panels panels{};
  const char* why = nullptr;
  const Place where = place(matrix_.values_name);
  if (!moe::read_panels(blob, bytes, &panels, &why)) {
    refuse(where, std::string("does not hold panels: ") + (why ? why : "unreadable"));
  }
  if (panels.format != storage_.format || panels.block_size != storage_.block_size) {
    refuse(where, std::string("holds ") + text_of(panels.format) + " with block size " +
                      std::to_string(panels.block_size) + ", the attributes say " +
                      text_of(storage_.format) + " with " + std::to_string(storage_.block_size));
  }
  if (panels.gated != matrix_.gated) {
    refuse(where, matrix_.gated ? "holds panels without gates" : "holds panels with gates");
  }
  if (matrix_.one_expert && panels.experts != 1) {
    refuse(where, "holds " + std::to_string(panels.experts) + " matrices, expected 1");
  }
  return panels;
}

moe::RowsWeight Weight::rows_weight(const Tensor& values, const Tensor& scales,
                                    const Tensor& zeros) const {
  const ONNXTensorElementDataType type = element_type(storage_.format);
  const Place where = place(matrix_.values_name);
  const size_t lead = matrix_.one_expert ? 0 : 1;
  if (matrix_.one_expert) {
    expect(where, values, type, {"N", "H"});
  } else {
    expect(where, values, type, {"E", matrix_.gated ? "2I" : "rows", "columns"});
  }
  if (values.elements() == 0) refuse(where, "is " + describe(values) + ": it has no numbers");
  moe::RowsWeight rows{};
  rows.format = storage_.format;
  rows.experts = lead ? values.dim(0) : 1;
  rows.rows = values.dim(lead);
  rows.columns = values.dim(lead + 1);
  rows.block_size = storage_.block_size;
  rows.values = values.data;
  rows.gated = matrix_.gated;
  rows.interleaved = matrix_.interleaved;
  if (rows.gated && rows.rows % 2 != 0) {
    refuse(where, "is " + describe(values) + ": gates and values are an even number of rows");
  }
  if (!has_scales(storage_.format)) return rows;
  const size_t block = rows.block_size ? rows.block_size : rows.columns;
  const size_t blocks = (rows.columns + block - 1) / block;
  const auto expect_per_block = [&](const char* name, const Tensor& tensor,
                                    ONNXTensorElementDataType wanted) {
    if (matrix_.one_expert) {
      expect(place(name), tensor, wanted, {{"N", rows.rows}, {"blocks", blocks}});
    } else {
      expect(place(name), tensor, wanted,
             {{"E", rows.experts}, {"rows", rows.rows}, {"blocks", blocks}});
    }
  };
  expect_per_block(matrix_.scales_name, scales, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  rows.scales = scales.floats();
  if (zeros.present) {
    expect_per_block(matrix_.zeros_name, zeros, type);
    rows.zeros = zeros.data;
  }
  return rows;
}

Weight::Loan Weight::borrow(Call& call, Scratch& scratch) const {
  if (is_constant_) return {panels_, scratch.take(0)};
  const Tensor values = call.input(matrix_.values);
  if (storage_.in_panels) {
    expect_blob(values);
    if (is_aligned(values.data)) return {read(values.data, values.elements()), scratch.take(0)};
    Scratch::Lease copy = scratch.take(values.elements());
    std::memcpy(copy.data(), values.data, values.elements());
    const moe::Panels panels = read(copy.data(), values.elements());
    return {panels, std::move(copy)};
  }
  const moe::RowsWeight rows =
      rows_weight(values, call.input(matrix_.scales), call.input(matrix_.zeros));
  const size_t bytes = moe::panels_bytes(rows);
  Scratch::Lease packed = scratch.take(bytes);
  moe::pack_panels(rows, static_cast<uint8_t*>(packed.data()), call.threads());
  call.finish();
  const moe::Panels panels = read(packed.data(), bytes);
  return {panels, std::move(packed)};
}

}  // namespace moe_ort
