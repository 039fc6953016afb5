// Packed weights: from rows to panels and back, and what a blob must be to be read (docs/panels.md).
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "panels.h"

namespace moe {
namespace {

constexpr char kMagic[8] = {'M', 'O', 'E', 'P', 'A', 'N', 'E', 'L'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kGated = 1, kZeros = 2, kWideScales = 4;

struct Header {
  char magic[8];
  uint32_t version, format, experts, rows, columns, block_size, flags, reserved;
  uint64_t expert_bytes;
  uint64_t tail[2];
};
static_assert(sizeof(Header) == kHeaderBytes);

// Sizes are read from files, so every product is checked.
bool multiply(size_t a, size_t b, size_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}

bool bfloat16_holds(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (bits & 0xffff) == 0;
}

// The geometry of one expert, or false where it does not fit into size_t.
bool measure(Panels* p) {
  const size_t outputs = p->gated ? p->rows / 2 : p->rows;
  p->panels = (outputs + kPanelRows - 1) / kPanelRows * (p->gated ? 2 : 1);
  size_t bytes, extra;
  if (!multiply(padded_columns(p->format, p->columns), kPanelRows * value_bits(p->format), &bytes))
    return false;
  bytes /= 8;
  if (is_quantized(p->format)) {
    const size_t per_block = kPanelRows * ((p->wide_scales ? 4 : 2) + (p->has_zeros ? 1 : 0));
    if (!multiply(num_blocks(*p), per_block, &extra)) return false;
    bytes += extra;
  }
  p->panel_bytes = round_up(bytes, kAlignment);
  return multiply(p->panels, p->panel_bytes, &p->expert_bytes);
}

Panels describe(const RowsWeight& w) {
  Panels p{};
  p.format = w.format;
  p.experts = w.experts;
  p.rows = w.rows;
  p.columns = w.columns;
  p.block_size = is_quantized(w.format) ? w.block_size : 0;
  p.gated = w.gated;
  p.has_zeros = w.zeros != nullptr;
  if (is_quantized(w.format)) {
    p.wide_scales = w.block_size == 0;
    const size_t count = w.experts * w.rows * num_blocks(p);
    for (size_t i = 0; i < count && !p.wide_scales; ++i)
      p.wide_scales = !bfloat16_holds(w.scales[i]);
  }
  measure(&p);
  return p;
}

// The row of the source that row r of panel `panel` holds, or -1 where it is padding.
ptrdiff_t source_row(const Panels& p, bool interleaved, size_t panel, size_t r) {
  if (!p.gated) {
    const size_t row = panel * kPanelRows + r;
    return row < p.rows ? ptrdiff_t(row) : -1;
  }
  const size_t inner = p.rows / 2, i = panel / 2 * kPanelRows + r, value = panel % 2;
  if (i >= inner) return -1;
  return ptrdiff_t(interleaved ? 2 * i + value : value * inner + i);
}

unsigned stored_int4(const void* values, size_t index) {
  const uint8_t byte = static_cast<const uint8_t*>(values)[index / 2];
  const unsigned half = index % 2 ? byte >> 4 : byte & 15;
  return half ^ 8;  // two's complement to excess 8
}

uint8_t excess(const RowsWeight& w, const void* values, size_t index) {
  if (w.format == Format::int4) return uint8_t(stored_int4(values, index));
  return uint8_t(static_cast<const int8_t*>(values)[index] ^ 0x80);
}

void pack_values(const RowsWeight& w, size_t first, size_t r, uint8_t* panel) {
  const size_t columns = w.columns;
  switch (w.format) {
    case Format::f32:
      for (size_t c = 0; c < columns; ++c)
        std::memcpy(panel + (c * kPanelRows + r) * 4,
                    static_cast<const float*>(w.values) + first + c, 4);
      break;
    case Format::f16:
      for (size_t c = 0; c < columns; ++c)
        std::memcpy(panel + (c * kPanelRows + r) * 2,
                    static_cast<const uint16_t*>(w.values) + first + c, 2);
      break;
    case Format::bf16:
      for (size_t c = 0; c < columns; ++c)
        std::memcpy(panel + (c / 2 * 2 * kPanelRows + 2 * r + c % 2) * 2,
                    static_cast<const uint16_t*>(w.values) + first + c, 2);
      break;
    case Format::int8:
      for (size_t c = 0; c < columns; ++c)
        panel[c / 4 * 4 * kPanelRows + 4 * r + c % 4] = excess(w, w.values, first + c);
      break;
    case Format::int4:
      for (size_t c = 0; c < columns; ++c) {
        uint8_t* byte = panel + c / 8 * 4 * kPanelRows + 4 * r + c % 4;
        const uint8_t value = excess(w, w.values, first + c);
        *byte = c % 8 < 4 ? uint8_t((*byte & 0xf0) | value) : uint8_t((*byte & 15) | value << 4);
      }
      break;
  }
}

void pack_blocks(const RowsWeight& w, const Panels& p, size_t row, size_t r, uint8_t* panel) {
  const size_t blocks = num_blocks(p);
  for (size_t b = 0; b < blocks; ++b) {
    const float scale = w.scales[row * blocks + b];
    uint32_t bits;
    std::memcpy(&bits, &scale, 4);
    const uint16_t high = uint16_t(bits >> 16);
    uint8_t* to = panel + scales_offset(p);
    if (p.wide_scales)
      std::memcpy(to + (b * kPanelRows + r) * 4, &scale, 4);
    else
      std::memcpy(to + (b * kPanelRows + r) * 2, &high, 2);
    if (p.has_zeros)
      panel[zeros_offset(p) + b * kPanelRows + r] = excess(w, w.zeros, row * blocks + b);
  }
}

struct Packing {
  const RowsWeight* w;
  const Panels* p;
  uint8_t* to;
};

void pack_panel(void* argument, size_t i) {
  const auto& [w, p, to] = *static_cast<const Packing*>(argument);
  const size_t expert = i / p->panels, panel = i % p->panels;
  uint8_t* out = to + expert * p->expert_bytes + panel * p->panel_bytes;
  std::memset(out, 0, p->panel_bytes);
  if (is_quantized(p->format)) {
    const bool int4 = p->format == Format::int4;
    std::memset(out, int4 ? 0x88 : 0x80, scales_offset(*p));
    if (p->has_zeros)
      std::memset(out + zeros_offset(*p), int4 ? 8 : 128, num_blocks(*p) * kPanelRows);
  }
  for (size_t r = 0; r < kPanelRows; ++r) {
    const ptrdiff_t row = source_row(*p, w->interleaved, panel, r);
    if (row < 0) continue;
    const size_t global = expert * w->rows + size_t(row);
    pack_values(*w, global * w->columns, r, out);
    if (is_quantized(p->format)) pack_blocks(*w, *p, global, r, out);
  }
}

float value_at(const Panels& p, const uint8_t* panel, size_t r, size_t c) {
  switch (p.format) {
    case Format::f32: {
      float x;
      std::memcpy(&x, panel + (c * kPanelRows + r) * 4, 4);
      return x;
    }
    case Format::f16:
      return float_of_half(panel + (c * kPanelRows + r) * 2);
    case Format::bf16:
      return float_of_bfloat16(panel + (c / 2 * 2 * kPanelRows + 2 * r + c % 2) * 2);
    default:
      break;
  }
  const size_t block = p.block_size ? c / p.block_size : 0, at = block * kPanelRows + r;
  const uint8_t* scales = panel + scales_offset(p);
  float scale;
  if (p.wide_scales)
    std::memcpy(&scale, scales + at * 4, 4);
  else
    scale = float_of_bfloat16(scales + at * 2);
  int zero = p.format == Format::int8 ? 128 : 8, q;
  if (p.has_zeros) zero = panel[zeros_offset(p) + at];
  if (p.format == Format::int8) {
    q = panel[c / 4 * 4 * kPanelRows + 4 * r + c % 4];
  } else {
    const uint8_t byte = panel[c / 8 * 4 * kPanelRows + 4 * r + c % 4];
    q = c % 8 < 4 ? byte & 15 : byte >> 4;
  }
  return float(q - zero) * scale;
}

}  // namespace

size_t panels_bytes(const RowsWeight& w) {
  return kHeaderBytes + w.experts * describe(w).expert_bytes;
}

void pack_panels(const RowsWeight& w, uint8_t* blob, const Parallel& parallel) {
  Panels p = describe(w);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.format = uint32_t(p.format);
  header.experts = uint32_t(p.experts);
  header.rows = uint32_t(p.rows);
  header.columns = uint32_t(p.columns);
  header.block_size = uint32_t(p.block_size);
  header.flags =
      (p.gated ? kGated : 0) | (p.has_zeros ? kZeros : 0) | (p.wide_scales ? kWideScales : 0);
  header.expert_bytes = p.expert_bytes;
  std::memcpy(blob, &header, sizeof header);
  Packing packing{&w, &p, blob + kHeaderBytes};
  parallel.run(parallel.pool, p.experts * p.panels, pack_panel, &packing);
}

bool read_panels(const void* blob, size_t bytes, Panels* panels, const char** why) {
  const auto refuse = [why](const char* reason) {
    *why = reason;
    return false;
  };
  Header h;
  if (bytes < sizeof h) return refuse("packed weights of fewer bytes than their header");
  std::memcpy(&h, blob, sizeof h);
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0)
    return refuse("packed weights that do not begin with MOEPANEL");
  if (h.version != kVersion) return refuse("packed weights of a version other than 1");
  if (h.format > uint32_t(Format::int4)) return refuse("packed weights of an unknown format");
  if (h.flags & ~(kGated | kZeros | kWideScales) || h.reserved || h.tail[0] || h.tail[1])
    return refuse("packed weights with unknown flags");
  if (!h.experts || !h.rows || !h.columns)
    return refuse("packed weights without experts, rows or columns");
  Panels p{};
  p.format = Format(h.format);
  p.experts = h.experts;
  p.rows = h.rows;
  p.columns = h.columns;
  p.block_size = h.block_size;
  p.gated = h.flags & kGated;
  p.has_zeros = h.flags & kZeros;
  p.wide_scales = h.flags & kWideScales;
  if (p.gated && p.rows % 2) return refuse("packed weights gated and with an odd number of rows");
  if (is_quantized(p.format) ? p.block_size % 32 || (!p.block_size && !p.wide_scales)
                             : p.block_size || p.has_zeros || p.wide_scales)
    return refuse("packed weights whose scales are not those of their format");
  size_t total;
  if (!measure(&p) || p.expert_bytes != h.expert_bytes ||
      !multiply(p.experts, p.expert_bytes, &total) || bytes != sizeof h + total)
    return refuse("packed weights of another size than their header says");
  if (reinterpret_cast<uintptr_t>(blob) % kAlignment)
    return refuse("packed weights that do not begin at a multiple of 64 bytes");
  p.data = static_cast<const uint8_t*>(blob) + sizeof h;
  *panels = p;
  return true;
}

void unpack_row(const Panels& p, size_t expert, size_t row, float* out) {
  const size_t inner = p.gated ? p.rows / 2 : p.rows, i = row % inner;
  const size_t panel = i / kPanelRows * (p.gated ? 2 : 1) + row / inner;
  const uint8_t* at = p.data + expert * p.expert_bytes + panel * p.panel_bytes;
  for (size_t c = 0; c < p.columns; ++c) out[c] = value_at(p, at, i % kPanelRows, c);
}

void advise_huge_pages(const void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  // Reading experts here and there misses the TLB on every page of 4 KiB: with pages of 2 MiB the
  // same loop read 1.4 times as much a second (Zen 3 under KVM, ext4 mapping).
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace moe
