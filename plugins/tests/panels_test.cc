// Packed weights: docs/panels.md once more, byte by byte, and blobs that are not what they say.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "pool.h"
#include "weights.h"

namespace moe::tests {
namespace {

constexpr size_t kHeader = 64, kPanelRows = 16;

void put(std::vector<uint8_t>* to, size_t at, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) (*to)[at + i] = uint8_t(value >> 8 * i);
}

bool is_integer(Format format) { return format == Format::int8 || format == Format::int4; }

int stored_at(const RowsWeight& w, const void* from, size_t index) {
  const uint8_t* bytes = static_cast<const uint8_t*>(from);
  if (w.format == Format::int8) return bytes[index] >= 128 ? int(bytes[index]) - 256 : bytes[index];
  const int half = index % 2 ? bytes[index / 2] / 16 : bytes[index / 2] % 16;
  return half >= 8 ? half - 16 : half;
}

// The row of the source at row r of a panel, or -1.
ptrdiff_t row_at(const RowsWeight& w, size_t panel, size_t r) {
  const size_t inner = w.gated ? w.rows / 2 : w.rows;
  const size_t i = (w.gated ? panel / 2 : panel) * kPanelRows + r;
  if (i >= inner) return -1;
  if (!w.gated) return ptrdiff_t(i);
  return ptrdiff_t(w.interleaved ? 2 * i + panel % 2 : panel % 2 * inner + i);
}

bool needs_wide(const RowsWeight& w, size_t count) {
  if (w.block_size == 0) return true;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &w.scales[i], 4);
    if (bits % 65536) return true;
  }
  return false;
}

// docs/panels.md, table by table: what one panel of one expert is.
std::vector<uint8_t> panel_of(const RowsWeight& w, bool wide, size_t expert, size_t panel) {
  const bool integers = is_integer(w.format), int4 = w.format == Format::int4;
  const size_t multiple = integers ? 32 : w.format == Format::f32 ? 1 : 2;
  const size_t columns = (w.columns + multiple - 1) / multiple * multiple;
  const size_t bits = int4 ? 4 : w.format == Format::int8 ? 8 : w.format == Format::f32 ? 32 : 16;
  const size_t values = columns * kPanelRows * bits / 8;
  const size_t blocks = w.block_size ? (w.columns + w.block_size - 1) / w.block_size : 1;
  const size_t scale = wide ? 4 : 2;
  size_t bytes = values;
  if (integers) bytes += blocks * kPanelRows * (scale + (w.zeros ? 1 : 0));
  std::vector<uint8_t> out((bytes + 63) / 64 * 64);
  for (size_t r = 0; r < kPanelRows; ++r) {
    const ptrdiff_t source = row_at(w, panel, r);
    const size_t row = expert * w.rows + size_t(std::max<ptrdiff_t>(source, 0));
    for (size_t c = 0; c < columns; ++c) {
      const bool is_here = source >= 0 && c < w.columns;
      const size_t index = row * w.columns + c;
      const uint8_t* from = static_cast<const uint8_t*>(w.values);
      const int q = integers && is_here ? stored_at(w, from, index) : 0;
      switch (w.format) {
        case Format::f32:
          if (is_here) std::memcpy(&out[(c * 16 + r) * 4], from + index * 4, 4);
          break;
        case Format::f16:
          if (is_here) std::memcpy(&out[(c * 16 + r) * 2], from + index * 2, 2);
          break;
        case Format::bf16:
          if (is_here) std::memcpy(&out[((c / 2 * 16 + r) * 2 + c % 2) * 2], from + index * 2, 2);
          break;
        case Format::int8:
          out[(c / 4 * 16 + r) * 4 + c % 4] = uint8_t(q + 128);
          break;
        case Format::int4:
          out[(c / 8 * 16 + r) * 4 + c % 4] |= uint8_t((q + 8) << (c % 8 < 4 ? 0 : 4));
          break;
      }
    }
    for (size_t b = 0; integers && b < blocks; ++b) {
      const bool is_here = source >= 0;
      uint32_t pattern = 0;
      if (is_here) std::memcpy(&pattern, &w.scales[row * blocks + b], 4);
      put(&out, values + (b * 16 + r) * scale, wide ? pattern : pattern >> 16, scale);
      if (!w.zeros) continue;
      const int zero = is_here ? stored_at(w, w.zeros, row * blocks + b) : 0;
      out[values + blocks * 16 * scale + b * 16 + r] = uint8_t(zero + (int4 ? 8 : 128));
    }
  }
  return out;
}

std::vector<uint8_t> blob_of(const RowsWeight& w) {
  const size_t blocks = w.block_size ? (w.columns + w.block_size - 1) / w.block_size : 1;
  const bool wide = is_integer(w.format) && needs_wide(w, w.experts * w.rows * blocks);
  const size_t inner = w.gated ? w.rows / 2 : w.rows;
  const size_t panels = (inner + 15) / 16 * (w.gated ? 2 : 1);
  std::vector<uint8_t> blob(kHeader);
  std::memcpy(blob.data(), "MOEPANEL", 8);
  put(&blob, 8, 1, 4);
  put(&blob, 12, uint32_t(w.format), 4);
  put(&blob, 16, w.experts, 4);
  put(&blob, 20, w.rows, 4);
  put(&blob, 24, w.columns, 4);
  put(&blob, 28, w.block_size, 4);
  put(&blob, 32, (w.gated ? 1 : 0) + (w.zeros ? 2 : 0) + (wide ? 4 : 0), 4);
  for (size_t e = 0; e < w.experts; ++e)
    for (size_t p = 0; p < panels; ++p) {
      const std::vector<uint8_t> panel = panel_of(w, wide, e, p);
      blob.insert(blob.end(), panel.begin(), panel.end());
    }
  put(&blob, 40, (blob.size() - kHeader) / w.experts, 8);
  return blob;
}

std::vector<Shape> shapes() {
  return {{1, 1, 1, false, false},    {2, 16, 32, false, false},  {3, 17, 33, false, false},
          {2, 2, 15, true, false},    {1, 34, 64, true, true},    {2, 64, 160, true, false},
          {1, 33, 257, false, false}, {2, 62, 129, true, true}};
}

TEST(a_weight_is_packed_as_the_page_says_by_any_threads) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages())
    for (const Shape& shape : shapes()) {
      Random random(seed++);
      const Weight weight(storage, shape, &random);
      const std::vector<uint8_t> expected = blob_of(weight.rows());
      const Block<uint8_t>& blob = weight.blob();
      CHECK(blob.size() == expected.size(), "%zu bytes, not %zu: %s", blob.size(), expected.size(),
            storage.words().c_str());
      for (size_t i = 0; i < expected.size(); ++i)
        CHECK(blob[i] == expected[i], "byte %zu is %d, not %d: %s, rows %zu, columns %zu", i,
              blob[i], expected[i], storage.words().c_str(), shape.rows, shape.columns);
      Pool pool(3, Order::shuffled, seed);
      Block<uint8_t> again(blob.size());
      pack_panels(weight.rows(), again.data(), pool.parallel());
      CHECK(!std::memcmp(again.data(), blob.data(), blob.size()), "threads change what is packed");
    }
}

TEST(what_is_packed_is_unpacked_exactly) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages())
    for (const Shape& shape : shapes()) {
      Random random(seed++);
      const Weight weight(storage, shape, &random);
      const size_t inner = shape.rows / 2;
      Block<float> row(shape.columns);
      for (size_t e = 0; e < shape.experts; ++e)
        for (size_t r = 0; r < shape.rows; ++r) {
          unpack_row(weight.panels(), e, r, row.data());
          // Gates first, whatever the source did.
          const size_t source = !(shape.gated && shape.interleaved) ? r
                                : r < inner                         ? 2 * r
                                                                    : 2 * (r - inner) + 1;
          for (size_t c = 0; c < shape.columns; ++c)
            CHECK(row[c] == float(weight.numbers(e, source)[c]), "row %zu, column %zu: %s", r, c,
                  storage.words().c_str());
        }
    }
}

TEST(every_half_and_every_bfloat16_is_unpacked_exactly) {
  for (const Format format : {Format::f16, Format::bf16}) {
    Block<uint8_t> values(65536 * 2);
    for (size_t i = 0; i < 65536; ++i) {
      values[2 * i] = uint8_t(i);
      values[2 * i + 1] = uint8_t(i >> 8);
    }
    const RowsWeight w = {format, 1, 256, 256, 0, values.data(), nullptr, nullptr, false, false};
    Block<uint8_t> blob(panels_bytes(w));
    pack_panels(w, blob.data(), serial());
    Panels panels;
    const char* why = "";
    CHECK(read_panels(blob.data(), blob.size(), &panels, &why), "%s", why);
    Block<float> row(256);
    for (size_t i = 0; i < 65536; ++i) {
      if (i % 256 == 0) unpack_row(panels, 0, i / 256, row.data());
      const double exact =
          format == Format::f16 ? number_of_half(uint16_t(i)) : number_of_bfloat16(uint16_t(i));
      const double got = double(row[i % 256]);
      CHECK(std::isnan(exact) ? std::isnan(got) : got == exact && std::signbit(got) == (i >> 15),
            "bits %zx are %g, not %g", i, got, exact);
    }
  }
}

// Reads everything that an accepted blob claims to hold: the address sanitizer watches.
void read_all(const Panels& panels) {
  Block<float> row(panels.columns);
  for (size_t e = 0; e < panels.experts; ++e)
    for (size_t r = 0; r < panels.rows; ++r) unpack_row(panels, e, r, row.data());
}

bool is_accepted(const std::vector<uint8_t>& bytes, size_t offset = 0) {
  const Block<uint8_t> blob(bytes, offset);
  Panels panels{};
  const char* why = nullptr;
  const bool accepted = read_panels(blob.data(), blob.size(), &panels, &why);
  CHECK(accepted || why, "refused without a reason");
  if (accepted) {
    CHECK(panels.data + panels.experts * panels.expert_bytes == blob.data() + blob.size(),
          "a blob was accepted that does not end where its experts do");
    read_all(panels);
  }
  return accepted;
}

std::vector<uint8_t> good_blob(const Storage& storage, const Shape& shape) {
  Random random(1);
  return blob_of(Weight(storage, shape, &random).rows());
}

TEST(a_broken_header_is_refused) {
  const std::vector<uint8_t> floats =
      good_blob({Format::bf16, RowFormat::f32, 0, false, false}, {2, 34, 40, true, false});
  const std::vector<uint8_t> integers =
      good_blob({Format::int8, RowFormat::f32, 32, true, false}, {2, 34, 40, true, false});
  CHECK(is_accepted(floats) && is_accepted(integers), "a good header is refused");
  struct Change {
    const char* what;
    size_t at, bytes;
    uint64_t value;
    bool of_integers;
  };
  const std::vector<Change> changes = {
      {"magic", 0, 1, 'm', false},
      {"end of magic", 7, 1, 0, false},
      {"version 0", 8, 4, 0, false},
      {"version 2", 8, 4, 2, false},
      {"format 5", 12, 4, 5, false},
      {"format 2^32-1", 12, 4, 0xffffffff, false},
      {"format of another size", 12, 4, 0, false},
      {"no experts", 16, 4, 0, false},
      {"another number of experts", 16, 4, 3, false},
      {"2^32-1 experts", 16, 4, 0xffffffff, false},
      {"no rows", 20, 4, 0, false},
      {"an odd number of gated rows", 20, 4, 33, false},
      {"more rows", 20, 4, 66, false},
      {"2^32-2 rows", 20, 4, 0xfffffffe, false},
      {"no columns", 24, 4, 0, false},
      {"more columns", 24, 4, 42, false},
      {"2^32-1 columns", 24, 4, 0xffffffff, false},
      {"floats in blocks", 28, 4, 32, false},
      {"floats with zeros", 32, 4, 3, false},
      {"floats with wide scales", 32, 4, 5, false},
      {"an unknown flag", 32, 4, 9, false},
      {"the highest flag", 32, 4, 0x80000001, false},
      {"the reserved field", 36, 4, 1, false},
      {"bytes of an expert less 1", 40, 8, 0x1000 - 1, false},
      {"no bytes of an expert", 40, 8, 0, false},
      {"2^64-1 bytes of an expert", 40, 8, ~uint64_t(0), false},
      {"the tail", 48, 8, 1, false},
      {"the end of the tail", 63, 1, 1, false},
      {"blocks of 31", 28, 4, 31, true},
      {"blocks of 2^32-1", 28, 4, 0xffffffff, true},
      {"a scale per row that is not wide", 28, 4, 0, true},
      {"wide scales that are not there", 32, 4, 7, true},
      {"zeros left out", 32, 4, 1, true},
  };
  for (const Change& change : changes) {
    std::vector<uint8_t> blob = change.of_integers ? integers : floats;
    put(&blob, change.at, change.value, change.bytes);
    CHECK(!is_accepted(blob), "%s", change.what);
  }
}

TEST(a_blob_of_another_size_or_at_an_odd_address_is_refused) {
  const std::vector<uint8_t> good =
      good_blob({Format::f32, RowFormat::f32, 0, false, false}, {1, 16, 2, false, false});
  for (size_t bytes = 0; bytes < good.size(); ++bytes)
    CHECK(!is_accepted({good.begin(), good.begin() + ptrdiff_t(bytes)}), "%zu bytes", bytes);
  std::vector<uint8_t> longer = good;
  longer.push_back(0);
  CHECK(!is_accepted(longer), "one byte more");
  for (const size_t offset : {1, 4, 32}) CHECK(!is_accepted(good, offset), "offset %zu", offset);
}

// Two experts of 2^63 bytes each are 2^64: no bytes at all, to who does not look.
TEST(sizes_whose_product_wraps_around_are_refused) {
  std::vector<uint8_t> blob(kHeader);
  std::memcpy(blob.data(), "MOEPANEL", 8);
  put(&blob, 8, 1, 4);
  put(&blob, 12, uint32_t(Format::bf16), 4);
  put(&blob, 16, 2, 4);
  put(&blob, 20, uint64_t(1) << 31, 4);
  put(&blob, 24, uint64_t(1) << 31, 4);
  put(&blob, 40, uint64_t(1) << 63, 8);
  CHECK(!is_accepted(blob), "2 experts of 2^63 bytes");
  for (uint64_t bits = 0; bits < 1024; ++bits) {
    // Every field at one of the ends of its range.
    put(&blob, 12, bits % 5, 4);
    put(&blob, 16, bits & 1 ? 0xffffffff : 0x80000000, 4);
    put(&blob, 20, bits & 2 ? 0xfffffffe : 0x80000000, 4);
    put(&blob, 24, bits & 4 ? 0xffffffff : 0x80000000, 4);
    put(&blob, 28, bits & 8 ? 0xffffffe0 : bits & 16 ? 32 : 0, 4);
    put(&blob, 32, bits >> 5 & 7, 4);
    for (const uint64_t expert : {uint64_t(0), uint64_t(1) << 63, uint64_t(1) << 32}) {
      put(&blob, 40, expert, 8);
      CHECK(!is_accepted(blob), "bits %zu", size_t(bits));
    }
  }
}

TEST(no_change_of_a_byte_or_two_of_a_header_leads_astray) {
  size_t accepted = 0;
  for (const Storage& storage : usual_storages()) {
    const std::vector<uint8_t> good = good_blob(storage, {2, 18, 40, true, false});
    for (size_t at = 0; at < kHeader; ++at)
      for (const int value : {0, 1, 2, 3, 5, 16, 31, 32, 127, 128, 255}) {
        std::vector<uint8_t> blob = good;
        blob[at] = uint8_t(value);
        accepted += is_accepted(blob);
      }
    Random random(7);
    for (int i = 0; i < 2000; ++i) {
      std::vector<uint8_t> blob = good;
      for (size_t n = random.between(1, 4); n; --n)
        blob[random.one_in(2) ? 12 + 4 * random.below(7) : random.below(kHeader)] =
            uint8_t(random.one_in(2) ? random.below(64) : random.bits());
      accepted += is_accepted(blob);
    }
  }
  CHECK(accepted > 100, "nothing was accepted: this test tests nothing");
}

// Nothing behind a header can be checked, so a kernel must bear any bytes there.
LEVEL_TEST(any_bytes_behind_a_good_header_are_borne) {
  Random random(3);
  for (const Storage& storage : all_storages()) {
    const Shape shape = {2, random.between(1, 40), random.between(1, 140), false, false};
    std::vector<uint8_t> bytes = blob_of(Weight(storage, shape, &random).rows());
    for (size_t i = kHeader; i < bytes.size(); ++i) bytes[i] = uint8_t(random.bits());
    const Block<uint8_t> blob(bytes);
    Panels panels;
    const char* why = "";
    CHECK(read_panels(blob.data(), blob.size(), &panels, &why), "%s", why);
    const size_t rows = 9;
    Block<float> x(rows * shape.columns), y(rows * shape.rows);
    for (float& number : x) number = float(random.normal());
    Block<uint8_t> scratch(grouped_matmul_scratch(isa, panels, storage.rows, rows));
    const Block<int32_t> offsets(std::vector<int32_t>{0, 4, 9});
    grouped_matmul(isa, panels, nullptr, storage.rows, x.data(), offsets.data(), rows, y.data(),
                   scratch.data(), serial());
    read_all(panels);
  }
}

TEST(asking_for_huge_pages_costs_nothing) {
  const Block<uint8_t> bytes(3 << 20);
  advise_huge_pages(bytes.data() + 100, bytes.size() - 200);
  advise_huge_pages(bytes.data(), 10);
  advise_huge_pages(nullptr, 0);
}

}  // namespace
}  // namespace moe::tests
